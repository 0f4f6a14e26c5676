"""Repeated creating requests."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import func, select

from api.idempotency import RequestIdentity, lock_number
from models.database import Database
from models.job import Job
from models.upload import Upload
from models.webhook import WebhookEndpoint
from tests.integration.api.running import BODY, RunningApi, problem

KEY = {"Idempotency-Key": "order-4711"}


def _count(database: Database, table: type[Job] | type[Upload] | type[WebhookEndpoint]) -> int:
    with database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.mark.parametrize(
    ("path", "body", "table"),
    [
        ("/v1/jobs", BODY, Job),
        ("/v1/uploads", {"filename": "voice.wav"}, Upload),
        ("/v1/webhook-endpoints", {"url": "https://example.com/hook"}, WebhookEndpoint),
    ],
)
def test_the_same_request_gets_the_same_answer_and_creates_nothing_more(
    client: httpx.Client, database: Database, path: str, body: dict[str, str], table: type[Job]
) -> None:
    first = client.post(path, json=body, headers=KEY)
    second = client.post(path, json=dict(reversed(body.items())), headers=KEY)

    assert (first.status_code, "idempotent-replayed" in first.headers) == (201, False)
    assert (second.status_code, second.headers["idempotent-replayed"]) == (201, "true")
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    assert _count(database, table) == 1


def test_the_answer_of_then_is_given_even_after_the_job_went_on(client: httpx.Client) -> None:
    first = client.post("/v1/jobs", json=BODY, headers=KEY).json()
    client.post(f"/v1/jobs/{first['id']}/cancel")

    assert client.post("/v1/jobs", json=BODY, headers=KEY).json() == first


def test_another_request_under_the_same_key_is_refused(client: httpx.Client, database: Database) -> None:
    client.post("/v1/jobs", json=BODY, headers=KEY)

    other_body = client.post("/v1/jobs", json={**BODY, "seed": 1}, headers=KEY)
    other_path = client.post("/v1/uploads", json={"filename": "voice.wav"}, headers=KEY)

    assert problem(other_body) == (422, "idempotency_mismatch")
    assert problem(other_path) == (422, "idempotency_mismatch")
    assert (_count(database, Job), _count(database, Upload)) == (1, 0)


def test_keys_of_two_tenants_do_not_meet(client: httpx.Client, stranger: httpx.Client) -> None:
    ours = client.post("/v1/jobs", json=BODY, headers=KEY).json()
    theirs = stranger.post("/v1/jobs", json={**BODY, "seed": 1}, headers=KEY)

    assert theirs.status_code == 201
    assert theirs.json()["id"] != ours["id"]


def test_a_refused_request_may_be_corrected_under_its_key(client: httpx.Client) -> None:
    assert problem(client.post("/v1/jobs", json={**BODY, "preset": "70b"}, headers=KEY)) == (422, "unknown_preset")

    assert client.post("/v1/jobs", json=BODY, headers=KEY).status_code == 201


def test_a_request_in_flight_holds_its_key(client: httpx.Client, database: Database) -> None:
    first = client.post("/v1/jobs", json=BODY).json()
    tenant_id = _tenant_of(database, first["id"])
    lock = lock_number(RequestIdentity(tenant_id=tenant_id, key=KEY["Idempotency-Key"], sha256=b""))
    with database.transaction() as session:
        session.execute(select(func.pg_advisory_xact_lock(lock)))

        answer = client.post("/v1/jobs", json=BODY, headers=KEY)

        assert problem(answer) == (409, "idempotency_in_flight")
        assert answer.headers["retry-after"] == "1"
    assert client.post("/v1/jobs", json=BODY, headers=KEY).status_code == 201


def test_many_at_once_make_one_job(api: RunningApi, make_key: Callable[..., str], database: Database) -> None:
    key = make_key()
    together = threading.Barrier(12)

    def send() -> httpx.Response:
        with api.client(key) as client:
            client.get("/healthz")
            together.wait(timeout=20)
            return client.post("/v1/jobs", json=BODY, headers=KEY)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: send(), range(12)))

    assert {answer.status_code for answer in answers} <= {201, 409}
    assert all(problem(answer)[1] == "idempotency_in_flight" for answer in answers if answer.status_code == 409)
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert _count(database, Job) == 1


@pytest.mark.parametrize("key", ["", "k" * 256, "two words", "schlüssel"])
def test_a_key_is_up_to_255_printable_letters(client: httpx.Client, key: str) -> None:
    answer = client.post("/v1/jobs", json=BODY, headers=[(b"Idempotency-Key", key.encode())])

    assert problem(answer) == (422, "invalid_request")


def _tenant_of(database: Database, job_id: str) -> str:
    with database.transaction() as session:
        return session.get_one(Job, job_id).tenant_id
