"""The same thing asked for several times: one job, one claim, one outcome, one event."""

from concurrent.futures import ThreadPoolExecutor

from models.job import AttemptOutcome, JobStatus
from models.queues import Priority
from tests.faults.installation import PRESET, Installation
from worker.publisher import Publisher


def test_a_request_that_is_repeated_makes_one_job(installation: Installation) -> None:
    with ThreadPoolExecutor(5) as pool:
        together = set(pool.map(lambda _: installation.submit(key="the-same"), range(5)))
    assert len(together) == 1
    assert {installation.submit(key="the-same")} == together
    (job_id,) = together
    installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
    assert {installation.submit(key="the-same")} == together


def test_five_messages_for_one_job_make_one_attempt(installation: Installation) -> None:
    job_id = installation.submit("seconds=0.1", seconds=3)
    with Publisher(installation.valkey.url) as publisher:
        for _ in range(5):
            publisher.wake_for_render(job_id, preset=PRESET, priority=Priority.NORMAL)
        row = installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
        for _ in range(5):  # and for one that has ended
            publisher.wake_for_render(job_id, preset=PRESET, priority=Priority.NORMAL)
    last = installation.submit()
    installation.wait_for_status(last, JobStatus.SUCCEEDED)
    assert row.attempt == 1
    assert installation.outcomes(job_id) == [AttemptOutcome.SUCCEEDED]
    assert len(installation.event_ids(job_id)) == 1
