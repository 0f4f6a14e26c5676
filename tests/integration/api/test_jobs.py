"""Creating and reading jobs over HTTP."""

import base64
import datetime as dt
import json
from collections.abc import Callable

import httpx
import pytest
import redis

from models.batch import Batch
from models.database import Database
from models.ids import IdPrefix, new_id
from models.job import Job, JobStatus, Phase
from models.tenant import Tenant
from models.transitions import claim, fail, heartbeat
from models.webhook import WebhookEndpoint
from models.worker_node import WorkerNode
from tests.integration.api.outputs import VIDEO, finish
from tests.integration.api.running import BODY, RunningApi, problem, wrong_fields
from tests.waiting import wait_for


def test_a_job_is_recorded_with_the_defaults(client: httpx.Client, database: Database, tenant: Tenant) -> None:
    answer = client.post("/v1/jobs", json=BODY)

    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job.items() >= {"object": "job", "status": "queued", "queue_position": 1, "priority": "normal"}.items()
    assert job["input"] == {
        **BODY,
        "video": None,
        "reference_time": None,
        "prompt": "A character is talking.",
        "seed": 0,
        "fps": 16,
        "size_policy": "exact",
        "width": 480,
        "height": 640,
        "denoising_steps": 2,
        "audio_mode": "windowed",
        "sink_rotation": "exact",
        "duration": None,
        "length_policy": "reject",
        "preset": "tiny",
        "webhook_endpoint_id": None,
    }
    with database.transaction() as session:
        row = session.get_one(Job, job["id"])
        assert (row.tenant_id, row.status) == (tenant.id, JobStatus.QUEUED)


def test_the_message_of_an_accepted_job_waits_for_a_worker(
    client: httpx.Client, broker_url: str, database: Database
) -> None:
    job = client.post("/v1/jobs", json={**BODY, "priority": "high"}).json()

    with redis.Redis.from_url(broker_url, socket_timeout=5) as broker:
        wait_for(lambda: broker.llen("render:render.tiny.high") == 1)
        message = json.loads(broker.lindex("render:render.tiny.high", 0))
    assert message["headers"]["task"] == "realvideo.render"
    assert json.loads(base64.b64decode(message["body"]))[0] == [job["id"]]
    with database.transaction() as session:
        assert session.get_one(Job, job["id"]).dispatched_at is not None


def test_everything_that_was_asked_for_is_kept(client: httpx.Client, make_endpoint: Callable[..., object]) -> None:
    endpoint = make_endpoint()
    assert isinstance(endpoint, WebhookEndpoint)
    asked = {
        "audio": "s3://inputs/voice.wav",
        "video": "https://example.com/face.mp4",
        "reference_time": 1.5,
        "prompt": "Eine Frau spricht – ruhig.",
        "seed": 2**53 - 1,
        "fps": 25,
        "width": 640,
        "height": 352,
        "size_policy": "exact",
        "denoising_steps": 4,
        "audio_mode": "reference",
        "sink_rotation": "reference_rounding",
        "duration": 12.5,
        "length_policy": "pad",
        "preset": "14b",
        "webhook_endpoint_id": endpoint.id,
    }
    about = {"custom_id": "lesson-7", "metadata": {"title": "Lektion 7"}, "deadline": "2999-01-01T00:00:00Z"}
    deadline = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).replace(microsecond=0)
    about["deadline"] = deadline.isoformat().replace("+00:00", "Z")

    answer = client.post("/v1/jobs", json={**asked, **about, "priority": "low"})

    assert answer.status_code == 201, answer.text
    job = client.get(f"/v1/jobs/{answer.json()['id']}").json()
    assert job["input"] == {**asked, "image": None}
    assert job.items() >= {**about, "priority": "low"}.items()


WRONG_FIELDS: list[tuple[dict[str, object], str]] = [
    ({"fps": 0}, "fps"),
    ({"fps": 61}, "fps"),
    ({"fps": "16"}, "fps"),
    ({"fps": True}, "fps"),
    ({"width": 481}, "width"),
    ({"height": 0}, "height"),
    ({"denoising_steps": 3}, "denoising_steps"),
    ({"duration": 0}, "duration"),
    ({"duration": -1}, "duration"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**53}, "seed"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "a\u0000b"}, "prompt"),
    ({"audio": "voice.wav"}, "audio"),
    ({"audio": "file:///etc/passwd"}, "audio"),
    ({"audio": None}, "audio"),
    ({"priority": "urgent"}, "priority"),
    ({"deadline": "tomorrow"}, "deadline"),
    ({"deadline": "2030-01-01T00:00:00"}, "deadline"),
    ({"deadline": 1900000000}, "deadline"),
    ({"length_policy": "stretch"}, "length_policy"),
    ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ({"metadata": {"k": "v" * 513}}, "metadata"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
    ({"metadata": {"k": 1}}, "metadata"),
    ({"colour": "red"}, "colour"),
    ({"video": "https://example.com/v.mp4"}, ""),
    ({"image": None}, ""),
    ({"reference_time": 1.0}, ""),
]


def test_a_wrong_field_is_named(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for change, field in WRONG_FIELDS:
        with subtests.test(change=change):
            answer = client.post("/v1/jobs", json={**BODY, **change})

            assert problem(answer) == (422, "invalid_request")
            assert any(name.split(".")[0] == field for name in wrong_fields(answer)), answer.json()["errors"]


NOT_ALLOWED: list[tuple[dict[str, object], str, str]] = [
    ({"preset": "70b"}, "unknown_preset", "preset"),
    ({"width": 1296}, "size_out_of_limits", "width"),
    ({"height": 48}, "size_out_of_limits", "height"),
    ({"width": 1280, "height": 1280}, "size_out_of_limits", "width"),
    ({"duration": 3601}, "duration_out_of_limits", "duration"),
    ({"deadline": "2020-01-01T00:00:00Z"}, "deadline_passed", "deadline"),
    ({"deadline": "9999-12-31T23:59:59-14:00"}, "deadline_passed", "deadline"),
    ({"audio": "s3://secrets/voice.wav"}, "bucket_not_allowed", "audio"),
    ({"audio": "s3://inputs"}, "url_not_allowed", "audio"),
    ({"audio": "http://example.com/voice.wav"}, "url_not_allowed", "audio"),
    ({"image": "https://127.0.0.1/p.png"}, "url_not_allowed", "image"),
    ({"image": "https://user:word@example.com/p.png"}, "url_not_allowed", "image"),
    ({"audio": "upl_01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "upload_unknown", "audio"),
    ({"batch_id": "bat_01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "unknown_batch", "batch_id"),
    ({"webhook_endpoint_id": "we_01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "unknown_webhook_endpoint", "webhook_endpoint_id"),
]


def test_what_this_installation_does_not_allow_has_its_own_code(
    client: httpx.Client, subtests: pytest.Subtests
) -> None:
    for change, code, field in NOT_ALLOWED:
        with subtests.test(change=change):
            answer = client.post("/v1/jobs", json={**BODY, **change})

            assert problem(answer) == (422, code)
            assert wrong_fields(answer) == {field: code}


def test_all_complaints_are_told_at_once(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json={**BODY, "preset": "70b", "audio": "s3://secrets/a.wav", "height": 1296})

    assert problem(answer) == (422, "invalid_request")
    assert wrong_fields(answer) == {
        "preset": "unknown_preset",
        "audio": "bucket_not_allowed",
        "height": "size_out_of_limits",
    }


def test_a_custom_id_is_unique_in_its_batch_only(client: httpx.Client, database: Database, tenant: Tenant) -> None:
    with database.transaction() as session:
        batches = [Batch(id=new_id(IdPrefix.BATCH), tenant_id=tenant.id, name=None) for _ in range(2)]
        session.add_all(batches)

    def create(batch_id: str | None) -> httpx.Response:
        return client.post("/v1/jobs", json={**BODY, "batch_id": batch_id, "custom_id": "one"})

    assert [create(batch.id).status_code for batch in batches] == [201, 201]
    assert problem(create(batches[0].id)) == (409, "custom_id_taken")
    assert [create(None).status_code for _ in range(2)] == [201, 201]


def test_another_tenants_job_batch_and_endpoint_are_not_found(
    client: httpx.Client, stranger: httpx.Client, make_endpoint: Callable[..., WebhookEndpoint]
) -> None:
    job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    endpoint = make_endpoint()

    asked = [
        stranger.get(f"/v1/jobs/{job_id}"),
        stranger.get(f"/v1/jobs/{job_id}/events"),
        stranger.get(f"/v1/jobs/{job_id}/content"),
        stranger.post(f"/v1/jobs/{job_id}/cancel"),
        stranger.post(f"/v1/jobs/{job_id}/retry"),
    ]

    assert [problem(answer) for answer in asked] == [(404, "not_found")] * 5
    assert stranger.get("/v1/jobs").json()["data"] == []
    answer = stranger.post("/v1/jobs", json={**BODY, "webhook_endpoint_id": endpoint.id})
    assert problem(answer) == (422, "unknown_webhook_endpoint")
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"


def test_a_running_job_shows_its_phase_and_progress(
    client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    with database.transaction() as session:
        claimed = claim(session, job.id, worker="gpu-1", preset="tiny")
        assert claimed is not None
        heartbeat(session, job.id, attempt=1, phase=Phase.RENDERING, blocks_done=3, blocks_total=8)

    answer = client.get(f"/v1/jobs/{job.id}")

    seen = answer.json()
    assert answer.headers["retry-after"] == "2"
    assert seen.items() >= {"status": "running", "phase": "rendering", "attempt": 1, "queue_position": None}.items()
    assert seen["progress"] == {"blocks_done": 3, "blocks_total": 8}
    assert seen["started_at"] is not None
    assert seen["completed_at"] is None


def test_a_failed_job_tells_why(client: httpx.Client, database: Database, make_job: Callable[..., Job]) -> None:
    job = make_job()
    with database.transaction() as session:
        assert claim(session, job.id, worker="gpu-1", preset="tiny")
        fail(session, job.id, attempt=1, code="audio_silent", message="There is no speech.")

    answer = client.get(f"/v1/jobs/{job.id}")

    assert answer.json()["error"] == {"code": "audio_silent", "message": "There is no speech."}
    assert answer.json()["completed_at"] is not None
    assert "retry-after" not in answer.headers


def test_the_output_is_as_measured_and_its_link_works_without_a_key(
    api: RunningApi, client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    finish(database, api, job)

    output = client.get(f"/v1/jobs/{job.id}").json()["output"]

    url = output.pop("url")
    assert output == {
        "duration": 4.0,
        "frames": 64,
        "fps": 16,
        "width": 480,
        "height": 640,
        "bytes": len(VIDEO),
        "sha256": "0" * 64,
        "warnings": [],
    }
    assert httpx.get(url, trust_env=False).content == VIDEO


def test_an_unchanged_job_is_not_sent_again(
    client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    etag = client.get(f"/v1/jobs/{job.id}").headers["etag"]

    again = client.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": f'"other", {etag}'})
    with database.transaction() as session:
        claim(session, job.id, worker="gpu-1", preset="tiny")
    changed = client.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": etag})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert again.headers["retry-after"] == "5"
    assert (changed.status_code, changed.headers["etag"] != etag) == (200, True)


def test_the_place_in_the_queue_counts_priorities_and_every_tenant(
    client: httpx.Client, stranger: httpx.Client
) -> None:
    def create(of: httpx.Client, priority: str) -> str:
        return str(of.post("/v1/jobs", json={**BODY, "priority": priority}).json()["id"])

    low, first, _, high = (
        create(client, "low"), create(client, "normal"), create(stranger, "normal"), create(stranger, "high"),
    )  # fmt: skip
    last = create(client, "normal")

    listed = client.get("/v1/jobs").json()["data"]
    assert {job["id"]: job["queue_position"] for job in listed} == {first: 2, last: 4, low: 5}
    assert stranger.get(f"/v1/jobs/{high}").json()["queue_position"] == 1


def test_the_end_is_guessed_from_the_pace_of_recent_jobs(
    api: RunningApi, client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    finished, running, queued = make_job(blocks_total=10), make_job(), make_job()
    assert client.get(f"/v1/jobs/{queued.id}").json()["eta"] is None
    finish(database, api, finished)  # at 310 ms a block
    with database.transaction() as session:
        session.add(
            WorkerNode(
                name="gpu-1", state="busy", preset="tiny", ranks=1, devices=[], version="1",
                last_seen_at=dt.datetime.now(dt.UTC),
            )
        )  # fmt: skip
        session.flush()
        claim(session, running.id, worker="gpu-1", preset="tiny")
        heartbeat(session, running.id, attempt=1, phase=Phase.RENDERING, blocks_done=5, blocks_total=25)

    def seconds_left(job: Job) -> float:
        eta = dt.datetime.fromisoformat(client.get(f"/v1/jobs/{job.id}").json()["eta"])
        return (eta - dt.datetime.now(dt.UTC)).total_seconds()

    assert seconds_left(running) == pytest.approx(20 * 0.31, abs=1)
    assert seconds_left(queued) == pytest.approx(10 * 0.31, abs=1)
    assert client.get(f"/v1/jobs/{finished.id}").json()["eta"] is None
    etag = client.get(f"/v1/jobs/{queued.id}").headers["etag"]
    assert client.get(f"/v1/jobs/{queued.id}", headers={"If-None-Match": etag}).status_code == 304
