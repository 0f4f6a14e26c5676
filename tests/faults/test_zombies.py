"""Workers that freeze, while others take over, and wake."""

import os
import signal
import time

from models.job import AttemptOutcome, JobStatus
from tests.faults.figures import record, record_lost_attempt
from tests.faults.installation import Installation, freeze, thaw
from tests.faults.parts import Node
from tests.faults.strikes import Action
from tests.waiting import wait_for
from worker.failpoints import Failpoint

SLACK_S = 15.0


def test_a_zombie_that_wakes_with_a_finished_video_changes_nothing(installation: Installation) -> None:
    """Frozen between upload and outcome, with its whole node, until a second attempt has the job."""
    asleep = installation.orders.give(Action.FREEZE, Failpoint.UPLOADED)
    job_id = installation.submit()
    wait_for(lambda: asleep.struck is not None, timeout_s=30)
    zombie = installation.node_of(job_id)
    freeze(zombie.pid)
    assert asleep.struck is not None
    other = next(node for node in installation.nodes if node is not zombie)
    held = installation.orders.give(Action.HOLD, Failpoint.UPLOADED, other.name)
    # a lease, and once more the time of a message: the zombie may have swallowed the first
    wait_for(lambda: held.struck is not None, timeout_s=installation.seconds(135) + SLACK_S)
    before = installation.row(job_id)
    assert (before.status, before.attempt, before.crash_count) == (JobStatus.RUNNING, 2, 1)

    os.kill(asleep.struck.pid, signal.SIGCONT)  # the zombie first, before its node replaces it
    wait_for(lambda: "it is decided elsewhere" in zombie.said() or "nothing is shipped" in zombie.said(), timeout_s=20)
    after = installation.row(job_id)
    assert (after.status, after.attempt, after.result_key) == (JobStatus.RUNNING, 2, None)
    assert installation.outcomes(job_id) == [AttemptOutcome.LOST, None]

    held.release()
    thaw(zombie.pid)
    won = installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
    assert won.result_key is not None
    assert won.result_key.split("/")[-2] == "2"
    record_lost_attempt("worker and node frozen after the upload", installation, job_id, struck_at=asleep.struck.at)


def test_a_zombie_that_still_draws_stops_when_it_wakes(installation: Installation) -> None:
    job_id = installation.submit("seconds=0.4", seconds=3)
    installation.wait_for_row(job_id, lambda row: row.blocks_done >= 1)
    zombie = installation.node_of(job_id)
    struck_at = time.time()
    freeze(zombie.pid)
    installation.wait_for_row(job_id, lambda row: row.attempt == 2, timeout_s=installation.seconds(135) + SLACK_S)
    thaw(zombie.pid)
    won = installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
    assert (won.attempt, won.crash_count) == (2, 1)
    record_lost_attempt("node frozen in mid-render", installation, job_id, struck_at=struck_at)


def test_a_message_that_a_frozen_idle_worker_swallowed_is_sent_again(installation: Installation) -> None:
    """All consumers sleep and one of them gets the message; then they die with it."""
    for node in installation.nodes:
        node.wait_for_consumer()
        freeze(node.pid)
    job_id = installation.submit()
    installation.wait_for_row(job_id, lambda row: row.dispatched_at is not None)
    swallowed_at = time.time()
    for node in installation.nodes:
        node.kill()
    installation.restore()
    row = installation.wait_for_status(job_id, JobStatus.SUCCEEDED, timeout_s=installation.seconds(65) + 2 * SLACK_S)
    assert row.attempt == 1
    assert row.started_at is not None
    again_after_s = row.started_at.timestamp() - swallowed_at
    record("idle worker frozen, then killed", noticed_s=again_after_s, goes_on_s=again_after_s)


def test_a_frozen_consumer_turns_its_node_red_and_is_replaced(installation: Installation) -> None:
    node = installation.nodes[0]
    frozen = node.wait_for_consumer()
    struck_at = time.time()
    os.kill(frozen, signal.SIGSTOP)
    wait_for(lambda: _is_red(node), timeout_s=installation.seconds(12) + SLACK_S)
    red_after_s = time.time() - struck_at
    wait_for(lambda: node.consumer_pid() not in (None, frozen), timeout_s=installation.seconds(33) + SLACK_S)
    replaced_after_s = time.time() - struck_at
    wait_for(lambda: not _is_red(node), timeout_s=30)
    job_ids = [installation.submit(), installation.submit()]
    for job_id in job_ids:
        installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
    record("idle consumer frozen", noticed_s=red_after_s, goes_on_s=replaced_after_s)


def _is_red(node: Node) -> bool:
    return node.get("/readyz").status_code == 503
