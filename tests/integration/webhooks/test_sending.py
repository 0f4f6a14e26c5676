"""One try of a delivery after another, to a real receiver on loopback, by a real record."""

import contextlib
import email.utils
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest
from sqlalchemy import select, text
from standardwebhooks import Webhook

from models.database import Database
from models.job import Job
from models.replays import ReplayAnswer, replay
from models.tenant import Tenant
from models.transitions import request_cancel
from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookTry
from tests.factories import SECRET
from tests.servers.site import Answer, Site, reply
from worker.outbound import AddressPolicy, Client
from worker.tasks import webhooks
from worker.tasks.webhooks import DeliveryDesk, deliver

MakeJob = Callable[..., Job]
MakeEndpoint = Callable[..., WebhookEndpoint]


@pytest.fixture
def desk(database: Database) -> DeliveryDesk:
    return DeliveryDesk(database=database, client=Client(AddressPolicy.ANY))


@pytest.fixture
def make_delivery(
    database: Database, make_job: MakeJob, make_endpoint: MakeEndpoint, receiver: Site
) -> Callable[..., str]:
    """`make_delivery(**columns of the endpoint)`: the delivery of a canceled job to an endpoint at the receiver."""

    def make(**columns: object) -> str:
        endpoint = make_endpoint(**{"url": receiver.url("/hook"), **columns})
        job = make_job(webhook_endpoint_id=endpoint.id)
        with database.transaction() as session:
            request_cancel(session, job.id, tenant_id=job.tenant_id)
            return session.scalars(select(WebhookDelivery.id).where(WebhookDelivery.endpoint_id == endpoint.id)).one()

    return make


MakeDelivery = Callable[..., str]


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other; the last one again and again."""
    left = list(answers)

    def answer(handler: object, body: bytes) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler, body)  # type: ignore[arg-type]

    return answer


def test_a_delivered_event_verifies_and_says_what_happened(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery
) -> None:
    receiver.serve("/hook", reply(204))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    ((method, _, headers, body),) = receiver.seen
    event = Webhook(SECRET).verify(body, headers)
    assert method == "POST"
    assert headers["content-type"] == "application/json"
    assert (event["type"], event["data"]["status"]) == ("job.canceled", "canceled")
    assert _row(database, delivery_id).status == DeliveryStatus.DELIVERED
    assert [tried.response_status for tried in _tries(database, delivery_id)] == [204]


def test_a_delivered_event_is_not_sent_again_by_a_second_message(
    desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery
) -> None:
    receiver.serve("/hook", reply(200))
    delivery_id = make_delivery()
    for _ in range(3):
        deliver(desk, delivery_id)
    assert len(receiver.seen) == 1


def test_after_a_500_the_same_event_comes_again_with_its_id_and_a_new_timestamp(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery
) -> None:
    receiver.serve("/hook", in_turn(reply(500), reply(200)))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    deliver(desk, delivery_id)  # not due for five seconds
    assert len(receiver.seen) == 1
    _let_a_second_and_the_wait_pass(database)
    deliver(desk, delivery_id)
    first, second = ((headers, body) for _, _, headers, body in receiver.seen)
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    assert int(second[0]["webhook-timestamp"]) > int(first[0]["webhook-timestamp"])
    assert first[0]["webhook-signature"] != second[0]["webhook-signature"]
    assert first[1] == second[1]
    Webhook(SECRET).verify(second[1], second[0])
    assert [tried.response_status for tried in _tries(database, delivery_id)] == [500, 200]
    assert _row(database, delivery_id).status == DeliveryStatus.DELIVERED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery, status: int
) -> None:
    receiver.serve("/hook", reply(status, location=receiver.url("/elsewhere")))
    receiver.serve("/elsewhere", reply(200))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    assert [path for _, path, _, _ in receiver.seen] == ["/hook"]
    (tried,) = _tries(database, delivery_id)
    assert tried.response_status == status
    assert "redirects are not followed" in str(tried.error)
    assert _row(database, delivery_id).status == DeliveryStatus.PENDING


def test_a_410_disables_the_endpoint_with_a_reason(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery
) -> None:
    receiver.serve("/hook", reply(410))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    row = _row(database, delivery_id)
    assert row.status == DeliveryStatus.DEAD
    with database.transaction() as session:
        endpoint = session.get_one(WebhookEndpoint, row.endpoint_id)
        assert endpoint.disabled_at is not None
        assert "410" in str(endpoint.disabled_reason)


def test_retry_after_is_honoured(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery
) -> None:
    receiver.serve("/hook", reply(503, retry_after="900"))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    with database.transaction() as session:
        until = session.execute(
            text("SELECT extract(epoch FROM next_try_at - now()) AS wait FROM webhook_deliveries")
        ).one()
    assert float(until.wait) == pytest.approx(900, abs=10)


def test_a_date_to_retry_after_is_honoured(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery
) -> None:
    receiver.serve("/hook", reply(429, retry_after=email.utils.formatdate(time.time() + 1200, usegmt=True)))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    with database.transaction() as session:
        wait = session.scalar(text("SELECT extract(epoch FROM next_try_at - now()) FROM webhook_deliveries"))
    assert wait is not None
    assert float(wait) == pytest.approx(1200, abs=10)


def test_an_answer_that_is_lost_leads_to_the_same_id_with_a_new_timestamp(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery
) -> None:
    def take_it_and_hang_up(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    receiver.serve("/hook", in_turn(take_it_and_hang_up, reply(200)))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    assert _row(database, delivery_id).status == DeliveryStatus.PENDING
    _let_a_second_and_the_wait_pass(database)
    deliver(desk, delivery_id)
    (_, _, first, first_body), (_, _, second, second_body) = receiver.seen
    assert (first["webhook-id"], first_body) == (second["webhook-id"], second_body)
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])
    for headers in (first, second):
        Webhook(SECRET).verify(first_body, headers)
    assert [tried.response_status for tried in _tries(database, delivery_id)] == [None, 200]
    assert _row(database, delivery_id).status == DeliveryStatus.DELIVERED


def test_a_receiver_that_drips_its_answer_costs_the_timeout_and_no_more(
    database: Database,
    desk: DeliveryDesk,
    receiver: Site,
    make_delivery: MakeDelivery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 1.0)
    released = threading.Event()

    def drip(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nX-Patience: " + b"a" * 400:
                handler.connection.sendall(bytes([byte]))
                if released.wait(0.1):
                    return

    receiver.serve("/hook", drip)
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    released.set()
    (tried,) = _tries(database, delivery_id)
    assert tried.response_status is None
    assert tried.duration_ms == pytest.approx(1000, abs=500)


@pytest.mark.parametrize("secret", ["whsec_not base64", "a secret of another kind"])
def test_an_error_of_ours_is_a_try_too_and_does_not_come_again_at_once(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery, secret: str
) -> None:
    receiver.serve("/hook", reply(200))
    delivery_id = make_delivery(secret=secret)
    deliver(desk, delivery_id)
    assert receiver.seen == []
    (tried,) = _tries(database, delivery_id)
    assert tried.error == "The event could not be sent: an internal error."
    row = _row(database, delivery_id)
    assert (row.status, row.schedule_step, row.locked_until) == (DeliveryStatus.PENDING, 1, None)


def test_a_wish_that_no_clock_can_hold_does_not_lose_the_try(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery
) -> None:
    receiver.serve("/hook", reply(503, retry_after="Sun, 01 Mar 99999999999999999999 12:01:30 GMT"))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    assert [tried.response_status for tried in _tries(database, delivery_id)] == [503]


def test_during_a_rotation_both_secrets_sign(desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery) -> None:
    receiver.serve("/hook", reply(200))
    old = "whsec_" + "b2xk" * 8
    deliver(desk, make_delivery(previous_secret=old))
    ((_, _, headers, body),) = receiver.seen
    for secret in (SECRET, old):
        Webhook(secret).verify(body, headers)


def test_a_replay_sends_the_same_event_once_more(
    database: Database, desk: DeliveryDesk, receiver: Site, make_delivery: MakeDelivery, tenant: Tenant
) -> None:
    receiver.serve("/hook", reply(200))
    delivery_id = make_delivery()
    deliver(desk, delivery_id)
    with database.transaction() as session:
        assert replay(session, delivery_id, tenant_id=tenant.id) == ReplayAnswer.ACCEPTED
    deliver(desk, delivery_id)
    first, second = receiver.seen
    assert (first[2]["webhook-id"], first[3]) == (second[2]["webhook-id"], second[3])
    assert [tried.number for tried in _tries(database, delivery_id)] == [1, 2]


def test_a_sender_goes_on_with_what_is_due_while_it_goes_well(
    database: Database, desk: DeliveryDesk, receiver: Site, make_job: MakeJob, make_endpoint: MakeEndpoint
) -> None:
    works = reply(200)
    receiver.serve("/hook", in_turn(*[works] * 6, reply(500), works))
    endpoint = make_endpoint(url=receiver.url("/hook"))
    for _ in range(9):
        job = make_job()
        with database.transaction() as session:
            request_cancel(session, job.id, tenant_id=job.tenant_id)
    ids = _ids(database, endpoint)
    deliver(desk, ids[0])
    assert len(receiver.seen) == 7
    assert len({headers["webhook-id"] for _, _, headers, _ in receiver.seen}) == 7
    left = [row for one in ids if (row := _row(database, one)).status == DeliveryStatus.PENDING]
    assert sorted(row.tries for row in left) == [0, 0, 1]  # after a failure the others wait for their message


def test_a_sender_that_is_slow_leaves_the_rest_to_others(
    database: Database,
    desk: DeliveryDesk,
    receiver: Site,
    make_delivery: MakeDelivery,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "IN_A_ROW_S", 0.2)
    works = reply(200)

    def slowly(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        time.sleep(0.3)
        works(handler, body)

    receiver.serve("/hook", slowly)
    delivery_id = make_delivery()
    job = make_job(webhook_endpoint_id=_row(database, delivery_id).endpoint_id)
    with database.transaction() as session:
        request_cancel(session, job.id, tenant_id=job.tenant_id)
    deliver(desk, delivery_id)
    assert len(receiver.seen) == 1


def test_a_receiver_that_never_answers_costs_the_timeout_and_no_more(
    database: Database,
    desk: DeliveryDesk,
    receiver: Site,
    make_delivery: MakeDelivery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.5)
    released = threading.Event()
    receiver.serve("/hook", lambda *_: released.wait(20) and None)
    delivery_id = make_delivery()
    started = time.monotonic()
    deliver(desk, delivery_id)
    assert time.monotonic() - started < 5
    released.set()
    (tried,) = _tries(database, delivery_id)
    assert tried.response_status is None
    assert tried.error
    assert tried.duration_ms == pytest.approx(500, abs=400)


def test_a_receiver_that_is_not_there_is_tried_again_later(
    database: Database, desk: DeliveryDesk, make_delivery: MakeDelivery
) -> None:
    delivery_id = make_delivery(url="http://127.0.0.1:1/hook")
    deliver(desk, delivery_id)
    (tried,) = _tries(database, delivery_id)
    assert (tried.response_status, _row(database, delivery_id).status) == (None, DeliveryStatus.PENDING)


def test_private_addresses_are_not_reached_unless_allowed(
    database: Database, receiver: Site, make_delivery: MakeDelivery
) -> None:
    receiver.serve("/hook", reply(200))
    delivery_id = make_delivery()
    deliver(DeliveryDesk(database=database, client=Client(AddressPolicy.PUBLIC)), delivery_id)
    assert receiver.seen == []
    (tried,) = _tries(database, delivery_id)
    assert (tried.response_status, _row(database, delivery_id).status) == (None, DeliveryStatus.PENDING)
    assert tried.error


def _let_a_second_and_the_wait_pass(database: Database) -> None:
    started = int(time.time())
    while int(time.time()) == started:  # timestamps are in seconds
        time.sleep(0.02)
    with database.transaction() as session:
        session.execute(text("UPDATE webhook_deliveries SET next_try_at = now()"))


def _row(database: Database, delivery_id: str) -> WebhookDelivery:
    with database.transaction() as session:
        return session.get_one(WebhookDelivery, delivery_id)


def _tries(database: Database, delivery_id: str) -> list[WebhookTry]:
    with database.transaction() as session:
        rows = select(WebhookTry).where(WebhookTry.delivery_id == delivery_id).order_by(WebhookTry.number)
        return list(session.scalars(rows))


def _ids(database: Database, endpoint: WebhookEndpoint) -> list[str]:
    with database.transaction() as session:
        rows = select(WebhookDelivery.id).where(WebhookDelivery.endpoint_id == endpoint.id).order_by(WebhookDelivery.id)
        return list(session.scalars(rows))
