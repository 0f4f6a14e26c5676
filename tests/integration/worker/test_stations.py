"""Several jobs on one real node at a time: one prepared, one drawn, some finished. Only the network is a stand-in."""

import os
import signal
import time

from sqlalchemy import select

from models import transitions
from models.job import Attempt, AttemptOutcome, Job, JobStatus, Phase
from models.transitions import CancelAnswer
from tests.integration.worker.nodes import NodeProcess, Surroundings
from tests.waiting import wait_for

DRAWN_FOR_A_WHILE = "seconds=0.2"
LONG_FILE = "file=30"
SECONDS = 12.0
"""Of sound: 24 blocks, drawn in 5 s."""


def test_jobs_stand_beside_each_other_and_the_group_goes_on_to_the_next(around: Surroundings) -> None:
    with around.node(ranks=2) as node:
        ranks = node.rank_pids()
        _one_is_prepared_and_one_finished_while_one_is_drawn(around, node)
        _a_job_is_not_taken_while_the_drawing_has_long_to_go(around)
        _a_job_that_waits_can_be_canceled(around)
        _a_file_that_fails_is_tried_again_and_others_go_on(around)
        _a_killed_consumer_lets_go_of_all_its_jobs_and_they_are_made_again(around, node)
        assert node.rank_pids() == ranks
        wait_for(lambda: list((around.directory / "work" / node.name / "attempts").iterdir()) == [])


def _one_is_prepared_and_one_finished_while_one_is_drawn(around: Surroundings, node: NodeProcess) -> None:
    measured, seen = around.directory / "measured", around.directory / "seen"
    finished = around.job(f"{LONG_FILE} file_until={measured}")
    drawn, prepared = around.job(f"{DRAWN_FOR_A_WHILE} until={seen}", seconds=SECONDS), around.job()
    for job in (finished, drawn, prepared):
        around.publish(job)
    wait_for(lambda: node.at_stations() == {"preparing": 0, "waiting": 1, "drawing": 1, "finishing": 1}, timeout_s=15)
    for job, phase in ((drawn, Phase.RENDERING), (finished, Phase.MUXING), (prepared, Phase.PREPARING)):
        wait_for(lambda job=job, phase=phase: around.row(job).phase == phase, timeout_s=2)  # type: ignore[misc]
    wait_for(lambda: _current_job(node) == drawn.id, timeout_s=2)
    measured.touch()
    around.wait_for_status(finished, JobStatus.SUCCEEDED)
    assert around.row(drawn).status == JobStatus.RUNNING, "the first was measured and stored while the second was drawn"
    around.wait_for_blocks(drawn, 6)
    seen.touch()
    for job in (finished, prepared, drawn):
        assert around.wait_for_status(job, JobStatus.SUCCEEDED).attempt == 1
    wait_for(lambda: _metric(node, "realvideo_dit_busy_seconds_total") >= 6 * 0.2)
    assert _metric(node, 'realvideo_dit_idle_seconds_total{where="between_videos"}') < 2.0


def _a_job_is_not_taken_while_the_drawing_has_long_to_go(around: Surroundings) -> None:
    drawn, other = around.job(DRAWN_FOR_A_WHILE, seconds=120), around.job()
    around.publish(drawn)
    around.wait_for_blocks(drawn, 3)
    around.publish(other)
    time.sleep(1.0)  # it would be taken at once, if it were
    assert around.row(other).status == JobStatus.QUEUED
    _cancel(around, drawn)
    around.wait_for_status(other, JobStatus.SUCCEEDED)


def _a_job_that_waits_can_be_canceled(around: Surroundings) -> None:
    drawn, waiting = around.job(DRAWN_FOR_A_WHILE, seconds=SECONDS), around.job()
    _publish_until_it_waits(around, drawn, waiting)
    _cancel(around, waiting)
    assert around.wait_for_status(waiting, JobStatus.CANCELED, timeout_s=4).attempt == 1
    assert around.row(drawn).status == JobStatus.RUNNING
    _cancel(around, drawn)


def _a_file_that_fails_is_tried_again_and_others_go_on(around: Surroundings) -> None:
    broken, sound = around.job("file=0.5 file_do=interrupt"), around.job("seconds=0.1", seconds=5)
    around.publish(broken)
    around.publish(sound)
    wait_for(lambda: around.row(broken).error_retries == 1)
    assert _outcomes(around, broken) == [(AttemptOutcome.ERROR, "node_disk")]
    assert around.wait_for_status(sound, JobStatus.SUCCEEDED).attempt == 1


def _a_killed_consumer_lets_go_of_all_its_jobs_and_they_are_made_again(around: Surroundings, node: NodeProcess) -> None:
    jobs = _one_at_each_station(around, node)
    consumer = node.consumer_pid()
    assert consumer is not None
    os.kill(consumer, signal.SIGKILL)
    wait_for(lambda: set(node.at_stations().values()) == {0}, timeout_s=5)
    following = around.job()
    around.publish(following)
    around.wait_for_status(following, JobStatus.SUCCEEDED)
    _expire_all(around, jobs)
    for job in jobs:
        assert (around.row(job).status, around.row(job).crash_count) == (JobStatus.QUEUED, 1)
        _cancel(around, job)  # made again they would take long


def test_a_node_with_long_to_draw_leaves_messages_to_others(around: Surroundings) -> None:
    with around.node(name="node-1") as busy:
        long = around.job(DRAWN_FOR_A_WHILE, seconds=120)
        around.publish(long)
        around.wait_for_blocks(long, 3)
        with around.node(name="node-2"):
            short = [around.job() for _ in range(4)]
            for job in short:
                around.publish(job)
            for job in short:
                around.wait_for_status(job, JobStatus.SUCCEEDED, timeout_s=20)
            assert {_worker_of(around, job) for job in short} == {"node-2"}
        assert around.row(long).status == JobStatus.RUNNING
        assert busy.at_stations()["drawing"] == 1


def test_a_group_that_dies_is_a_crash_of_the_drawn_job_only(around: Surroundings) -> None:
    with around.node(ranks=2) as node:
        finished, drawn, waiting = _one_at_each_station(around, node)
        os.kill(node.rank_pids()[1], signal.SIGKILL)
        wait_for(lambda: around.row(drawn).crash_count == 1, timeout_s=10)
        assert around.wait_for_status(waiting, JobStatus.SUCCEEDED).attempt == 1
        wait_for(lambda: around.row(finished).error_retries == 1)
        row = around.row(finished)
        assert (row.status, row.crash_count) == (JobStatus.QUEUED, 0)
        assert _outcomes(around, finished) == [(AttemptOutcome.ERROR, "group_died")]


def test_a_drain_hands_back_who_waits_and_finishes_what_is_drawn(around: Surroundings) -> None:
    with around.node(ranks=2) as node:
        handed_back = around.directory / "handed-back"
        finished, drawn, waiting = _one_at_each_station(around, node, finished=f"{LONG_FILE} file_until={handed_back}")
        told_at = time.monotonic()
        node.send(signal.SIGTERM)
        for job in (drawn, waiting):
            row = around.wait_for_status(job, JobStatus.QUEUED, timeout_s=5)
            assert (row.crash_count, row.error_retries) == (0, 0)
            assert _outcomes(around, job) == [(AttemptOutcome.DRAINED, None)]
        assert time.monotonic() - told_at < 3.0
        assert around.row(finished).status == JobStatus.RUNNING, node.log.read_text()
        handed_back.touch()
        assert node.wait_for_end(timeout_s=20) == 0
        assert around.row(finished).status == JobStatus.SUCCEEDED
        assert node.survivors() == []


def test_a_file_that_takes_longer_than_the_grace_of_a_drain_is_handed_back(around: Surroundings) -> None:
    with around.node(ranks=2, drain_grace_s=6) as node:
        job = around.job(LONG_FILE)
        around.publish(job)
        wait_for(lambda: node.at_stations()["finishing"] == 1, timeout_s=15)
        told_at = time.monotonic()
        node.send(signal.SIGTERM)
        assert node.wait_for_end(timeout_s=20) == 0
        assert time.monotonic() - told_at < 10
        row = around.row(job)
        assert (row.status, row.crash_count, row.error_retries) == (JobStatus.QUEUED, 0, 0)
        assert node.survivors() == []


def _one_at_each_station(around: Surroundings, node: NodeProcess, *, finished: str = LONG_FILE) -> tuple[Job, Job, Job]:
    """Finished, drawn, waiting."""
    jobs = around.job(finished), around.job(DRAWN_FOR_A_WHILE, seconds=SECONDS), around.job()
    for job in jobs:
        around.publish(job)
    wait_for(lambda: node.at_stations() == {"preparing": 0, "waiting": 1, "drawing": 1, "finishing": 1}, timeout_s=15)
    return jobs


def _publish_until_it_waits(around: Surroundings, drawn: Job, waiting: Job) -> None:
    around.publish(drawn)
    around.wait_for_blocks(drawn, 1)
    around.publish(waiting)
    wait_for(lambda: around.row(waiting).status == JobStatus.RUNNING)


def _current_job(node: NodeProcess) -> str | None:
    row = node.row()
    return None if row is None else row.current_job_id


def _metric(node: NodeProcess, name: str) -> float:
    return next(float(line.split()[-1]) for line in node.get("/metrics").text.splitlines() if line.startswith(name))


def _cancel(around: Surroundings, job: Job) -> None:
    with around.database.transaction() as session:
        answer = transitions.request_cancel(session, job.id, tenant_id=around.tenant_id)
    assert answer in (CancelAnswer.REQUESTED, CancelAnswer.CANCELED)


def _expire_all(around: Surroundings, jobs: tuple[Job, ...]) -> None:
    """Their leases run out now, and the scheduler does what it does."""
    with around.database.transaction() as session:
        for job in jobs:
            row = session.get(Job, job.id)
            assert row is not None
            assert row.lease_expires_at is not None
            row.lease_expires_at = row.lease_expires_at.replace(year=2000)
    with around.database.transaction() as session:
        assert set(transitions.rescue_lost(session)) == {job.id for job in jobs}


def _worker_of(around: Surroundings, job: Job) -> str:
    with around.database.transaction() as session:
        return session.scalars(select(Attempt.worker).where(Attempt.job_id == job.id)).one()


def _outcomes(around: Surroundings, job: Job) -> list[tuple[str | None, str | None]]:
    with around.database.transaction() as session:
        rows = session.execute(
            select(Attempt.outcome, Attempt.error_code).where(Attempt.job_id == job.id).order_by(Attempt.attempt)
        )
        return [(row.outcome, row.error_code) for row in rows]
