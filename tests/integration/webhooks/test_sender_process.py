"""The scheduler and the sender as processes: what they promise each other, over a real broker."""

import signal
import threading
from collections.abc import Callable

import redis
from sqlalchemy import func, select

from models.database import Database
from models.deliveries import MAX_IN_FLIGHT_PER_ENDPOINT
from models.job import Job
from models.transitions import request_cancel
from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEndpoint
from tests.integration.webhooks.sender_processes import running
from tests.servers.site import Site, reply
from tests.waiting import wait_for

MakeJob = Callable[..., Job]
MakeEndpoint = Callable[..., WebhookEndpoint]


def test_a_receiver_that_hangs_does_not_delay_the_others(
    database: Database,
    environment: dict[str, str],
    receiver: Site,
    make_job: MakeJob,
    make_endpoint: MakeEndpoint,
) -> None:
    released = threading.Event()
    receiver.serve("/hangs", lambda *_: released.wait(60) and None)
    receiver.serve("/works", reply(200))
    hanging, working = make_endpoint(url=receiver.url("/hangs")), make_endpoint(url=receiver.url("/works"))
    for _ in range(12):
        _end(database, make_job(webhook_endpoint_id=hanging.id))
    for _ in range(6):
        _end(database, make_job(webhook_endpoint_id=working.id))
    with running("worker.scheduler", environment), running("worker.webhook_sender", environment):
        wait_for(lambda: _count(database, working, DeliveryStatus.DELIVERED) == 6, timeout_s=30)
        assert _asked(receiver, "/hangs") == MAX_IN_FLIGHT_PER_ENDPOINT
        assert _count(database, hanging, DeliveryStatus.PENDING) == 12
    released.set()


def test_a_message_that_is_not_json_costs_nobody_else_their_delivery(
    database: Database,
    environment: dict[str, str],
    broker_url: str,
    receiver: Site,
    make_job: MakeJob,
    make_endpoint: MakeEndpoint,
) -> None:
    receiver.serve("/works", reply(200))
    endpoint = make_endpoint(url=receiver.url("/works"))
    with running("worker.webhook_sender", environment) as sender, redis.Redis.from_url(broker_url) as broker:
        broker.lpush("render:webhooks", "this is not JSON")
        wait_for(lambda: broker.llen("render:webhooks") == 0, timeout_s=20)
        _end(database, make_job())
        with running("worker.scheduler", environment):
            wait_for(lambda: _count(database, endpoint, DeliveryStatus.DELIVERED) == 1, timeout_s=30)
        assert sender.poll() is None
        sender.send_signal(signal.SIGTERM)
        assert sender.wait(10) == 0


def test_a_sender_asked_to_stop_finishes_the_try_it_makes(
    database: Database,
    environment: dict[str, str],
    receiver: Site,
    make_job: MakeJob,
    make_endpoint: MakeEndpoint,
) -> None:
    asked, released = threading.Event(), threading.Event()
    works = reply(200)

    def slowly(handler: object, body: bytes) -> None:
        asked.set()
        released.wait(20)
        works(handler, body)  # type: ignore[arg-type]

    receiver.serve("/slow", slowly)
    endpoint = make_endpoint(url=receiver.url("/slow"))
    _end(database, make_job())
    with running("worker.scheduler", environment), running("worker.webhook_sender", environment) as sender:
        assert asked.wait(30)
        sender.send_signal(signal.SIGTERM)
        released.set()
        assert sender.wait(15) == 0
    assert _count(database, endpoint, DeliveryStatus.DELIVERED) == 1


def _end(database: Database, job: Job) -> None:
    with database.transaction() as session:
        request_cancel(session, job.id, tenant_id=job.tenant_id)


def _count(database: Database, endpoint: WebhookEndpoint, status: DeliveryStatus) -> int:
    with database.transaction() as session:
        return session.scalars(
            select(func.count())
            .select_from(WebhookDelivery)
            .where(WebhookDelivery.endpoint_id == endpoint.id, WebhookDelivery.status == status)
        ).one()


def _asked(receiver: Site, path: str) -> int:
    return len([seen for seen in receiver.seen if seen[1] == path])
