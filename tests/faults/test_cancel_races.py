"""A cancel that comes at any point of a job's story, even together with a kill."""

from models.job import JobStatus
from tests.faults.installation import LANES, Installation
from tests.faults.strikes import Action
from tests.waiting import wait_for
from worker.failpoints import Failpoint

POINTS = (
    Failpoint.POPPED,
    Failpoint.CLAIMED,
    Failpoint.PREPARED,
    Failpoint.BLOCK,
    Failpoint.MEASURED,
    Failpoint.UPLOADED,
    Failpoint.DONE,
)


def test_a_cancel_at_any_point_gives_one_outcome_and_one_event(installation: Installation) -> None:
    held = {}
    for at in POINTS:
        held[at] = installation.orders.give(Action.HOLD, at)
        job_id = installation.submit()
        wait_for(lambda at=at: held[at].struck is not None, timeout_s=30)  # type: ignore[misc]
        answer = installation.cancel(job_id)
        held[at].release()
        row = installation.wait_for_end(job_id)
        if at is Failpoint.DONE:
            assert (answer, row.status) == (409, JobStatus.SUCCEEDED)
        else:
            assert answer in (200, 202), at
            assert (row.status, row.result_key) == (JobStatus.CANCELED, None), at
        assert len(installation.event_ids(job_id)) == 1, at


def test_a_cancel_whose_worker_dies_with_it_is_carried_out_by_the_scheduler(installation: Installation) -> None:
    points = dict(zip(LANES, (Failpoint.CLAIMED, Failpoint.UPLOADED), strict=False))
    with installation.lanes(len(points)):
        held = [installation.orders.give(Action.HOLD, at, lane) for lane, at in points.items()]
        job_ids = [installation.submit(preset=lane) for lane in points]
        for order in held:
            wait_for(lambda order=order: order.struck is not None, timeout_s=30)  # type: ignore[misc]
        assert [installation.cancel(job_id) for job_id in job_ids] == [202, 202]
    for job_id in job_ids:  # their nodes are gone
        row = installation.wait_for_status(job_id, JobStatus.CANCELED, timeout_s=installation.seconds(65) + 10)
        assert (row.attempt, row.crash_count) == (1, 0)
        assert len(installation.event_ids(job_id)) == 1
