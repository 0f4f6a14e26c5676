"""Workers that are killed, at every point of a job's story."""

import time

from models.job import AttemptOutcome, JobStatus
from tests.faults.figures import record, record_lost_attempt
from tests.faults.installation import LANES, Installation
from tests.faults.strikes import Action
from tests.unit.group.conftest import members_of
from tests.waiting import wait_for
from worker.failpoints import Failpoint

DEATHS = {
    Failpoint.POPPED: "killed with the message in its hands",
    Failpoint.CLAIMED: "killed right after the claim",
    Failpoint.PREPARED: "killed before the render",
    Failpoint.BLOCK: "killed in mid-render",
    Failpoint.MEASURED: "killed before the upload",
    Failpoint.UPLOADED: "killed after the upload, before the outcome",
    Failpoint.DONE: "killed right after the outcome",
}
SLACK_S = 15.0
"""For the start of a consumer on a busy machine; a lease and a round of the reconciler come to 65 s."""


def test_a_worker_killed_anywhere_costs_one_attempt_at_most(installation: Installation) -> None:
    """Each death on a node of its own, all at once, so that no other job stands by."""
    with installation.lanes(len(DEATHS)):
        orders = {at: installation.orders.give(Action.KILL, at, lane) for at, lane in zip(DEATHS, LANES, strict=False)}
        jobs = {at: installation.submit(seconds=3, preset=lane) for at, lane in zip(DEATHS, LANES, strict=False)}
        for at, job_id in jobs.items():
            row = installation.wait_for_end(job_id, timeout_s=installation.seconds(140) + 4 * SLACK_S)
            assert row.status == JobStatus.SUCCEEDED, (at, row.error_message)
            struck = orders[at].struck
            assert struck is not None
            struck_at = struck.at
            outcomes = installation.outcomes(job_id)
            match at:
                case Failpoint.POPPED:
                    assert outcomes == [AttemptOutcome.SUCCEEDED]
                    begun = installation.attempts(job_id)[0].started_at.timestamp()
                    assert begun - struck_at < installation.seconds(65) + SLACK_S
                    record(f"worker {DEATHS[at]}", noticed_s=begun - struck_at, goes_on_s=begun - struck_at)
                case Failpoint.DONE:
                    assert outcomes == [AttemptOutcome.SUCCEEDED]
                    record(f"worker {DEATHS[at]}", noticed_s=None, goes_on_s=None)
                case _:
                    assert outcomes == [AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED], at
                    ended = installation.attempts(job_id)[0].ended_at
                    assert ended is not None
                    assert ended.timestamp() - struck_at < installation.seconds(65) + SLACK_S
                    assert row.crash_count == 1
                    record_lost_attempt(f"worker {DEATHS[at]}", installation, job_id, struck_at=struck_at)


def test_a_killed_node_leaves_no_process_and_its_job_goes_on_elsewhere(installation: Installation) -> None:
    job_id = installation.submit("seconds=0.2", seconds=3)
    installation.wait_for_row(job_id, lambda row: row.blocks_done >= 1)
    node = installation.node_of(job_id)
    groups = node.groups()
    struck_at = time.time()
    node.kill()
    gone_after_s = wait_for(lambda: members_of(groups) == [], timeout_s=5)
    row = installation.wait_for_status(job_id, JobStatus.SUCCEEDED, timeout_s=installation.seconds(140) + 4 * SLACK_S)
    assert gone_after_s < 5
    assert installation.outcomes(job_id) == [AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED]
    assert row.crash_count == 1
    record_lost_attempt("node killed in mid-render", installation, job_id, struck_at=struck_at)
