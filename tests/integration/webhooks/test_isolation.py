"""One receiver's trouble is nobody else's: real processes, receivers that hang, and the time the others wait."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from models.database import Database
from models.job import Job
from models.transitions import request_cancel
from models.webhook import WebhookEndpoint
from tests.integration.webhooks.sender_processes import running
from tests.servers.site import Site, reply
from worker.scheduler import PUBLISH_EVERY_S

MakeJob = Callable[..., Job]
MakeEndpoint = Callable[..., WebhookEndpoint]

GOOD = 20


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a port where connections are accepted and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


@pytest.fixture
def programs(environment: dict[str, str]) -> Iterator[None]:
    """A scheduler and a sender, warm: nothing of their start is measured."""
    with ExitStack() as stack:
        for module in ("worker.scheduler", "worker.webhook_sender"):
            stack.enter_context(running(module, environment))
        yield


@pytest.mark.parametrize("hanging", [1, 40])
def test_receivers_that_hang_do_not_delay_twenty_others_by_more_than_a_second(
    programs: None,
    database: Database,
    receiver: Site,
    black_hole: str,
    make_job: MakeJob,
    make_endpoint: MakeEndpoint,
    hanging: int,
    record_property: Callable[[str, object], None],
) -> None:
    for number in range(GOOD):
        receiver.serve(f"/{number}", reply(200))
    good = [make_endpoint(url=receiver.url(f"/{number}")) for number in range(GOOD)]
    _waits(database, receiver, make_job, good)  # the programs are up
    alone = _waits(database, receiver, make_job, good)
    stuck = [make_endpoint(url=black_hole) for _ in range(hanging)]
    for endpoint in stuck:
        for _ in range(4):
            _end(database, make_job(webhook_endpoint_id=endpoint.id))
    beside_them = _waits(database, receiver, make_job, good)
    # the scheduler looks so often, and an event that has just missed it waits for so long without any neighbour
    delay = max(beside_them) - max(PUBLISH_EVERY_S, *alone)
    record_property("seconds alone, beside those that hang", (max(alone), max(beside_them)))
    print(f"{hanging} hanging: alone {max(alone):.2f} s, beside them {max(beside_them):.2f} s, delay {delay:.2f} s")
    assert delay < 1


def _waits(database: Database, receiver: Site, make_job: MakeJob, endpoints: list[WebhookEndpoint]) -> list[float]:
    """Seconds from the end of a job to its event at the receiver, one job for each endpoint, all ended at once."""
    receiver.seen.clear()
    jobs = [make_job(webhook_endpoint_id=endpoint.id) for endpoint in endpoints]
    started = time.monotonic()
    for job in jobs:
        _end(database, job)
    arrived: dict[str, float] = {}
    while len(arrived) < len(jobs):
        assert time.monotonic() < started + 14, "they waited for those that hang"
        for _, path, _, _ in list(receiver.seen):
            arrived.setdefault(path, time.monotonic() - started)
        time.sleep(0.01)
    return list(arrived.values())


def _end(database: Database, job: Job) -> None:
    with database.transaction() as session:
        request_cancel(session, job.id, tenant_id=job.tenant_id)
