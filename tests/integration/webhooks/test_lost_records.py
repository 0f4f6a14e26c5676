"""What is between a receiver's answer and the record of it: the record restarts, or the sender dies."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from sqlalchemy import select, text
from standardwebhooks import Webhook

from infra.local.postgres import EmbeddedPostgres
from models.database import Database, create_database_engine
from models.job import Job
from models.transitions import request_cancel
from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookTry
from tests import factories
from tests.factories import SECRET
from tests.integration.webhooks.sender_processes import running
from tests.servers.site import Site, reply
from tests.waiting import wait_for
from worker.outbound import AddressPolicy, Client
from worker.tasks import webhooks
from worker.tasks.webhooks import DeliveryDesk, deliver


@pytest.fixture
def own_database(own_postgres: EmbeddedPostgres) -> Iterator[Database]:
    database = Database(create_database_engine(own_postgres.url, application_name="tests", pool_size=2))
    yield database
    database.close()


def test_what_was_received_is_recorded_when_the_record_comes_back_and_not_sent_again(
    own_postgres: EmbeddedPostgres, own_database: Database, receiver: Site
) -> None:
    delivery_id = _delivery(own_database, url=receiver.url("/hook"))
    works, crashed = reply(200), threading.Event()

    def crash_the_record(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        own_postgres.kill()
        crashed.set()
        works(handler, body)

    receiver.serve("/hook", crash_the_record)
    with _delivering(own_database, delivery_id) as thread:
        assert crashed.wait(20)
        thread.join(1)  # it tries to write, in vain
        assert thread.is_alive()
        own_postgres.start()  # by this thread: the server ends with the one that started it
    assert len(receiver.seen) == 1
    row, tries = _read(own_database, delivery_id)
    assert (row.status, [tried.response_status for tried in tries]) == (DeliveryStatus.DELIVERED, [200])


def test_a_record_that_restarts_before_the_claim_costs_a_moment(
    own_postgres: EmbeddedPostgres, own_database: Database, receiver: Site
) -> None:
    receiver.serve("/hook", reply(200))
    delivery_id = _delivery(own_database, url=receiver.url("/hook"))
    own_postgres.kill()
    with _delivering(own_database, delivery_id) as thread:
        thread.join(1)
        assert thread.is_alive()
        own_postgres.start()
    assert _read(own_database, delivery_id)[0].status == DeliveryStatus.DELIVERED


def test_a_record_that_stays_away_is_given_up_and_the_event_is_sent_again_under_its_id(
    own_postgres: EmbeddedPostgres, own_database: Database, receiver: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RECORD_PATIENCE_S", 0.5)
    delivery_id = _delivery(own_database, url=receiver.url("/hook"))
    works = reply(200)

    def crash_the_record(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        own_postgres.kill()
        works(handler, body)

    receiver.serve("/hook", crash_the_record)
    desk = DeliveryDesk(database=own_database, client=Client(AddressPolicy.ANY))
    deliver(desk, delivery_id)
    own_postgres.start()
    row, tries = _read(own_database, delivery_id)
    assert (row.status, tries) == (DeliveryStatus.PENDING, [])
    receiver.serve("/hook", works)
    deliver(desk, delivery_id)
    assert len(receiver.seen) == 1  # the first sender has it for a minute, for all that is known
    _let_the_minute_pass(own_database)
    deliver(desk, delivery_id)
    first, second = receiver.seen
    assert (first[2]["webhook-id"], first[3]) == (second[2]["webhook-id"], second[3])
    assert _read(own_database, delivery_id)[0].status == DeliveryStatus.DELIVERED


def test_a_sender_killed_after_the_answer_is_replaced_and_the_receiver_sees_the_same_id_again(
    database: Database,
    environment: dict[str, str],
    receiver: Site,
    make_job: Callable[..., Job],
    make_endpoint: Callable[..., WebhookEndpoint],
) -> None:
    senders: list[subprocess.Popen[bytes]] = []
    works = reply(200)

    def kill_the_first(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if len(receiver.seen) == 1:  # the answer is on its way; who would write it down is dead
            senders[0].send_signal(signal.SIGKILL)
            senders[0].wait(10)
        works(handler, body)

    receiver.serve("/hook", kill_the_first)
    endpoint = make_endpoint(url=receiver.url("/hook"))
    job = make_job(webhook_endpoint_id=endpoint.id)
    with database.transaction() as session:
        request_cancel(session, job.id, tenant_id=job.tenant_id)
        delivery_id = session.scalars(select(WebhookDelivery.id)).one()
    with running("worker.scheduler", environment), running("worker.webhook_sender", environment) as first:
        senders.append(first)
        wait_for(lambda: first.poll() is not None, timeout_s=40)
        assert first.returncode == -signal.SIGKILL
        assert _read(database, delivery_id)[1] == []
        with running("worker.webhook_sender", environment):
            _let_the_minute_pass(database)
            wait_for(lambda: _read(database, delivery_id)[0].status == DeliveryStatus.DELIVERED, timeout_s=40)
    (_, _, before, body), (_, _, after, same_body) = receiver.seen
    assert (before["webhook-id"], body) == (after["webhook-id"], same_body)
    assert int(after["webhook-timestamp"]) > int(before["webhook-timestamp"])
    Webhook(SECRET).verify(same_body, after)
    assert [tried.number for tried in _read(database, delivery_id)[1]] == [1]


@contextmanager
def _delivering(database: Database, delivery_id: str) -> Iterator[threading.Thread]:
    """A try in a thread of its own, which has ended when the block has."""
    desk = DeliveryDesk(database=database, client=Client(AddressPolicy.ANY))
    thread = threading.Thread(target=deliver, args=[desk, delivery_id], daemon=True)
    thread.start()
    yield thread
    thread.join(20)
    assert not thread.is_alive()


def _delivery(database: Database, *, url: str) -> str:
    with database.transaction() as session:
        tenant = factories.add_tenant(session)
        factories.add_endpoint(session, tenant_id=tenant.id, url=url)
        job = factories.add_job(session, tenant_id=tenant.id)
        request_cancel(session, job.id, tenant_id=tenant.id)
        return session.scalars(select(WebhookDelivery.id)).one()


def _read(database: Database, delivery_id: str) -> tuple[WebhookDelivery, list[WebhookTry]]:
    with database.transaction() as session:
        tries = select(WebhookTry).where(WebhookTry.delivery_id == delivery_id).order_by(WebhookTry.number)
        return session.get_one(WebhookDelivery, delivery_id), list(session.scalars(tries))


def _let_the_minute_pass(database: Database) -> None:
    """As if the lock and the message were a minute older; and the clock's next second begins."""
    started = int(time.time())
    while int(time.time()) == started:
        time.sleep(0.02)
    with database.transaction() as session:
        session.execute(
            text(
                "UPDATE webhook_deliveries SET locked_until = locked_until - interval '61 s',"
                " dispatched_at = dispatched_at - interval '61 s'"
            )
        )
