"""Ranks that die in every way, poison that kills every group, and what the node says of itself."""

import os
import signal
import time

from models.job import AttemptOutcome, JobStatus
from tests.faults.figures import record
from tests.faults.installation import LANES, Installation
from tests.unit.group.conftest import members_of
from tests.waiting import wait_for

DEATHS = {
    "exit": "a rank exits",
    "raise": "a rank raises",
    "memory": "a rank runs out of memory",
    "kill": "a rank is killed by the kernel",
    "stop": "a rank is stopped",
}
"""As `tests.unit.group.stand_in_rank` does them."""
DOWN_WITHIN_S = 5.0


def test_a_rank_that_fails_in_any_way_takes_its_group_down_and_the_job_goes_on_in_the_next(
    installation: Installation,
) -> None:
    """Within five seconds, however long the progress deadline."""
    with installation.lanes(1, ranks=2, progress_deadline_s=40.0) as (node,):
        for how, fault in DEATHS.items():
            ranks = tuple(node.rank_pids())
            assert len(ranks) == 2, how
            struck = installation.directory / f"struck-{how}"
            orders = f"rank=1 block=2 do={how} attempt=1 mark={struck}"
            job_id = installation.submit(orders, seconds=3, preset=LANES[0])
            installation.wait_for_row(job_id, lambda row: row.crash_count == 1, timeout_s=20)
            assert members_of(ranks) == [], how
            row = installation.wait_for_end(job_id)
            assert (row.status, row.attempt, row.crash_count) == (JobStatus.SUCCEEDED, 2, 1), how
            first, second = installation.attempts(job_id)
            assert (first.outcome, first.error_code) == (AttemptOutcome.CRASHED, "group_died"), how
            assert first.ended_at is not None
            struck_at = struck.stat().st_mtime
            noticed_s = first.ended_at.timestamp() - struck_at
            assert noticed_s < DOWN_WITHIN_S, how
            record(
                fault,
                noticed_s=noticed_s,
                goes_on_s=second.started_at.timestamp() - struck_at,
                repeated_s=struck_at - first.started_at.timestamp(),
            )


def test_poison_fails_its_own_job_and_nobody_elses(installation: Installation) -> None:
    poison = installation.submit("do=exit")
    others = [installation.submit() for _ in range(4)]
    row = installation.wait_for_status(poison, JobStatus.FAILED)
    assert (row.error_code, row.attempt, row.crash_count) == ("poison", 3, 3)
    for job_id in others:
        assert installation.wait_for_end(job_id).status == JobStatus.SUCCEEDED


def test_ranks_that_are_killed_at_random_moments_leave_no_process(installation: Installation) -> None:
    crashed_twice = installation.directory / "crashed-twice"
    job_id = installation.submit(f"seconds=0.2 until={crashed_twice}", seconds=10)
    for crashes in (1, 2):
        installation.wait_for_row(job_id, lambda row: row.status == JobStatus.RUNNING and row.blocks_done >= 1)
        node = installation.node_of(job_id)
        ranks = tuple(node.rank_pids())
        begun_at = installation.attempts(job_id)[-1].started_at.timestamp()
        struck_at = time.time()
        os.kill(ranks[crashes % 2], signal.SIGKILL)
        installation.wait_for_row(job_id, lambda row, crashes=crashes: row.crash_count == crashes, timeout_s=5)  # type: ignore[misc]
        noticed_s = time.time() - struck_at
        assert members_of(ranks) == []
        installation.wait_for_row(job_id, lambda row, crashes=crashes: row.attempt == crashes + 1)  # type: ignore[misc]
        begun_again = installation.attempts(job_id)[-1].started_at.timestamp()
    crashed_twice.touch()
    record(
        "a rank is killed",
        noticed_s=noticed_s,
        goes_on_s=begun_again - struck_at,
        repeated_s=struck_at - begun_at,
    )
    assert installation.wait_for_end(job_id, timeout_s=60).status == JobStatus.SUCCEEDED


def test_a_node_whose_groups_fail_again_and_again_turns_red_and_exits(installation: Installation) -> None:
    """The job is not lost: another node makes the video."""
    node = installation.new_node("broken-node", preset="broken", group_failures_allowed=1)
    node.start()
    wait_for(lambda: "health at" in node.said(), timeout_s=30)
    assert node.get("/readyz").status_code == 503
    assert node.wait_for_end(timeout_s=30) == 1
    assert "the weights are torn" in node.said()
