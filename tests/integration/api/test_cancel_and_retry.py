"""Canceling and retrying jobs."""

import datetime as dt
from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import text

from models.database import Database
from models.job import Job, Phase
from models.transitions import claim, confirm_cancel, expire_overdue, fail, heartbeat
from tests.integration.api.outputs import finish
from tests.integration.api.running import RunningApi, problem


def test_a_queued_job_is_canceled_at_once_and_canceling_again_is_fine(
    client: httpx.Client, make_job: Callable[..., Job]
) -> None:
    job = make_job()

    answers = [client.post(f"/v1/jobs/{job.id}/cancel") for _ in range(2)]

    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(200, "canceled")] * 2
    assert answers[0].json()["completed_at"] == answers[1].json()["completed_at"]


def test_a_running_job_goes_on_until_its_worker_confirms(
    client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    with database.transaction() as session:
        claim(session, job.id, worker="gpu-1", preset="tiny")

    asked = [client.post(f"/v1/jobs/{job.id}/cancel") for _ in range(2)]
    with database.transaction() as session:
        answer = heartbeat(session, job.id, attempt=1, phase=Phase.RENDERING, blocks_done=1, blocks_total=9)
        assert answer == "cancel_requested"
        confirm_cancel(session, job.id, attempt=1)
    after = client.post(f"/v1/jobs/{job.id}/cancel")

    assert [(answer.status_code, answer.json()["status"]) for answer in asked] == [(202, "running")] * 2
    assert asked[0].json()["cancel_requested_at"] == asked[1].json()["cancel_requested_at"] is not None
    assert (after.status_code, after.json()["status"]) == (200, "canceled")


def test_an_ended_job_cannot_be_canceled(
    api: RunningApi, client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    succeeded, failed = make_job(), make_job()
    finish(database, api, succeeded)
    _fail(database, failed)

    for job in (succeeded, failed):
        assert problem(client.post(f"/v1/jobs/{job.id}/cancel")) == (409, "job_ended")


@pytest.mark.parametrize("end", ["failed", "canceled", "expired"])
def test_an_unlucky_job_is_repeated_as_a_new_one(
    client: httpx.Client, database: Database, make_job: Callable[..., Job], end: str
) -> None:
    job = make_job(custom_id="lesson", labels={"a": "b"}, seed=7, priority="high", deadline_at=_in_an_hour())
    if end == "failed":
        _fail(database, job)
    elif end == "canceled":
        client.post(f"/v1/jobs/{job.id}/cancel")
    else:
        _expire(database, job)

    answer = client.post(f"/v1/jobs/{job.id}/retry")

    assert answer.status_code == 201
    new, old = answer.json(), client.get(f"/v1/jobs/{job.id}").json()
    assert answer.headers["location"] == f"/v1/jobs/{new['id']}"
    assert new["id"] != old["id"]
    assert new.items() >= {"status": "queued", "retry_of": job.id, "attempt": 0, "error": None}.items()
    for kept in ("input", "metadata", "custom_id", "priority"):
        assert new[kept] == old[kept]
    assert old["status"] == end
    assert (new["deadline"] is None) == (end == "expired")


def test_a_job_that_succeeded_or_is_under_way_is_not_retried(
    api: RunningApi, client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    succeeded, queued = make_job(), make_job()
    finish(database, api, succeeded)

    for job in (succeeded, queued):
        assert problem(client.post(f"/v1/jobs/{job.id}/retry")) == (409, "job_not_retryable")
    assert len(client.get("/v1/jobs").json()["data"]) == 2


def test_a_repeated_retry_request_makes_one_job(
    client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    _fail(database, job)

    answers = [client.post(f"/v1/jobs/{job.id}/retry", headers={"Idempotency-Key": "again"}) for _ in range(2)]

    assert answers[0].json() == answers[1].json()
    assert len(client.get("/v1/jobs").json()["data"]) == 2


def _in_an_hour() -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)


def _fail(database: Database, job: Job) -> None:
    with database.transaction() as session:
        assert claim(session, job.id, worker="gpu-1", preset="tiny")
        assert fail(session, job.id, attempt=1, code="audio_silent", message="silence")


def _expire(database: Database, job: Job) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET deadline_at = now() WHERE id = :id"), {"id": job.id})
        assert expire_overdue(session) == [job.id]
