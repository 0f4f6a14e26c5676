"""Creating and reading jobs over HTTP."""

from collections.abc import Callable

import httpx
import pytest
import redis

from models.database import Database
from models.job import Job, JobStatus
from models.tenant import Tenant
from tests import factories
from tests.integration.api.running import BODY, RunningApi, eventually


def test_a_job_is_recorded_with_the_defaults_and_its_message_is_sent(
    client: httpx.Client, database: Database, broker_url: str
) -> None:
    answer = client.post("/v1/jobs", json=BODY)

    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["object"] == "job"
    assert job["status"] == "queued"
    assert job["queue_position"] == 1
    assert job["input"] == {
        **BODY,
        "video": None,
        "reference_time": None,
        "prompt": "A character is talking.",
        "seed": 0,
        "fps": 16,
        "width": 480,
        "height": 640,
        "denoising_steps": 2,
        "duration": None,
        "length_policy": "reject",
        "preset": "tiny",
        "webhook_endpoint_id": None,
    }
    with database.transaction() as session:
        assert session.get_one(Job, job["id"]).status == JobStatus.QUEUED
    with redis.Redis.from_url(broker_url) as broker:
        eventually(lambda: job["id"] in str(broker.lrange("render:render.normal", 0, -1)) or _body_has(broker, job))


def _body_has(broker: redis.Redis, job: dict[str, str]) -> bool:
    import base64
    import json

    messages = [json.loads(raw) for raw in broker.lrange("render:render.normal", 0, -1)]
    return any(job["id"] in base64.b64decode(message["body"]).decode() for message in messages)
