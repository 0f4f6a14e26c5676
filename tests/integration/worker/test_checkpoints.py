"""A long job that is broken off goes on from its checkpoint, and one whose checkpoint is of no use begins anew.

Record, storage, ffmpeg and the network in its tiny size are real; the group is a rank in this process.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import transitions
from models.job import Attempt, Job, JobStatus
from models.object_keys import checkpoint_prefix
from tests.integration.worker.nodes import Surroundings, write_picture
from tests.unit.group.test_renderer import LAUNCH
from tests.waiting import wait_for
from worker.fetching import InputPlaces
from worker.group.errors import GroupFailed, RenderCanceled, RenderDrained
from worker.group.messages import Draw
from worker.group.renderer import PipelineRenderer, open_pipeline
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest, RenderResult, ShouldCancel
from worker.media.segments import SEGMENT_FRAMES, finished_segments
from worker.outbound import AddressPolicy, Client
from worker.pipeline.precision import Precision
from worker.storage import Storage, StorageError, StoredObject
from worker.storage.local import LocalStorage
from worker.storage.s3 import S3Storage
from worker.storage.s3_connection import s3_client as s3_client_of
from worker.tasks.attempt_directories import AttemptDirectories
from worker.tasks.checkpointing import CheckpointRules
from worker.tasks.desk import RenderDesk
from worker.tasks.drain import Drain
from worker.tasks.render import Stories
from worker.tasks.video_identity import NetworkIdentity

SECONDS = 22.0
BLOCKS = 45
BLOCKS_PER_PIECE = SEGMENT_FRAMES // 8


class RankHere:
    """Stands where the node's group is: draws in this process, and breaks off when it is told to."""

    def __init__(self, renderer: PipelineRenderer) -> None:
        self._renderer = renderer
        self.blocks_drawn: list[int] = []
        self.first_block = 0
        self.stop_at: int | None = None
        self.pieces_first = 0
        self.then: Callable[[], None] = lambda: None

    def break_off(self, *, at: int, pieces: int, then: Callable[[], None]) -> None:
        """Next time: before that block, when so many pieces are whole, and end by `then`."""
        self.stop_at, self.pieces_first, self.then = at, pieces, then

    @contextmanager
    def session(self, name: str) -> Iterator["RankHere"]:
        yield self

    def wait_for_place(self, *, until: ShouldCancel) -> None:
        pass

    def render(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        drawn: list[int] = []

        def note(progress: RenderProgress) -> None:
            if progress.phase is RenderPhase.RENDERING:
                drawn.append(progress.blocks_done)
            on_progress(progress)

        def should_stop() -> bool:
            if self.stop_at is None or not drawn or drawn[-1] < self.stop_at:
                return should_cancel()
            assert request.segments is not None
            directory = request.segments.directory
            wait_for(lambda: finished_segments(directory) >= self.pieces_first)
            return True

        try:
            finishing = self._renderer.draw(
                Draw(request, wanted_since=0.0), on_progress=note, on_dit=lambda _: None, should_stop=should_stop
            )
        except RenderCanceled:
            self.stop_at = None
            self.then()
            raise
        finally:
            self.first_block = drawn[0] - 1 if drawn else 0
            self.blocks_drawn.append(len(drawn))
        assert finishing is not None
        return finishing.finish(on_progress=on_progress)


@pytest.fixture(scope="module")
def renderer() -> PipelineRenderer:
    return open_pipeline(LAUNCH)


@pytest.fixture
def group(renderer: PipelineRenderer) -> RankHere:
    return RankHere(renderer)


MakeDesk = Callable[..., RenderDesk]


@pytest.fixture
def make_desk(around: Surroundings, group: RankHere) -> MakeDesk:
    def make(*, storage: Storage | None = None, **changes: object) -> RenderDesk:
        inputs = LocalStorage(around.objects)
        parts: dict[str, Any] = {
            "database": around.database,
            "storage": storage or inputs,
            "places": InputPlaces(storage=inputs, buckets={}, web=Client(AddressPolicy.PUBLIC)),
            "link": group,
            "node_name": "node-1",
            "preset": "tiny",
            "attempts": AttemptDirectories(around.directory / "work"),
            "drain": Drain(grace_s=600),
            "checkpoints": CheckpointRules(every_s=600),  # only when it is broken off
        }
        return RenderDesk(**{**parts, **changes})

    return make


def long_job(around: Surroundings, **columns: Any) -> Job:
    return around.job(seconds=SECONDS, size=32, **columns)


def die() -> None:
    raise GroupFailed("rank_died", "rank 1 was killed by SIGKILL")


def drain() -> None:
    raise RenderDrained("the node is draining")


@pytest.mark.parametrize(("how", "crashes"), [(die, 1), (drain, 0)])
def test_a_job_goes_on_where_its_last_whole_piece_ends_and_its_video_is_the_same(
    around: Surroundings, group: RankHere, make_desk: MakeDesk, how: Callable[[], None], crashes: int
) -> None:
    twin = long_job(around)
    render_job(twin, make_desk())
    job = long_job(around, audio_source=twin.audio_source, image_source=twin.image_source)
    group.break_off(at=28, pieces=1, then=how)
    render_job(job, make_desk())
    row = around.row(job)
    assert (row.status, row.crash_count, row.error_retries) == (JobStatus.QUEUED, crashes, 0)
    assert row.checkpoint_key is not None
    assert row.checkpoint_key.startswith(checkpoint_prefix(tenant_id=job.tenant_id, job_id=job.id))
    assert kept_of(around, job) == ["latents", "manifest", "segment"]

    render_job(job, make_desk(node_name="node-2"))
    assert group.first_block == BLOCKS_PER_PIECE
    assert group.blocks_drawn == [BLOCKS, 28, BLOCKS - BLOCKS_PER_PIECE]
    assert sha256_of_video(around, job) == sha256_of_video(around, twin)
    assert kept_of(around, job) == []
    assert kept_of(around, twin) == []


def test_a_later_checkpoint_takes_the_place_of_an_earlier_one(
    around: Surroundings, group: RankHere, make_desk: MakeDesk
) -> None:
    job = long_job(around)
    group.break_off(at=21, pieces=1, then=die)
    render_job(job, make_desk())
    first = around.row(job).checkpoint_key
    group.break_off(at=44, pieces=2, then=drain)
    render_job(job, make_desk())
    assert group.first_block == BLOCKS_PER_PIECE
    assert around.row(job).checkpoint_key != first
    assert kept_of(around, job) == ["latents", "manifest", "segment", "segment"]
    render_job(job, make_desk())
    assert group.first_block == 2 * BLOCKS_PER_PIECE
    assert around.row(job).status == JobStatus.SUCCEEDED


def test_what_is_drawn_is_kept_every_now_and_then(around: Surroundings, group: RankHere, make_desk: MakeDesk) -> None:
    """So a worker that is killed loses no more than that."""
    job = long_job(around)
    recorded = threading.Event()

    def note(progress: RenderProgress) -> None:
        if progress.blocks_done > 25 and not recorded.is_set():
            wait_for(lambda: around.row(job).checkpoint_key is not None)
            recorded.set()

    real_render = group.render

    def render(request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        def tell(progress: RenderProgress) -> None:
            note(progress)
            on_progress(progress)

        return real_render(request, on_progress=tell, should_cancel=should_cancel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "render", render)
        render_job(job, make_desk(checkpoints=CheckpointRules(every_s=0.05)))
    assert recorded.is_set()
    assert around.row(job).status == JobStatus.SUCCEEDED
    assert kept_of(around, job) == []


def test_a_checkpoint_that_is_of_no_use_means_a_start_from_zero_with_the_reason_in_the_log(
    around: Surroundings, group: RankHere, make_desk: MakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    job = long_job(around)
    group.break_off(at=22, pieces=1, then=drain)
    render_job(job, make_desk())
    attempt = 1

    def is_refused(reason: str, network: NetworkIdentity = NetworkIdentity()) -> None:
        nonlocal attempt
        attempt += 1
        group.break_off(at=1, pieces=0, then=drain)  # one block is enough to see where it begins
        caplog.clear()
        with caplog.at_level(logging.INFO):
            render_job(job, make_desk(checkpoints=CheckpointRules(network=network, every_s=600)))
        assert group.first_block == 0, reason
        row = around.row(job)
        assert (row.status, row.attempt, row.error_retries) == (JobStatus.QUEUED, attempt, 0)
        (said,) = [record.message for record in caplog.records if "drawn from the start" in record.message]
        assert reason in said

    is_refused("weights", NetworkIdentity(weights="others"))
    is_refused("configuration", NetworkIdentity(precision=Precision.FP8))
    assert job.image_source is not None
    picture = next(around.objects.rglob(job.image_source.removeprefix("upload:")))
    with put_back(picture):
        write_picture(picture, size=200)
        is_refused("inputs")
    for pattern in ("*.json", "segment-00000.mp4", "latents-00000.safetensors"):
        (path,) = around.objects.glob(f"checkpoints/{job.tenant_id}/{job.id}/1/{pattern}")
        data = path.read_bytes()
        with put_back(path):
            path.unlink()
            is_refused("no object")
        for harmed in (data[:-10], data[:50] + b"X" + data[51:]):
            with put_back(path):
                path.write_bytes(harmed)
                is_refused("not what was stored")
    group.break_off(at=1, pieces=1, then=drain)
    render_job(job, make_desk())
    assert group.first_block == BLOCKS_PER_PIECE, "so it was the harm that made them begin at zero"


@contextmanager
def put_back(path: Path) -> Iterator[None]:
    data = path.read_bytes()
    yield
    path.write_bytes(data)


def test_a_storage_that_refuses_checkpoints_is_no_trouble_of_the_job(
    around: Surroundings, group: RankHere, make_desk: MakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    class StorageThatRefusesCheckpoints(LocalStorage):
        def upload(self, path: Path, key: str, *, content_type: str) -> StoredObject:
            if key.startswith("checkpoints/"):
                raise StorageError("there is no room for it")
            return super().upload(path, key, content_type=content_type)

    job = long_job(around)
    with caplog.at_level(logging.WARNING):
        render_job(
            job,
            make_desk(storage=StorageThatRefusesCheckpoints(around.objects), checkpoints=CheckpointRules(every_s=0.05)),
        )
    assert around.row(job).status == JobStatus.SUCCEEDED
    assert "was not kept: there is no room for it" in caplog.text


def test_an_attempt_that_lost_its_lease_records_nothing(
    around: Surroundings, group: RankHere, make_desk: MakeDesk
) -> None:
    job = long_job(around)

    def lose_the_lease_and_die() -> None:
        with around.database.transaction() as session:
            row = session.get(Job, job.id)
            assert row is not None
            assert row.lease_expires_at is not None
            row.lease_expires_at = row.lease_expires_at.replace(year=2000)
        with around.database.transaction() as session:
            assert transitions.rescue_lost(session) == [job.id]
        with around.database.transaction() as session:
            assert transitions.claim(session, job.id, worker="node-2", preset="tiny") is not None
        die()

    group.break_off(at=22, pieces=1, then=lose_the_lease_and_die)
    render_job(job, make_desk())
    row = around.row(job)
    assert (row.status, row.attempt, row.lease_owner) == (JobStatus.RUNNING, 2, "node-2")
    assert row.checkpoint_key is None


def test_a_late_record_of_a_checkpoint_touches_nothing(around: Surroundings) -> None:
    job = long_job(around)
    with around.database.transaction() as session:
        transitions.claim(session, job.id, worker="node-1", preset="tiny")
    with around.database.transaction() as session:
        assert transitions.record_checkpoint(session, job.id, attempt=1, key="first")
        assert transitions.hand_back(session, job.id, attempt=1)
    with around.database.transaction() as session:
        assert not transitions.record_checkpoint(session, job.id, attempt=1, key="late")
        claimed = transitions.claim(session, job.id, worker="node-2", preset="tiny")
        assert claimed is not None
        assert claimed.checkpoint_key == "first"
    with around.database.transaction() as session:
        assert not transitions.record_checkpoint(session, job.id, attempt=1, key="late")
        assert session.query(Attempt).filter_by(job_id=job.id).count() == 2
    assert around.row(job).checkpoint_key == "first"


def test_checkpoints_pass_through_an_s3_server(
    around: Surroundings, group: RankHere, make_desk: MakeDesk, s3_settings: Any, s3_bucket: str, s3_client: Any
) -> None:
    storage = S3Storage(s3_bucket, client=s3_client_of(s3_settings))
    job = long_job(around)
    group.break_off(at=22, pieces=1, then=die)
    render_job(job, make_desk(storage=storage))
    assert len(keys_in(s3_client, s3_bucket, prefix="checkpoints/")) == 3
    render_job(job, make_desk(storage=storage))
    assert group.first_block == BLOCKS_PER_PIECE
    assert around.row(job).status == JobStatus.SUCCEEDED
    assert keys_in(s3_client, s3_bucket, prefix="checkpoints/") == []


def render_job(job: Job, desk: RenderDesk) -> None:
    """One attempt, from its claim to its outcome."""
    stories = Stories(replace(desk))
    stories.begin(job.id)
    stories.wait_until_all_ended(grace_s=60.0)


def kept_of(around: Surroundings, job: Job) -> list[str]:
    """What lies in the storage for it, by kind."""
    directory = around.objects / checkpoint_prefix(tenant_id=job.tenant_id, job_id=job.id)
    names = [path.name for path in directory.rglob("*") if path.is_file()]
    return sorted("manifest" if name.endswith(".json") else name.split("-")[0] for name in names)


def sha256_of_video(around: Surroundings, job: Job) -> str:
    row = around.row(job)
    assert row.status == JobStatus.SUCCEEDED
    assert row.result_key is not None
    return hashlib.sha256((around.objects / row.result_key).read_bytes()).hexdigest()


def keys_in(client: Any, bucket: str, *, prefix: str) -> list[str]:
    return [found["Key"] for found in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]
