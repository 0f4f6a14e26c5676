"""Long jobs whose workers die around a checkpoint: they go on from the last whole one, and leave nothing behind."""

import re
from pathlib import Path

from models.job import Job, JobStatus
from models.object_keys import checkpoint_prefix
from tests.faults.checker import etags_of, left_by_the_collector
from tests.faults.figures import record
from tests.faults.installation import CHECKPOINT_EVERY_S, OUTPUTS, Installation
from tests.faults.strikes import Action, Order
from tests.integration.worker.stand_in_video_rank import BLOCKS_PER_PIECE
from tests.waiting import wait_for
from worker.failpoints import Failpoint

SECONDS = 30
BLOCK_S = 1.5
"""By the clock: a piece is drawn in one interval."""
SLACK_S = 15.0


def test_a_worker_killed_around_its_second_checkpoint_costs_what_was_drawn_since_the_last_whole_one(
    installation: Installation,
) -> None:
    job_id, hurry = _submit_long(installation, name="twice-killed")
    # killed with the second checkpoint stored and not on record: the first one has to be whole still
    installation.wait_for_row(
        job_id, lambda row: row.checkpoint_key is not None, timeout_s=installation.seconds(240) + SLACK_S
    )
    first = installation.row(job_id).checkpoint_key
    struck_at = _wait_for_strike(installation, installation.orders.give(Action.KILL, Failpoint.KEPT, job_id))
    drawn = installation.row(job_id).blocks_done
    assert installation.row(job_id).checkpoint_key == first
    # and killed again with the second one on record and the first one not deleted
    killed = installation.orders.give(Action.KILL, Failpoint.CHECKPOINT, job_id)
    installation.wait_for_row(job_id, lambda row: row.attempt == 2, timeout_s=installation.seconds(140) + SLACK_S)
    lost, again = installation.attempts(job_id)
    assert lost.ended_at is not None
    repeated_s = (drawn - BLOCKS_PER_PIECE) * installation.seconds(BLOCK_S)
    record(
        "worker killed in mid-render, 30 s of video",
        noticed_s=lost.ended_at.timestamp() - struck_at,
        goes_on_s=again.started_at.timestamp() - struck_at,
        repeated_s=repeated_s,
    )
    assert repeated_s <= 1.3 * installation.seconds(CHECKPOINT_EVERY_S)
    _wait_for_strike(installation, killed)
    assert installation.row(job_id).checkpoint_key != first
    hurry.touch()
    row = _succeeded(installation, job_id)
    assert (row.attempt, row.crash_count) == (3, 2)
    assert _beginnings(installation, job_id) == {2: BLOCKS_PER_PIECE, 3: 2 * BLOCKS_PER_PIECE}
    _is_the_video_of_one_that_was_never_broken_off(installation, row)


def test_a_worker_killed_before_its_first_checkpoint_is_recorded_costs_the_attempt_and_leaves_no_orphan(
    installation: Installation,
) -> None:
    job_id, hurry = _submit_long(installation, name="killed-once")
    _wait_for_strike(installation, installation.orders.give(Action.KILL, Failpoint.KEPT, job_id))
    assert _kept(installation, job_id), "stored, and named by nobody"
    assert installation.row(job_id).checkpoint_key is None
    # so that nobody but the collector can delete what is kept
    killed = installation.orders.give(Action.KILL, Failpoint.DONE, job_id)
    hurry.touch()
    row = _succeeded(installation, job_id)
    assert (row.attempt, row.crash_count) == (2, 1)
    assert _beginnings(installation, job_id) == {}, "from its first block"
    _wait_for_strike(installation, killed)
    assert _kept(installation, job_id)
    _is_the_video_of_one_that_was_never_broken_off(installation, row)
    installation.restore()
    installation.wait_for_all_ends(timeout_s=installation.seconds(140) + 60)
    assert left_by_the_collector(installation) == []


def _submit_long(installation: Installation, *, name: str) -> tuple[str, Path]:
    """A job that is drawn slowly, until that file is there."""
    hurry = installation.directory / name
    pace = installation.seconds(BLOCK_S)
    return installation.submit(f"seconds={pace:g} until={hurry}", seconds=SECONDS), hurry


def _wait_for_strike(installation: Installation, order: Order) -> float:
    wait_for(lambda: order.struck is not None, timeout_s=installation.seconds(240) + SLACK_S)
    assert order.struck is not None
    return order.struck.at


def _succeeded(installation: Installation, job_id: str) -> Job:
    return installation.wait_for_status(job_id, JobStatus.SUCCEEDED, timeout_s=installation.seconds(240) + 2 * SLACK_S)


def _beginnings(installation: Installation, job_id: str) -> dict[int, int]:
    """By attempt, the block where it went on, as the ranks say in the logs."""
    logs = "".join(node.log.read_text(errors="replace") for node in installation.nodes)
    return {int(attempt): int(block) for attempt, block in re.findall(rf"{job_id}\.(\d+) goes on at block (\d+)", logs)}


def _kept(installation: Installation, job_id: str) -> list[str]:
    prefix = checkpoint_prefix(tenant_id=installation.tenant_id, job_id=job_id)
    return [key for key in etags_of(installation.s3, bucket=OUTPUTS) if key.startswith(prefix)]


def _is_the_video_of_one_that_was_never_broken_off(installation: Installation, row: Job) -> None:
    twin = _succeeded(installation, installation.submit("seconds=0.001", seconds=SECONDS))
    assert twin.attempt == 1
    assert row.output is not None
    assert twin.output is not None
    assert row.output["sha256"] == twin.output["sha256"]
