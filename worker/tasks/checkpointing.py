"""Keeps what is drawn of a long video, every now and then: stored first, then put on record.

Knows files, the storage and the record. The group puts finished pieces of the video and their latents into a directory;
a thread looks there. Nothing that goes wrong here is the job's trouble: the log says it, and it is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from models import transitions
from models.database import Database
from models.job import TERMINAL_STATUSES, Job, Phase
from models.object_keys import checkpoint_key, checkpoint_prefix
from worker.failpoints import Failpoint, failpoint
from worker.group.errors import RenderRefused
from worker.media.segments import SEGMENT_FRAMES, Segmentation, finished_segments, latents_name, segment_name
from worker.pipeline.config import preset
from worker.pipeline.reach import blocks_needed
from worker.storage import Storage, StorageError
from worker.tasks.checkpoint_manifest import KeptLatents, KeptObject, Manifest, manifest_key
from worker.tasks.lease import CancelRequested, DrainRequested, Lease, LeaseLost, Standing
from worker.tasks.resuming import Resumed
from worker.tasks.video_identity import NetworkIdentity, VideoIdentity

LOOK_EVERY_S = 1.0
"""So that a piece which is whole a moment after a checkpoint was due does not wait for the next one."""
STOP_TIMEOUT_S = 60.0
KEEP_QUIET_S = 120.0
"""How long the lease is held while the last pieces are stored."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointRules:
    """Of a node."""

    network: NetworkIdentity = field(default_factory=NetworkIdentity)
    every_s: float = 30.0
    """From one checkpoint to the next at least; then it is made as soon as another piece is whole."""


class Checkpointing:
    """A context around one attempt's render. When it is left by an error after which the job will go on, what is
    finished by then is kept as well."""

    def __init__(
        self,
        job: Job,
        *,
        rules: CheckpointRules,
        video: VideoIdentity,
        plan: Segmentation,
        directory: Path,
        resumed: Resumed | None,
        lease: Lease,
        database: Database,
        storage: Storage,
    ) -> None:
        self._job = job
        self._rules = rules
        self._video = video
        self._plan = plan
        self._directory = directory
        self._lease = lease
        self._database = database
        self._storage = storage
        self._key = None if resumed is None else resumed.key
        self._recorded = None if resumed is None else resumed.manifest
        self._pieces = {} if resumed is None else dict(enumerate(resumed.manifest.pieces))
        self._latents = {} if resumed is None else {kept.piece: kept for kept in resumed.manifest.latents}
        self._pieces_with_latents = pieces_needed(rules.network)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"checkpoints {job.id}", daemon=True)

    def __enter__(self) -> Checkpointing:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        is_needed = error is not None and not isinstance(error, (CancelRequested, LeaseLost, RenderRefused))
        if is_needed:
            with suppress(CancelRequested, LeaseLost, DrainRequested):  # `keep` asks whether the lease is held
                self._lease.begin(Phase.UPLOADING, quiet_allowance_s=KEEP_QUIET_S)
        self._thread.join(timeout=STOP_TIMEOUT_S)
        if is_needed and not self._thread.is_alive():
            self.keep()

    def keep(self) -> None:
        """Store and record what is finished and not on record yet."""
        made = self._pieces_made
        first_with_latents = max(0, made - self._pieces_with_latents)
        for piece in range(first_with_latents):
            (self._directory / latents_name(piece)).unlink(missing_ok=True)
        is_ours = self._lease.standing in (Standing.HELD, Standing.DRAINING)
        if made <= self._pieces_on_record or not is_ours:
            return
        try:
            self._store_and_record(made, first_with_latents)
        except (StorageError, SQLAlchemyError, OSError) as error:
            log.warning("%s: its checkpoint of %d pieces was not kept: %s", self._job.id, made, error)

    def _run(self) -> None:
        every_s = self._rules.every_s
        due_at = time.monotonic() + every_s
        while not self._ended.wait(min(LOOK_EVERY_S, every_s)):
            now = time.monotonic()
            if now >= due_at and self._pieces_made > self._pieces_on_record:
                due_at = now + every_s
                self.keep()

    @property
    def _pieces_made(self) -> int:
        """The last one is not kept: it is whole when the video nearly is."""
        return min(finished_segments(self._directory), self._plan.count - 1)

    @property
    def _pieces_on_record(self) -> int:
        return 0 if self._recorded is None else len(self._recorded.pieces)

    def _store_and_record(self, made: int, first_with_latents: int) -> None:
        for piece in range(made):
            if piece not in self._pieces:
                self._pieces[piece] = self._stored(segment_name(piece), content_type="video/mp4")
        for piece in range(first_with_latents, made):
            if piece not in self._latents:
                file = self._stored(latents_name(piece), content_type="application/octet-stream")
                self._latents[piece] = KeptLatents(piece=piece, file=file)
        manifest = Manifest(
            video=self._video,
            pieces=tuple(self._pieces[piece] for piece in range(made)),
            latents=tuple(self._latents[piece] for piece in range(first_with_latents, made)),
        )
        key = self._stored_manifest(manifest)
        failpoint(Failpoint.KEPT, self._job.id)
        with self._database.transaction() as session:
            is_held = transitions.record_checkpoint(session, self._job.id, attempt=self._job.attempt, key=key)
        if not is_held:
            log.warning("%s: its checkpoint was not recorded: the lease is lost", self._job.id)
            return
        before, self._recorded = (self._key, self._recorded), manifest
        self._key = key
        log.info("%s: %d of %d pieces are kept", self._job.id, made, self._plan.count)
        failpoint(Failpoint.CHECKPOINT, self._job.id)
        self._delete_what_it_replaces(*before)

    def _stored(self, name: str, *, content_type: str) -> KeptObject:
        key = checkpoint_key(name, tenant_id=self._job.tenant_id, job_id=self._job.id, attempt=self._job.attempt)
        stored = self._storage.upload(self._directory / name, key, content_type=content_type)
        assert stored.sha256 is not None, "an upload knows it"
        return KeptObject(key=key, size_bytes=stored.size_bytes, sha256=stored.sha256)

    def _stored_manifest(self, manifest: Manifest) -> str:
        encoded = manifest.encoded()
        key = manifest_key(encoded, tenant_id=self._job.tenant_id, job_id=self._job.id, attempt=self._job.attempt)
        path = self._directory / "manifest.json"
        path.write_bytes(encoded)
        self._storage.upload(path, key, content_type="application/json")
        return key

    def _delete_what_it_replaces(self, key: str | None, manifest: Manifest | None) -> None:
        """Nobody goes on from an earlier checkpoint any more: a claim reads the name of the last one."""
        assert self._recorded is not None, "one was just recorded"
        if key is None or manifest is None:
            return
        try:
            for name in sorted({key, *manifest.keys()} - self._recorded.keys()):
                self._storage.delete(name)
        except StorageError as error:
            log.warning("%s: what an earlier checkpoint consisted of is left: %s", self._job.id, error)


def pieces_needed(network: NetworkIdentity) -> int:
    """Of how many pieces latents have to be kept: some of them are long enough for what the networks look back at."""
    config = preset(network.preset)
    return -(-blocks_needed(config) * config.dit.frames_per_block // SEGMENT_FRAMES)


def forget_if_ended(job: Job, *, directory: Path, lease: Lease, storage: Storage) -> None:
    """Nobody goes on with a job that has ended. What cannot be deleted now, the collector finds."""
    if not directory.exists():
        return
    status = lease.settle(lambda session: session.scalar(select(Job.status).where(Job.id == job.id)))
    if status not in TERMINAL_STATUSES:
        return
    try:
        storage.delete_prefix(checkpoint_prefix(tenant_id=job.tenant_id, job_id=job.id))
    except StorageError as error:
        log.warning("%s: its checkpoint is left to the collector: %s", job.id, error)
