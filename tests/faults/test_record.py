"""A record that crashes, is away for longer than a lease, or freezes."""

import time

from models.job import AttemptOutcome, JobStatus
from tests.faults.figures import record
from tests.faults.installation import Installation, freeze, thaw
from tests.faults.strikes import Action
from tests.waiting import wait_for
from worker.failpoints import Failpoint

SLACK_S = 15.0
AWAY = "the database is away"


def test_no_acknowledged_job_is_lost_when_the_record_crashes_again_and_again(installation: Installation) -> None:
    job_ids = []
    for _ in range(3):
        job_ids += [installation.submit("seconds=0.1", seconds=3) for _ in range(2)]
        installation.postgres.kill()
        installation.postgres.start()
        back_at = time.time()
    job_ids.append(installation.submit())
    for job_id in job_ids:
        row = installation.wait_for_status(
            job_id, JobStatus.SUCCEEDED, timeout_s=installation.seconds(200) + 2 * SLACK_S
        )
        # a claim whose reply was lost is left to its lease: that counts as a crash, and is no reason to fail
        assert row.attempt <= 3
    begun = installation.attempts(job_ids[-1])[0].started_at.timestamp()
    record("Postgres crashes and recovers, three times", noticed_s=None, goes_on_s=begun - back_at)


def test_a_commit_whose_reply_a_crash_swallowed_is_read_again(installation: Installation) -> None:
    held = installation.orders.give(Action.HOLD, Failpoint.UPLOADED)
    job_id = installation.submit()
    wait_for(lambda: held.struck is not None, timeout_s=30)
    installation.postgres.kill()
    held.release()
    time.sleep(installation.seconds(5))
    installation.postgres.start()
    row = installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
    assert (row.attempt, row.crash_count) == (1, 0)
    assert installation.outcomes(job_id) == [AttemptOutcome.SUCCEEDED]


def test_a_worker_aborts_by_itself_when_the_record_is_away_for_longer_than_its_lease(
    installation: Installation,
) -> None:
    block_s = max(0.3, installation.seconds(2))  # so that all sixty take longer than a lease
    job_id = installation.submit(f"seconds={block_s}", seconds=30)
    installation.wait_for_row(job_id, lambda row: row.blocks_done >= 1)
    node = installation.node_of(job_id)
    away_at = time.time()
    installation.postgres.kill()
    try:
        wait_for(lambda: "nothing is shipped" in node.said(), timeout_s=installation.seconds(50) + SLACK_S)
        aborted_after_s = time.time() - away_at
        assert aborted_after_s > installation.seconds(40)
        time.sleep(max(0.0, away_at + installation.seconds(90) - time.time()))
    finally:
        installation.postgres.start()
    back_at = time.time()
    installation.wait_for_row(job_id, lambda row: row.attempt == 2, timeout_s=installation.seconds(130) + 2 * SLACK_S)
    assert installation.outcomes(job_id)[0] == AttemptOutcome.LOST
    begun = installation.attempts(job_id)[1].started_at.timestamp()
    assert installation.cancel(job_id) in (200, 202)  # as it is long, and the rest of it proves nothing
    installation.wait_for_status(job_id, JobStatus.CANCELED)
    record(
        "Postgres away for 90 s",
        noticed_s=aborted_after_s,
        goes_on_s=begun - back_at,
        repeated_s=aborted_after_s,
    )


def test_a_frozen_record_holds_the_scheduler_and_the_workers_up_for_a_while_only(installation: Installation) -> None:
    job_id = installation.submit("seconds=0.3", seconds=3)
    installation.wait_for_row(job_id, lambda row: row.blocks_done >= 1)
    outages = installation.scheduler.said().count(AWAY)
    frozen_at = time.time()
    freeze(installation.postgres.pid)
    try:
        wait_for(
            lambda: installation.scheduler.said().count(AWAY) > outages,
            timeout_s=installation.seconds(45) + SLACK_S,
        )
        noticed_after_s = time.time() - frozen_at
    finally:
        thaw(installation.postgres.pid)
    thawed_at = time.time()
    installation.wait_for_status(job_id, JobStatus.SUCCEEDED, timeout_s=installation.seconds(200) + 2 * SLACK_S)
    last = installation.submit()
    installation.wait_for_status(last, JobStatus.SUCCEEDED, timeout_s=installation.seconds(130) + SLACK_S)
    begun = installation.attempts(last)[0].started_at.timestamp()
    record("Postgres frozen", noticed_s=noticed_after_s, goes_on_s=begun - thawed_at, repeated_s=None)
