"""Webhook endpoints and what was delivered to them."""

import base64
import datetime as dt
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, text

from api import deliveries
from models.database import Database
from models.deliveries import TryResult, claim_delivery, record_try, take_due_deliveries
from models.job import Job
from models.tenant import Tenant
from models.transitions import request_cancel
from models.webhook import WebhookDelivery, WebhookEndpoint, WebhookEvent
from tests.integration.api.running import api_settings, problem, running_api, wrong_fields

URL = "https://example.com/webhooks"


def create(client: httpx.Client, **fields: object) -> dict[str, object]:
    answer = client.post("/v1/webhook-endpoints", json={"url": URL, **fields})
    assert answer.status_code == 201, answer.text
    created = answer.json()
    assert answer.headers["location"] == f"/v1/webhook-endpoints/{created['id']}"
    assert isinstance(created, dict)
    return created


def test_a_secret_is_shown_once(client: httpx.Client, database: Database) -> None:
    created = create(client, events=["job.failed"])

    secret = str(created["secret"])
    assert secret.startswith("whsec_")
    assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64
    read = client.get(f"/v1/webhook-endpoints/{created['id']}")
    listed = client.get("/v1/webhook-endpoints")
    assert secret not in read.text + listed.text
    assert read.json() == {name: value for name, value in created.items() if name != "secret"}
    assert listed.json()["data"] == [read.json()]
    with database.transaction() as session:
        assert session.get_one(WebhookEndpoint, created["id"]).secret == secret


def test_after_a_rotation_the_old_secret_is_valid_for_a_day(client: httpx.Client, database: Database) -> None:
    created = create(client)

    rotated = client.post(f"/v1/webhook-endpoints/{created['id']}/rotate-secret").json()

    assert rotated["secret"] != created["secret"]
    with database.transaction() as session:
        row = session.get_one(WebhookEndpoint, created["id"])
        assert (row.secret, row.previous_secret) == (rotated["secret"], created["secret"])
        assert row.previous_secret_expires_at is not None
        left = row.previous_secret_expires_at - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=23, minutes=59) < left <= dt.timedelta(hours=24)
    assert dt.datetime.fromisoformat(rotated["previous_secret_expires_at"]) == row.previous_secret_expires_at


def test_an_endpoint_is_changed_field_by_field(client: httpx.Client) -> None:
    created = create(client)
    path = f"/v1/webhook-endpoints/{created['id']}"

    off = client.patch(path, json={"enabled": False}).json()
    moved = client.patch(path, json={"url": "https://example.org/new", "events": ["job.succeeded"]}).json()
    on = client.patch(path, json={"enabled": True}).json()

    assert (off["enabled"], off["disabled_reason"], off["url"]) == (False, "disabled by its owner", URL)
    assert (moved["url"], moved["events"], moved["enabled"]) == ("https://example.org/new", ["job.succeeded"], False)
    assert (on["enabled"], on["disabled_reason"]) == (True, None)
    assert client.get(path).json() == on


def test_a_deleted_endpoint_is_gone_and_its_row_is_kept(client: httpx.Client, database: Database) -> None:
    created = create(client)
    path = f"/v1/webhook-endpoints/{created['id']}"

    assert client.delete(path).status_code == 204

    assert client.get("/v1/webhook-endpoints").json()["data"] == []
    for answer in (
        client.get(path),
        client.delete(path),
        client.patch(path, json={}),
        client.get(f"{path}/deliveries"),
    ):
        assert problem(answer) == (404, "not_found")
    with database.transaction() as session:
        assert session.get_one(WebhookEndpoint, created["id"]).deleted_at is not None


REFUSED = [
    "http://example.com/hook", "https://localhost/hook", "https://127.0.0.1/hook", "https://10.1.2.3/hook",
    "https://192.168.1.1/", "https://172.16.0.1/", "https://169.254.169.254/latest", "https://100.64.0.1/",
    "https://[::1]/hook", "https://[fd00::1]/", "https://[64:ff9b::7f00:1]/", "https://[::ffff:10.0.0.1]/",
    "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/", "https://0/",
    "https://printer.local/", "https://db.internal/", "https://intranet/", "https://user@example.com/",
    "https://example.com/#part", "https://example.com:0/", "https://example.com:99999/", "https://example.com\\@10.0.0.1/",
]  # fmt: skip


def test_only_public_https_urls_are_taken(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for url in REFUSED:
        with subtests.test(url):
            answer = client.post("/v1/webhook-endpoints", json={"url": url})

            assert problem(answer) == (422, "url_not_allowed")
            assert wrong_fields(answer) == {"url": "url_not_allowed"}
    created = create(client, url="https://93.184.216.34:8443/hook?a=b")
    answer = client.patch(f"/v1/webhook-endpoints/{created['id']}", json={"url": "http://example.com/"})
    assert problem(answer) == (422, "url_not_allowed")


def test_private_http_urls_are_taken_where_the_operator_allows_them(
    database_url: str, broker_url: str, tmp_path: Path, make_key: Callable[..., str]
) -> None:
    settings = api_settings(database_url, broker_url, tmp_path / "objects", allow_http_urls=True)
    with running_api(settings) as api, api.client(make_key()) as client:
        for url in ("http://127.0.0.1:8080/hook", "http://receiver:8080/", "http://[::1]:1/"):
            create(client, url=url)
        for url in ("ftp://example.com/", "http://user@example.com/"):
            answer = client.post("/v1/webhook-endpoints", json={"url": url})
            assert answer.status_code == 422


def test_another_tenants_endpoint_and_deliveries_are_not_found(
    client: httpx.Client, stranger: httpx.Client, delivery: WebhookDelivery
) -> None:
    path = f"/v1/webhook-endpoints/{delivery.endpoint_id}"
    asked = [
        stranger.get(path),
        stranger.patch(path, json={"enabled": False}),
        stranger.delete(path),
        stranger.post(f"{path}/rotate-secret"),
        stranger.get(f"{path}/deliveries"),
        stranger.get(f"{path}/deliveries/{delivery.id}"),
        stranger.post(f"{path}/deliveries/{delivery.id}/replay"),
    ]

    assert [problem(answer) for answer in asked] == [(404, "not_found")] * 7
    assert stranger.get("/v1/webhook-endpoints").json()["data"] == []
    assert client.get(path).json()["enabled"] is True


@pytest.fixture
def delivery(
    database: Database, tenant: Tenant, make_job: Callable[..., Job], make_endpoint: Callable[..., WebhookEndpoint]
) -> WebhookDelivery:
    """The news of a canceled job, not sent yet."""
    make_endpoint()
    job = make_job()
    with database.transaction() as session:
        request_cancel(session, job.id, tenant_id=tenant.id)
        return session.scalars(select(WebhookDelivery)).one()


def test_a_delivery_tells_each_try(client: httpx.Client, database: Database, delivery: WebhookDelivery) -> None:
    path = f"/v1/webhook-endpoints/{delivery.endpoint_id}/deliveries"
    waiting = client.get(path).json()["data"]
    _try(database, delivery, response_status=500)
    _try(database, delivery, response_status=None, error="timeout")
    _try(database, delivery, response_status=200)

    seen = client.get(f"{path}/{delivery.id}").json()

    assert [(one["status"], one["tries"], one["event_type"]) for one in waiting] == [("pending", 0, "job.canceled")]
    assert (seen["status"], seen["tries"], seen["next_try_at"]) == ("delivered", 3, None)
    assert [(one["number"], one["response_status"], one["error"]) for one in seen["history"]] == [
        (1, 500, None),
        (2, None, "timeout"),
        (3, 200, None),
    ]
    assert client.get(path, params={"status": "pending"}).json()["data"] == []
    assert [one["id"] for one in client.get(path, params={"status": "delivered"}).json()["data"]] == [delivery.id]


def test_an_ended_delivery_is_sent_again_under_the_same_id(
    client: httpx.Client, database: Database, delivery: WebhookDelivery
) -> None:
    path = f"/v1/webhook-endpoints/{delivery.endpoint_id}/deliveries/{delivery.id}"
    assert problem(client.post(f"{path}/replay")) == (409, "delivery_pending")
    _try(database, delivery, response_status=200)

    replayed = client.post(f"{path}/replay")

    assert replayed.status_code == 202
    assert replayed.json().items() >= {"status": "pending", "tries": 1, "event_id": delivery.event_id}.items()
    _try(database, delivery, response_status=204)
    assert [one["number"] for one in client.get(path).json()["history"]] == [1, 2]


def test_the_events_of_a_range_of_time_are_sent_again_and_no_others(
    client: httpx.Client, stranger: httpx.Client, database: Database, tenant: Tenant,
    make_job: Callable[..., Job], make_endpoint: Callable[..., WebhookEndpoint],
) -> None:  # fmt: skip
    endpoint, other = make_endpoint(), make_endpoint()
    names = ("before", "first", "delivered", "pending", "second", "at the end")
    ids = dict(zip(names, (_delivery(database, tenant, make_job, endpoint) for _ in names), strict=True))
    elsewhere = _delivery(database, tenant, make_job, other)
    for hour, name in enumerate(names):
        status = name if name in ("delivered", "pending") else "dead"
        _set(database, ids[name], hour=hour, status=status)
    _set(database, elsewhere, hour=2, status="dead")
    wanted = {"since": "2026-03-01T01:00:00Z", "until": "2026-03-01T06:00:00+01:00"}
    path = f"/v1/webhook-endpoints/{endpoint.id}/replay"

    assert problem(stranger.post(path, json=wanted)) == (404, "not_found")
    answer = client.post(path, json=wanted)

    assert (answer.status_code, answer.json()["replayed"], answer.json()["next"]) == (202, 2, None)
    assert _pending(database) == {ids["first"], ids["second"], ids["pending"]}
    both = client.post(path, json={**wanted, "statuses": ["dead", "delivered"]}).json()
    assert (both["replayed"], _pending(database)) == (1, {ids[name] for name in names[1:5]})
    assert client.post(path, json={"since": "2026-03-01T05:00:00Z"}).json()["replayed"] == 1
    assert client.post(path, json={"since": "2026-03-01T00:00:00Z"}).json()["replayed"] == 1
    assert elsewhere not in _pending(database)


def test_a_large_range_is_sent_again_piece_by_piece_and_each_event_once(
    client: httpx.Client, database: Database, tenant: Tenant, make_job: Callable[..., Job],
    make_endpoint: Callable[..., WebhookEndpoint], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(deliveries, "MOST_AT_ONCE", 2)
    endpoint = make_endpoint()
    ids = [_delivery(database, tenant, make_job, endpoint) for _ in range(5)]
    wanted: dict[str, object] = {"since": "2026-03-01T00:00:00Z", "statuses": ["delivered"]}
    for delivery_id in ids:
        _set(database, delivery_id, hour=1, status="delivered")
    path, counts = f"/v1/webhook-endpoints/{endpoint.id}/replay", []
    for _ in range(3):
        answer = client.post(path, json=wanted).json()
        counts.append(answer["replayed"])
        with database.transaction() as session:  # they arrive before the next piece is asked for
            session.execute(text("UPDATE webhook_deliveries SET status = 'delivered' WHERE status = 'pending'"))
        wanted["after"] = answer["next"]
    assert (counts, answer["next"]) == ([2, 2, 1], None)


def test_a_replay_of_a_range_that_is_repeated_under_its_key_is_one_replay(
    client: httpx.Client, database: Database, tenant: Tenant, make_job: Callable[..., Job],
    make_endpoint: Callable[..., WebhookEndpoint],
) -> None:  # fmt: skip
    endpoint = make_endpoint()
    delivery_id = _delivery(database, tenant, make_job, endpoint)
    _set(database, delivery_id, hour=1, status="dead")
    path, key = f"/v1/webhook-endpoints/{endpoint.id}/replay", {"Idempotency-Key": "again-1"}
    first = client.post(path, json={"since": "2026-03-01T00:00:00Z"}, headers=key)
    _set(database, delivery_id, hour=1, status="dead")
    second = client.post(path, json={"since": "2026-03-01T00:00:00Z"}, headers=key)
    assert first.json() == second.json()
    assert _pending(database) == set()


@pytest.mark.parametrize(
    "body",
    [{}, {"since": "yesterday"}, {"since": "2026-03-01T00:00:00"}, {"since": "2026-03-01T00:00:00Z", "statuses": []},
     {"since": "2026-03-01T00:00:00Z", "statuses": ["pending"]}, {"since": "2026-03-01T00:00:00Z", "after": "x"},
     {"since": "2026-03-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"}],
)  # fmt: skip
def test_a_range_that_is_none_is_refused(
    client: httpx.Client, make_endpoint: Callable[..., WebhookEndpoint], body: dict[str, object]
) -> None:
    answer = client.post(f"/v1/webhook-endpoints/{make_endpoint().id}/replay", json=body)
    assert problem(answer) == (422, "invalid_request")
    assert "DeliveryStatus" not in answer.text


def test_nothing_of_a_range_is_sent_again_to_a_disabled_endpoint(
    client: httpx.Client, make_endpoint: Callable[..., WebhookEndpoint]
) -> None:
    endpoint = make_endpoint(disabled_at=dt.datetime.now(dt.UTC), disabled_reason="gone")
    answer = client.post(f"/v1/webhook-endpoints/{endpoint.id}/replay", json={"since": "2026-03-01T00:00:00Z"})
    assert problem(answer) == (409, "endpoint_disabled")


def test_nothing_is_sent_again_to_a_disabled_endpoint(
    client: httpx.Client, database: Database, delivery: WebhookDelivery
) -> None:
    path = f"/v1/webhook-endpoints/{delivery.endpoint_id}"
    _try(database, delivery, response_status=410)

    seen = client.get(path).json()
    answer = client.post(f"{path}/deliveries/{delivery.id}/replay")

    assert (seen["enabled"], seen["disabled_reason"] is not None) == (False, True)
    assert problem(answer) == (409, "endpoint_disabled")
    client.patch(path, json={"enabled": True})
    assert client.post(f"{path}/deliveries/{delivery.id}/replay").status_code == 202


def test_deliveries_come_in_pages(
    client: httpx.Client, database: Database, tenant: Tenant, make_job: Callable[..., Job],
    make_endpoint: Callable[..., WebhookEndpoint],
) -> None:  # fmt: skip
    endpoint = make_endpoint()
    for _ in range(3):
        job = make_job()
        with database.transaction() as session:
            request_cancel(session, job.id, tenant_id=tenant.id)
    path = f"/v1/webhook-endpoints/{endpoint.id}/deliveries"

    first = client.get(path, params={"limit": 2}).json()
    rest = client.get(path, params={"limit": 2, "after": first["next"]}).json()

    assert (first["has_more"], rest["has_more"], rest["next"]) == (True, False, None)
    ids = [one["id"] for one in first["data"] + rest["data"]]
    assert ids == sorted(set(ids), reverse=True)
    assert len(ids) == 3


def _try(
    database: Database, delivery: WebhookDelivery, *, response_status: int | None, error: str | None = None
) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE webhook_deliveries SET next_try_at = now()"))
    with database.transaction() as session:
        assert take_due_deliveries(session) == [delivery.id]
        claimed = claim_delivery(session, delivery.id)
        assert claimed is not None
        record_try(session, claimed, TryResult(duration_ms=5.0, response_status=response_status, error=error))


def _delivery(database: Database, tenant: Tenant, make_job: Callable[..., Job], endpoint: WebhookEndpoint) -> str:
    """The news of one more canceled job for this endpoint."""
    job = make_job(webhook_endpoint_id=endpoint.id)
    with database.transaction() as session:
        request_cancel(session, job.id, tenant_id=tenant.id)
        event = select(WebhookEvent.id).where(WebhookEvent.job_id == job.id)
        return session.scalars(select(WebhookDelivery.id).where(WebhookDelivery.event_id.in_(event))).one()


def _set(database: Database, delivery_id: str, *, hour: int, status: str) -> None:
    """As if it had been created at this hour of a day in March, and stood like this."""
    with database.transaction() as session:
        session.execute(
            text("UPDATE webhook_deliveries SET created_at = :at, status = :status WHERE id = :id"),
            {"at": dt.datetime(2026, 3, 1, hour, tzinfo=dt.UTC), "status": status, "id": delivery_id},
        )


def _pending(database: Database) -> set[str]:
    with database.transaction() as session:
        return set(session.scalars(select(WebhookDelivery.id).where(WebhookDelivery.status == "pending")))
