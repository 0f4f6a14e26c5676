"""A broker that loses everything, dies, freezes, or holds garbage."""

import time

import redis

from models.job import AttemptOutcome, JobStatus
from models.queues import BROKER_SETTINGS, Priority, render_queue
from tests.faults.figures import record
from tests.faults.installation import Installation, freeze, thaw
from tests.waiting import wait_for

SLACK_S = 15.0
PREFIX = str(BROKER_SETTINGS["broker_transport_options"]["global_keyprefix"])


def test_a_wiped_broker_loses_no_job_and_interrupts_no_render(installation: Installation) -> None:
    running = [installation.submit("seconds=0.3", seconds=10) for _ in installation.nodes]
    for job_id in running:
        installation.wait_for_row(job_id, lambda row: row.blocks_done >= 1)
    waiting = [installation.submit() for _ in range(3)]
    wiped_at = time.time()
    with redis.Redis.from_url(installation.valkey.url, socket_timeout=5) as client:
        client.flushall()
    _all_succeed_once(installation, running, waiting, since=wiped_at, fault="broker wiped (FLUSHALL)")


def test_a_broker_that_dies_three_times_loses_no_job_and_interrupts_no_render(installation: Installation) -> None:
    running = [installation.submit("seconds=0.3", seconds=10) for _ in installation.nodes]
    for job_id in running:
        installation.wait_for_row(job_id, lambda row: row.blocks_done >= 1)
    waiting = []
    for _ in range(3):
        waiting.append(installation.submit())
        died_at = time.time()
        installation.valkey.kill()
        waiting.append(installation.submit())
        installation.valkey.start()
    _all_succeed_once(installation, running, waiting, since=died_at, fault="broker killed three times, empty each time")


def test_while_the_broker_is_half_open_jobs_are_accepted_and_are_made_afterwards(installation: Installation) -> None:
    installation.wait_for_status(installation.submit(), JobStatus.SUCCEEDED)
    freeze(installation.valkey.pid)
    frozen_at = time.time()
    job_ids = []
    while time.time() - frozen_at < installation.seconds(60):
        asked_at = time.time()
        job_ids.append(installation.submit())
        assert time.time() - asked_at < 5
        time.sleep(installation.seconds(15))
    thaw(installation.valkey.pid)
    thawed_at = time.time()
    for job_id in job_ids:
        row = installation.wait_for_status(
            job_id, JobStatus.SUCCEEDED, timeout_s=installation.seconds(125) + 2 * SLACK_S
        )
        assert row.attempt == 1
    begun = min(installation.attempts(job_id)[0].started_at.timestamp() for job_id in job_ids)
    assert begun - thawed_at < installation.seconds(60) + SLACK_S
    record("broker frozen for 60 s", noticed_s=None, goes_on_s=begun - thawed_at)


def test_garbage_in_the_queue_costs_a_consumer_and_no_warm_group(installation: Installation) -> None:
    before = {node.name: (node.rank_pids(), node.wait_for_consumer()) for node in installation.nodes}
    with redis.Redis.from_url(installation.valkey.url, socket_timeout=5) as client:
        struck_at = time.time()
        client.lpush(PREFIX + render_queue("tiny", Priority.NORMAL), b"\x80 no JSON")

    def hit() -> list[str]:
        return [node.name for node in installation.nodes if node.consumer_pid() != before[node.name][1]]

    wait_for(lambda: hit() != [], timeout_s=20)
    noticed_at = time.time()
    job_id = installation.submit()
    row = installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
    assert [node.rank_pids() for node in installation.nodes] == [ranks for ranks, _ in before.values()]
    assert row.started_at is not None
    record(
        "garbage in the queue",
        noticed_s=noticed_at - struck_at,
        goes_on_s=row.started_at.timestamp() - struck_at,
    )


def _all_succeed_once(
    installation: Installation, running: list[str], waiting: list[str], *, since: float, fault: str
) -> None:
    for job_id in running:
        installation.wait_for_status(job_id, JobStatus.SUCCEEDED, timeout_s=60)
        assert installation.outcomes(job_id) == [AttemptOutcome.SUCCEEDED]
    for job_id in waiting:
        row = installation.wait_for_status(
            job_id, JobStatus.SUCCEEDED, timeout_s=installation.seconds(130) + 3 * SLACK_S
        )
        assert (row.attempt, row.crash_count) == (1, 0)
    last = max(installation.attempts(job_id)[0].started_at.timestamp() for job_id in waiting)
    record(fault, noticed_s=None, goes_on_s=last - since)
