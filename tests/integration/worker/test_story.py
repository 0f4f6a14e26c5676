"""The story of a job in one process, with faults between its steps.

Record, storage and ffmpeg are real; what renders is a few lines that write frames.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session as DatabaseSession

from infra.local.postgres import EmbeddedPostgres
from models import transitions
from models.database import Database, create_database_engine
from models.job import Job, JobStatus
from models.webhook import WebhookEvent
from tests import factories
from tests.integration.worker.nodes import Surroundings
from tests.waiting import wait_for
from worker.fetching import InputPlaces
from worker.group.errors import GroupFailed, GroupUnavailable, RenderCanceled
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest, RenderResult, ShouldCancel
from worker.media.mp4 import Mp4Writer
from worker.outbound import AddressPolicy, Client
from worker.storage import StorageError, StoredObject
from worker.storage.local import LocalStorage
from worker.tasks.attempt_directories import AttemptDirectories
from worker.tasks.desk import RenderDesk
from worker.tasks.drain import Drain
from worker.tasks.render import Stories


class InstantGroup:
    """Stands where the node's group is: draws grey frames at once, and calls `then` when they are written."""

    def __init__(self) -> None:
        self.renders = 0
        self.then: Callable[[ShouldCancel], None] = lambda should_cancel: None

    @contextmanager
    def session(self, name: str) -> Iterator["InstantGroup"]:
        yield self

    def wait_for_place(self, *, until: ShouldCancel) -> None:
        pass

    def render(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        self.renders += 1
        shape = (request.frames, request.height, request.width, 3)
        with Mp4Writer(
            request.video, width=request.width, height=request.height, output_fps=request.output_fps,
            sound=request.sound, duration_s=request.duration_s,
        ) as video:  # fmt: skip
            video.write(np.full(shape, 128, np.uint8))
            on_progress(RenderProgress(RenderPhase.RENDERING, 2, 2))
            video.finish()
        self.then(should_cancel)
        return RenderResult(
            video=request.video, frames=request.frames, blocks=2, gpu_seconds=1.0, ms_per_block=1.0,
            encoding_s=0.0, rendering_s=1.0, muxing_s=0.0,
        )  # fmt: skip


class DatabaseThatForgetsToAnswer(Database):
    """A record whose connection breaks right after a commit, as often as told."""

    replies_to_lose = 0

    @contextmanager
    def transaction(self) -> Iterator[DatabaseSession]:
        with super().transaction() as session:
            yield session
        if self.replies_to_lose:
            self.replies_to_lose -= 1
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))


class StorageThatFails(LocalStorage):
    def upload(self, path: Path, key: str, *, content_type: str) -> StoredObject:
        raise StorageError("the disk of the storage is full")


@pytest.fixture
def group() -> InstantGroup:
    return InstantGroup()


@pytest.fixture
def make_desk(around: Surroundings, group: InstantGroup) -> Callable[..., RenderDesk]:
    def make(**changes: object) -> RenderDesk:
        storage = LocalStorage(around.objects)
        parts = {
            "database": around.database,
            "storage": storage,
            "places": InputPlaces(storage=storage, buckets={}, web=Client(AddressPolicy.PUBLIC)),
            "link": group,
            "node_name": "node-1",
            "preset": "tiny",
            "attempts": AttemptDirectories(around.directory / "work"),
            "drain": Drain(grace_s=600),
        }
        return RenderDesk(**{**parts, **changes})  # type: ignore[arg-type]

    return make


MakeDesk = Callable[..., RenderDesk]


def test_a_lost_reply_to_the_last_commit_is_asked_about_and_nothing_is_rendered_again(
    around: Surroundings, group: InstantGroup, make_desk: MakeDesk
) -> None:
    database = DatabaseThatForgetsToAnswer(around.database.engine)
    job = around.job()
    real_succeed = transitions.succeed

    def succeed_and_lose_the_reply(*arguments: object, **named: object) -> bool:
        database.replies_to_lose = 1
        return real_succeed(*arguments, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transitions, "succeed", succeed_and_lose_the_reply)
        render_job(job.id, make_desk(database=database))
    row = around.row(job)
    assert (row.status, row.attempt, group.renders) == (JobStatus.SUCCEEDED, 1, 1)
    assert row.result_key is not None
    assert (around.objects / row.result_key).is_file()
    assert _events(around, job) == 1
    assert _attempt_directories(around) == []


def test_a_storage_that_fails_is_tried_again_and_ships_nothing(around: Surroundings, make_desk: MakeDesk) -> None:
    job = around.job()
    render_job(job.id, make_desk(storage=StorageThatFails(around.objects)))
    row = around.row(job)
    assert (row.status, row.error_retries, row.result_key) == (JobStatus.QUEUED, 1, None)
    assert _attempt_directories(around) == []


def test_a_cancel_that_comes_after_the_last_frame_ships_nothing(
    around: Surroundings, group: InstantGroup, make_desk: MakeDesk
) -> None:
    job = around.job()

    class StorageThatCancels(LocalStorage):
        def upload(self, path: Path, key: str, *, content_type: str) -> StoredObject:
            stored = super().upload(path, key, content_type=content_type)
            if key.endswith("preview.webp"):
                with around.database.transaction() as session:
                    transitions.request_cancel(session, job.id, tenant_id=around.tenant_id)
            return stored

    render_job(job.id, make_desk(storage=StorageThatCancels(around.objects)))
    row = around.row(job)
    assert (row.status, row.result_key) == (JobStatus.CANCELED, None)
    assert _events(around, job) == 1


def test_a_lease_that_is_lost_in_the_render_stops_it_and_touches_nothing(
    around: Surroundings, group: InstantGroup, make_desk: MakeDesk
) -> None:
    job = around.job()

    def lose_the_lease(should_cancel: ShouldCancel) -> None:
        with around.database.transaction() as session:
            session.execute(
                text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = :id"), {"id": job.id}
            )
        with around.database.transaction() as session:
            assert transitions.rescue_lost(session) == [job.id]
        wait_for(should_cancel)
        raise RenderCanceled("stopped")

    group.then = lose_the_lease
    render_job(job.id, make_desk())
    row = around.row(job)
    assert (row.status, row.attempt, row.crash_count, row.error_retries) == (JobStatus.QUEUED, 1, 1, 0)
    assert _events(around, job) == 0
    assert _attempt_directories(around) == []


def test_a_drain_before_the_render_hands_the_job_back(
    around: Surroundings, group: InstantGroup, make_desk: MakeDesk
) -> None:
    job, drain = around.job(), Drain(grace_s=600)
    drain.ask()
    render_job(job.id, make_desk(drain=drain))
    row = around.row(job)
    assert (row.status, row.attempt, row.crash_count, group.renders) == (JobStatus.QUEUED, 1, 0, 0)


def test_a_group_that_dies_counts_as_a_crash(around: Surroundings, group: InstantGroup, make_desk: MakeDesk) -> None:
    job = around.job()

    def die(should_cancel: ShouldCancel) -> None:
        raise GroupFailed("rank_died", "rank 1 was killed by SIGKILL")

    group.then = die
    render_job(job.id, make_desk())
    row = around.row(job)
    assert (row.status, row.crash_count, row.error_retries) == (JobStatus.QUEUED, 1, 0)


def test_an_error_nobody_foresaw_gives_the_job_another_try_and_the_log_one_trace(
    around: Surroundings, group: InstantGroup, make_desk: MakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    job = around.job()

    def surprise(should_cancel: ShouldCancel) -> None:
        raise ZeroDivisionError("nobody thought of this")

    group.then = surprise
    with caplog.at_level(logging.ERROR):
        render_job(job.id, make_desk())
    row = around.row(job)
    assert (row.status, row.error_retries) == (JobStatus.QUEUED, 1)
    traces = [record for record in caplog.records if record.exc_info is not None]
    assert [type(record.exc_info[1]) for record in traces if record.exc_info] == [ZeroDivisionError]


def test_a_job_is_not_claimed_while_no_group_is_warm(around: Surroundings, make_desk: MakeDesk) -> None:
    class ColdGroup(InstantGroup):
        @contextmanager
        def session(self, name: str) -> Iterator[InstantGroup]:
            raise GroupUnavailable("the group is starting")
            yield self

    job = around.job()
    render_job(job.id, make_desk(link=ColdGroup()))
    row = around.row(job)
    assert (row.status, row.attempt) == (JobStatus.QUEUED, 0)


def test_a_record_that_restarts_in_mid_render_is_waited_for(
    own_postgres: EmbeddedPostgres, around: Surroundings, group: InstantGroup, make_desk: MakeDesk
) -> None:
    database = Database(create_database_engine(own_postgres.url, application_name="tests", pool_size=3))
    with database.transaction() as session:
        tenant = factories.add_tenant(session, id=around.tenant_id)
        template = around.job()
        job = factories.add_job(
            session, tenant_id=tenant.id, audio_source=template.audio_source, image_source=template.image_source,
            width=64, height=64,
        )  # fmt: skip

    drawn, restarted = threading.Event(), threading.Event()

    def wait_for_restart(should_cancel: ShouldCancel) -> None:
        drawn.set()
        assert restarted.wait(timeout=30)

    group.then = wait_for_restart
    stories = Stories(make_desk(database=database))
    stories.begin(job.id)
    assert drawn.wait(timeout=30)
    own_postgres.kill()
    own_postgres.start()  # by this thread, which lives as long as it has to
    restarted.set()
    stories.wait_until_all_ended(grace_s=30.0)
    with database.transaction() as session:
        row = session.get(Job, job.id)
        assert row is not None
        assert (row.status, row.attempt) == (JobStatus.SUCCEEDED, 1)
    database.close()


def render_job(job_id: str, desk: RenderDesk) -> None:
    """The whole story of one job."""
    stories = Stories(desk)
    stories.begin(job_id)
    stories.wait_until_all_ended(grace_s=30.0)


def _events(around: Surroundings, job: Job) -> int:
    with around.database.transaction() as session:
        return session.query(WebhookEvent).filter_by(job_id=job.id).count()


def _attempt_directories(around: Surroundings) -> list[str]:
    return [path.name for path in (around.directory / "work").iterdir()]
