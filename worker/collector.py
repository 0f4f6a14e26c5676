"""Deletes what nobody needs any more from the storage: one sweep after another, each in small steps.

Knows the record and the storage; nothing of time or leadership, which are the scheduler's. Several may sweep at once
and every sweep may be broken off anywhere: what is a leftover once stays one (`models/leftovers.py`). An object whose
owner is not on record is left alone: it may be of a newer database than the one that was restored.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from models.collected import LeftoverKind
from models.database import Database
from models.leftovers import (
    discard_unused_uploads,
    ended_attempts,
    ended_jobs,
    forget_upload,
    lost_attempts,
    note_collected,
    take_discarded_uploads,
)
from models.object_keys import CHECKPOINTS, TENANTS, attempt_of, checkpointed_job_of, is_upload_key
from worker.storage import Storage, UnfinishedUpload

STALLED_AFTER = dt.timedelta(hours=24)
"""An unfinished upload that is no attempt's: of a client, straight into the directory, or of nobody who is known."""
UNFINISHED_AT_ONCE = 100

log = structlog.get_logger(__name__)


@dataclass
class Tally:
    """What one sweep did."""

    collected: dict[LeftoverKind, int] = field(default_factory=lambda: dict.fromkeys(LeftoverKind, 0))
    unknown: int = 0
    an_unknown_key: str | None = None


@dataclass(frozen=True)
class Collector:
    database: Database
    storage: Storage
    unused_uploads_kept: dt.timedelta

    def sweep(self) -> Iterator[None]:
        """Yields after each step: a look at a page of keys or some hundred rows, or one deletion.

        Raises StorageError, SQLAlchemyError.
        """
        tally = Tally()
        yield from self._discard_and_delete_uploads(tally)
        yield from self._abandon_unfinished(tally)
        yield from self._delete_checkpoints(tally)
        yield from self._delete_lost_outputs(tally)
        found = {f"{kind}s": count for kind, count in tally.collected.items() if count}
        if found:
            log.info("leftovers deleted", **found)
        if tally.unknown:
            log.warning(
                "objects are left alone that have no name of ours", objects=tally.unknown, one=tally.an_unknown_key
            )

    def _discard_and_delete_uploads(self, tally: Tally) -> Iterator[None]:
        are_left = True
        while are_left:
            with self.database.transaction() as session:
                are_left = discard_unused_uploads(session, older_than=self.unused_uploads_kept) > 0
            yield
        while True:
            with self.database.transaction() as session:
                due = take_discarded_uploads(session)
            for upload in due:
                self.storage.delete(upload.object_key)
                with self.database.transaction() as session:
                    forget_upload(session, upload.id)
                self._note(LeftoverKind.UPLOAD, 1, tally)
                yield
            if not due:
                return

    def _abandon_unfinished(self, tally: Tally) -> Iterator[None]:
        waiting: list[UnfinishedUpload] = []
        for upload in self.storage.unfinished_uploads():
            waiting.append(upload)
            if len(waiting) == UNFINISHED_AT_ONCE:
                self._abandon_those_over(waiting, tally)
                waiting = []
                yield
        self._abandon_those_over(waiting, tally)
        yield

    def _abandon_those_over(self, uploads: list[UnfinishedUpload], tally: Tally) -> None:
        attempts = {upload: attempt_of(upload.key) for upload in uploads if upload.key is not None}
        jobs = {upload: checkpointed_job_of(upload.key) for upload in uploads if upload.key is not None}
        with self.database.transaction() as session:
            over = ended_attempts(session, {name for name in attempts.values() if name is not None})
            ended = ended_jobs(session, {name for name in jobs.values() if name is not None})
        stalled_before = dt.datetime.now(dt.UTC) - STALLED_AFTER
        for upload in uploads:
            attempt, job = attempts.get(upload), jobs.get(upload)
            is_nobodys = attempt is None and job is None and upload.started_at < stalled_before
            if is_nobodys or attempt in over or job in ended:
                self.storage.abandon(upload)
                self._note(LeftoverKind.UNFINISHED, 1, tally)

    def _delete_checkpoints(self, tally: Tally) -> Iterator[None]:
        for page in self.storage.pages(CHECKPOINTS):
            names = [checkpointed_job_of(key) for key in page]
            self._count_unknown([key for key, name in zip(page, names, strict=True) if name is None], tally)
            with self.database.transaction() as session:
                ended = ended_jobs(session, {name for name in names if name is not None})
            for job in sorted(ended):
                self._note(LeftoverKind.CHECKPOINT, self.storage.delete_prefix(job.checkpoint_prefix), tally)
                yield
            yield

    def _delete_lost_outputs(self, tally: Tally) -> Iterator[None]:
        for page in self.storage.pages(TENANTS):
            names = {key: attempt_of(key) for key in page if not is_upload_key(key)}
            self._count_unknown([key for key, name in names.items() if name is None], tally)
            with self.database.transaction() as session:
                lost = lost_attempts(session, {name for name in names.values() if name is not None})
            for attempt in sorted(lost):
                self._note(LeftoverKind.ATTEMPT, self.storage.delete_prefix(attempt.prefix), tally)
                yield
            yield

    def _note(self, kind: LeftoverKind, objects: int, tally: Tally) -> None:
        with self.database.transaction() as session:
            note_collected(session, kind, objects)
        tally.collected[kind] += objects

    def _count_unknown(self, keys: list[str], tally: Tally) -> None:
        tally.unknown += len(keys)
        tally.an_unknown_key = tally.an_unknown_key or next(iter(keys), None)
