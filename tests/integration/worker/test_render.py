"""The story of a job on a real node: processes, Postgres, Valkey, ffmpeg. Only the network is a stand-in."""

import hashlib
import os
import signal
import time

import av
import psutil
import redis
from sqlalchemy import select, text

from models import transitions
from models.job import Attempt, AttemptOutcome, Job, JobStatus
from models.queues import Priority, render_queue
from models.transitions import CancelAnswer
from models.webhook import WebhookEvent
from models.worker_node import NodeState
from tests.integration.worker.nodes import REDIS_PREFIX, NodeProcess, Surroundings
from tests.waiting import wait_for

SLOW = "seconds=0.2"
"""A block takes a fifth of a second."""


def test_jobs_end_as_they_should_and_the_group_stays_warm(around: Surroundings) -> None:
    """One node for many jobs: what a job does must not be felt by the next."""
    with around.node(ranks=2) as node:
        ranks = node.rank_pids()
        _a_job_becomes_a_stored_video_that_was_measured(around)
        _a_message_that_comes_twice_renders_once(around)
        _a_job_that_can_never_be_made_fails_with_its_code(around)
        _a_fault_that_may_pass_is_tried_again_later(around)
        _a_cancel_stops_the_render_within_about_a_block(around)
        _jobs_of_higher_priority_begin_first(around)
        _garbage_in_the_queue_ends_only_the_consumer(around, node)
        _a_killed_consumer_frees_the_group_for_its_next_job(around, node)
        assert node.rank_pids() == ranks
        wait_for(lambda: not _left_behind(around, node))  # an attempt's status comes before its files go
        row = node.row()
        assert row is not None
        assert (row.group_restarts, row.ranks, row.preset) == (0, 2, "tiny")
        assert [device["name"] for device in row.devices] == ["stand-in", "stand-in"]
        assert row.last_progress_at is not None


def _a_job_becomes_a_stored_video_that_was_measured(around: Surroundings) -> None:
    job = around.job(seconds=1.5)
    around.publish(job)
    row = around.wait_for_status(job, JobStatus.SUCCEEDED)
    assert row.result_key is not None
    video = around.objects / row.result_key
    assert row.output is not None
    assert hashlib.sha256(video.read_bytes()).hexdigest() == row.output["sha256"]
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == row.output["frames"] == 24
    assert row.poster_key is not None
    assert (around.objects / row.poster_key).read_bytes().startswith(b"\xff\xd8")
    assert row.preview_key is not None
    assert (around.objects / row.preview_key).read_bytes().startswith(b"RIFF")
    assert (row.blocks_done, row.blocks_total, row.attempt) == (3, 3, 1)
    assert row.gpu_seconds is not None
    assert _events(around, job) == ["job.succeeded"]


def _a_message_that_comes_twice_renders_once(around: Surroundings) -> None:
    job, last = around.job(), around.job()
    for message in (job, job, job, last):
        around.publish(message)
    around.wait_for_status(last, JobStatus.SUCCEEDED)
    assert around.row(job).attempt == 1
    assert _events(around, job) == ["job.succeeded"]


def _a_job_that_can_never_be_made_fails_with_its_code(around: Surroundings) -> None:
    text_file = around.upload(lambda path: path.write_text("%PDF-1.7 not a picture"))
    jobs = {
        "input_missing": around.job(audio_source="upload:upl_gone"),
        "picture_unreadable": around.job(image_source=text_file),
        "invalid_render": around.job("do=refuse"),
        "length_mismatch": around.job(duration_s=20.0),
    }
    for job in jobs.values():
        around.publish(job)
    for code, job in jobs.items():
        row = around.wait_for_status(job, JobStatus.FAILED)
        assert row.error_code == code
        assert row.error_message
        assert row.attempt == 1
        assert _events(around, job) == ["job.failed"]


def _a_fault_that_may_pass_is_tried_again_later(around: Surroundings) -> None:
    job = around.job("do=interrupt")
    around.publish(job)
    wait_for(lambda: around.row(job).error_retries == 1)
    row = around.row(job)
    assert (row.status, row.crash_count) == (JobStatus.QUEUED, 0)
    assert _attempts(around, job) == [(AttemptOutcome.ERROR, "disk_full")]


def _a_cancel_stops_the_render_within_about_a_block(around: Surroundings) -> None:
    job = around.job(SLOW, seconds=30)
    around.publish(job)
    around.wait_for_blocks(job, 1)
    asked_at = time.monotonic()
    with around.database.transaction() as session:
        assert transitions.request_cancel(session, job.id, tenant_id=around.tenant_id) is CancelAnswer.REQUESTED
    row = around.wait_for_status(job, JobStatus.CANCELED)
    assert time.monotonic() - asked_at < 3.0
    assert row.blocks_done < 30
    assert _events(around, job) == ["job.canceled"]


def _jobs_of_higher_priority_begin_first(around: Surroundings) -> None:
    blocking = around.job(SLOW, seconds=120)  # too long for anything to be taken beside it
    around.publish(blocking)
    around.wait_for_blocks(blocking, 3)
    jobs = [around.job(priority=priority) for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH)]
    for job in jobs:
        around.publish(job)
    _cancel(around, blocking)
    begun = [around.wait_for_status(job, JobStatus.SUCCEEDED).started_at for job in jobs]
    assert None not in begun
    assert sorted(begun, reverse=True) == begun  # type: ignore[type-var]


def _garbage_in_the_queue_ends_only_the_consumer(around: Surroundings, node: NodeProcess) -> None:
    consumer = node.consumer_pid()
    with redis.Redis.from_url(around.broker_url) as client:
        client.lpush(REDIS_PREFIX + render_queue("tiny", Priority.NORMAL), b"\x80 no JSON")
    wait_for(lambda: node.consumer_pid() not in (None, consumer), timeout_s=20)
    job = around.job()
    around.publish(job)
    around.wait_for_status(job, JobStatus.SUCCEEDED)


def _a_killed_consumer_frees_the_group_for_its_next_job(around: Surroundings, node: NodeProcess) -> None:
    job = around.job(SLOW, seconds=30)
    around.publish(job)
    around.wait_for_blocks(job, 1)
    consumer = node.consumer_pid()
    assert consumer is not None
    os.kill(consumer, signal.SIGKILL)
    # its connection to the broker ends with that to the node; before, it would take the next message
    wait_for(lambda: not any(node.at_stations().values()))
    following = around.job()
    around.publish(following)
    around.wait_for_status(following, JobStatus.SUCCEEDED)
    assert around.row(job).status == JobStatus.RUNNING  # until its lease has expired
    _rescue(around, job)
    around.publish(job)
    wait_for(lambda: around.row(job).attempt == 2)
    with around.database.transaction() as session:
        transitions.request_cancel(session, job.id, tenant_id=around.tenant_id)
    row = around.wait_for_status(job, JobStatus.CANCELED)
    assert (row.attempt, row.crash_count) == (2, 1)


def test_a_group_that_fails_costs_one_attempt_and_the_next_group_makes_the_video(around: Surroundings) -> None:
    with around.node(ranks=2, progress_deadline_s=1.5) as node:
        _a_rank_that_ends_or_hangs_is_found(around, node, signal.SIGKILL, within_s=5.0)
        _a_rank_that_ends_or_hangs_is_found(around, node, signal.SIGSTOP, within_s=1.5 + 5.0)
        assert "realvideo_group_restarts_total 2.0" in node.get("/metrics").text
        _a_job_that_kills_every_group_is_poison(around)


def _a_rank_that_ends_or_hangs_is_found(
    around: Surroundings, node: NodeProcess, number: signal.Signals, *, within_s: float
) -> None:
    job = around.job(SLOW, seconds=4)
    around.publish(job)
    around.wait_for_blocks(job, 1)
    before = node.rank_pids()
    hit_at = time.monotonic()
    os.kill(before[1], number)
    wait_for(lambda: around.row(job).crash_count == 1, timeout_s=10)
    assert time.monotonic() - hit_at < within_s
    assert not any(psutil.pid_exists(pid) for pid in before)
    assert _attempts(around, job) == [(AttemptOutcome.CRASHED, "group_died")]
    around.publish(job)
    row = around.wait_for_status(job, JobStatus.SUCCEEDED)
    assert (row.attempt, row.crash_count) == (2, 1)
    assert not set(before) & set(node.rank_pids())


def _a_job_that_kills_every_group_is_poison(around: Surroundings) -> None:
    job, other = around.job("do=exit"), around.job()
    around.publish(job)
    for crashes in (1, 2, 3):
        wait_for(lambda crashes=crashes: around.row(job).crash_count == crashes)  # type: ignore[misc]
        if crashes < 3:
            around.publish(job)
    row = around.row(job)
    assert (row.status, row.error_code, row.attempt) == (JobStatus.FAILED, "poison", 3)
    around.publish(other)
    around.wait_for_status(other, JobStatus.SUCCEEDED)


def test_a_node_that_is_told_to_end_hands_its_job_back(around: Surroundings) -> None:
    with around.node(ranks=2) as node:
        job = around.job(SLOW, seconds=30)
        around.publish(job)
        around.wait_for_blocks(job, 2)
        row = node.row()
        assert row is not None
        assert (row.state, row.current_job_id) == (NodeState.BUSY, job.id)
        told_at = time.monotonic()
        node.send(signal.SIGTERM)
        assert node.wait_for_end(timeout_s=20) == 0
        assert time.monotonic() - told_at < 10
        assert node.survivors() == []
        handed_back = around.row(job)
        assert (handed_back.status, handed_back.crash_count, handed_back.error_retries) == (JobStatus.QUEUED, 0, 0)
        assert _attempts(around, job) == [(AttemptOutcome.DRAINED, None)]
        row = node.row()
        assert row is not None
        assert (row.state, row.current_job_id) == (NodeState.STOPPED, None)


def test_a_killed_node_leaves_no_orphan_and_its_job_is_made_by_another(around: Surroundings) -> None:
    with around.node(name="node-1") as first, around.node(name="node-2") as second:
        job = around.job(SLOW, seconds=4)
        around.publish(job)
        around.wait_for_blocks(job, 1)
        holder, other = (first, second) if around.row(job).lease_owner == "node-1" else (second, first)
        holder.send(signal.SIGKILL)
        assert holder.wait_for_end(timeout_s=5) == -signal.SIGKILL
        wait_for(lambda: holder.survivors() == [], timeout_s=5)
        _rescue(around, job)
        around.publish(job)
        row = around.wait_for_status(job, JobStatus.SUCCEEDED)
        assert row.result_key is not None
        assert row.result_key.split("/")[-2] == "2"
        assert _attempts(around, job) == [(AttemptOutcome.LOST, "lease_expired"), (AttemptOutcome.SUCCEEDED, None)]
        assert other.rank_pids() != []


def test_the_late_result_of_a_worker_that_lost_its_lease_is_ignored(around: Surroundings) -> None:
    with around.node(name="node-1") as zombie:
        job = around.job("seconds=0.5", seconds=2)
        around.publish(job)
        around.wait_for_blocks(job, 2)
        consumer = zombie.consumer_pid()
        assert consumer is not None
        os.kill(consumer, signal.SIGSTOP)  # frozen with the lease in its hands
        with around.node(name="node-2"):
            _rescue(around, job)
            around.publish(job)
            won = around.wait_for_status(job, JobStatus.SUCCEEDED)
            os.kill(consumer, signal.SIGCONT)
            wait_for(lambda: "nothing is shipped" in zombie.log.read_text())
        after = around.row(job)
    assert won.attempt == 2
    assert (after.result_key, after.updated_at) == (won.result_key, won.updated_at)
    assert _events(around, job) == ["job.succeeded"]


def _cancel(around: Surroundings, job: Job) -> None:
    with around.database.transaction() as session:
        assert transitions.request_cancel(session, job.id, tenant_id=around.tenant_id) is CancelAnswer.REQUESTED


def _rescue(around: Surroundings, job: Job) -> None:
    """The lease runs out now, and the scheduler does what it does."""
    with around.database.transaction() as session:
        session.execute(
            text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = :id"), {"id": job.id}
        )
    with around.database.transaction() as session:
        assert transitions.rescue_lost(session) == [job.id]


def _events(around: Surroundings, job: Job) -> list[str]:
    with around.database.transaction() as session:
        return list(session.scalars(select(WebhookEvent.type).where(WebhookEvent.job_id == job.id)))


def _attempts(around: Surroundings, job: Job) -> list[tuple[str | None, str | None]]:
    with around.database.transaction() as session:
        rows = session.execute(
            select(Attempt.outcome, Attempt.error_code).where(Attempt.job_id == job.id).order_by(Attempt.attempt)
        )
        return [(row.outcome, row.error_code) for row in rows]


def _left_behind(around: Surroundings, node: NodeProcess) -> list[str]:
    """Files of attempts that have ended."""
    return [str(path) for path in (around.directory / "work" / node.name / "attempts").iterdir()]
