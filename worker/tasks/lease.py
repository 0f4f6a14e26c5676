"""One attempt's hold on its job: renewed while the work moves, given up when it does not.

Knows the record and the clock; nothing of what the work is. A live thread over a hung group is no heartbeat: the lease
is renewed only when progress was reported since the last renewal, or within a phase's allowance for work that cannot
report (a probe, a measurement), and every such phase has time limits of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from models import transitions
from models.database import Database
from models.job import Job, JobStatus, Phase
from models.transitions import HeartbeatAnswer
from worker.tasks.drain import Drain

TICK_S = 0.2
WRITE_AT_MOST_EVERY_S = 1.0
"""So that people see blocks as they are drawn, and the record is written once a second at most."""
RENEW_EVERY_S = 15.0
LOOK_EVERY_S = 1.0
"""Between two looks for a cancel, when there is nothing to write."""
GIVE_UP_AFTER_S = 45.0
"""Without a renewal; the record itself gives the job to others after 60 s."""
SETTLE_PAUSE_S = 0.5
STOP_TIMEOUT_S = 5.0

_Answer = TypeVar("_Answer")

log = logging.getLogger(__name__)


class Standing(StrEnum):
    HELD = "held"
    CANCEL_REQUESTED = "cancel_requested"  # still held; a client wants it stopped
    DRAINING = "draining"  # still held; the node goes away
    LOST = "lost"  # others may have the job: touch nothing any more


class LeaseLost(Exception):
    """The job is not this attempt's any more."""


class CancelRequested(Exception):
    """A client asked for the job to be canceled."""


class DrainRequested(Exception):
    """The node goes away; the job is to be handed back."""


@dataclass(frozen=True)
class Work:
    """What the attempt does now and how far it is."""

    phase: Phase
    blocks_done: int = 0
    blocks_total: int | None = None
    moved_at: float = 0.0
    quiet_allowance_s: float = 0.0


class Lease:
    """A context: a thread renews the lease inside of it, and `settle` ends it."""

    def __init__(self, database: Database, *, job_id: str, attempt: int, drain: Drain) -> None:
        """Made right after the claim."""
        now = time.monotonic()
        self._database = database
        self._job_id = job_id
        self._attempt = attempt
        self._drain = drain
        self._work = Work(phase=Phase.PREPARING, moved_at=now)
        self._watched: Path | None = None
        self._watched_bytes = 0
        self._grown_at = now
        self._renewed_at = now
        self._looked_at = now
        self._is_lost = False
        self._is_cancel_requested = False
        self._is_let_finish = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {job_id}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(timeout=STOP_TIMEOUT_S)

    def begin(self, phase: Phase, *, quiet_allowance_s: float, watching: Path | None = None) -> None:
        """A phase starts. Growth of files below `watching` counts as progress, and so long may nothing be seen of it.

        Raises as `check`.
        """
        self._watched = watching
        self._work = replace(self._work, phase=phase, moved_at=time.monotonic(), quiet_allowance_s=quiet_allowance_s)
        self.check()

    def moved(
        self, phase: Phase, *, blocks_done: int, blocks_total: int | None, quiet_allowance_s: float = 0.0
    ) -> None:
        """The group made progress, and so long may nothing be seen of it now."""
        self._work = replace(
            self._work,
            phase=phase,
            blocks_done=blocks_done,
            blocks_total=blocks_total,
            moved_at=time.monotonic(),
            quiet_allowance_s=quiet_allowance_s,
        )

    def let_finish(self) -> None:
        """The frames are drawn: a drain lets the attempt go on from here, until the grace ends."""
        self._is_let_finish = True

    @property
    def standing(self) -> Standing:
        """By this process's own clock as well, so that it holds while the record cannot be reached."""
        if self._is_lost or time.monotonic() - self._renewed_at > GIVE_UP_AFTER_S:
            return Standing.LOST
        if self._is_cancel_requested:
            return Standing.CANCEL_REQUESTED
        return Standing.DRAINING if self._drain.is_asked and not self._is_let_finish else Standing.HELD

    def check(self) -> None:
        """Raises `LeaseLost`, `CancelRequested` or `DrainRequested` unless the work may go on."""
        match self.standing:
            case Standing.LOST:
                raise LeaseLost(f"attempt {self._attempt} of {self._job_id} lost its lease")
            case Standing.CANCEL_REQUESTED:
                raise CancelRequested(self._job_id)
            case Standing.DRAINING:
                raise DrainRequested(self._job_id)

    def write_progress(self, session: Session) -> None:
        """Together with an outcome: a short job may end before its blocks were ever written."""
        self._write(session, self._work)

    def settle(self, transition: Callable[[Session], _Answer]) -> _Answer | None:
        """Run a transition in a transaction of its own, again and again while the record is away.

        A transition does its work at most once, whatever became of the reply to an earlier try. None: the lease ran
        out before the record could be reached.
        """
        while True:
            try:
                with self._database.transaction() as session:
                    return transition(session)
            except SQLAlchemyError as error:
                if not _is_outage(error):
                    raise
                if self.standing is Standing.LOST:
                    log.warning("%s: the record was away until the lease ran out: %s", self._job_id, error)
                    return None
            time.sleep(SETTLE_PAUSE_S)

    def _keep(self) -> None:
        while not self._ended.wait(TICK_S) and self.standing is not Standing.LOST:
            try:
                self._tick()
            except BaseException as error:
                if not _is_outage(error):
                    self._is_lost = True  # the story must not go on with a lease that nobody renews
                    raise
                log.warning("%s: the lease was not renewed: %s", self._job_id, error)
                self._ended.wait(SETTLE_PAUSE_S)

    def _tick(self) -> None:
        if self._drain.is_overdue:
            self._hand_back()
            return
        now = time.monotonic()
        self._notice_growth(now)
        work, since_renewal = self._work, now - self._renewed_at
        moved_at = max(work.moved_at, self._grown_at)
        has_moved = moved_at > self._renewed_at
        is_quiet_in_order = now - moved_at <= work.quiet_allowance_s
        if (has_moved and since_renewal >= WRITE_AT_MOST_EVERY_S) or (
            is_quiet_in_order and since_renewal >= RENEW_EVERY_S
        ):
            self._renew(work, now)
        elif now - self._looked_at >= LOOK_EVERY_S:
            self._look()

    def _renew(self, work: Work, asked_at: float) -> None:
        """`asked_at` is from before `work` was read: what moves later is renewed for again."""
        with self._database.transaction() as session:
            answer = self._write(session, work)
        self._looked_at = time.monotonic()
        if answer is HeartbeatAnswer.LOST:
            self._is_lost = True
            return
        self._renewed_at = asked_at
        self._is_cancel_requested = answer is HeartbeatAnswer.CANCEL_REQUESTED

    def _write(self, session: Session, work: Work) -> HeartbeatAnswer:
        return transitions.heartbeat(
            session,
            self._job_id,
            attempt=self._attempt,
            phase=work.phase,
            blocks_done=work.blocks_done,
            blocks_total=work.blocks_total,
        )

    def _look(self) -> None:
        """Whether the job is still this attempt's, and wanted; without renewing anything."""
        with self._database.transaction() as session:
            row = session.execute(
                select(Job.status, Job.attempt, Job.cancel_requested_at).where(Job.id == self._job_id)
            ).one_or_none()
        self._looked_at = time.monotonic()
        if row is None or row.status != JobStatus.RUNNING or row.attempt != self._attempt:
            self._is_lost = True
        else:
            self._is_cancel_requested = row.cancel_requested_at is not None

    def _hand_back(self) -> None:
        """The story did not come to its end in the node's grace period, so the job goes on without it."""
        with self._database.transaction() as session:
            transitions.hand_back(session, self._job_id, attempt=self._attempt)
        self._is_lost = True
        log.warning("%s: handed back in the middle of %s", self._job_id, self._work.phase)

    def _notice_growth(self, now: float) -> None:
        size = 0 if self._watched is None else _bytes_below(self._watched)
        if size != self._watched_bytes:
            self._watched_bytes, self._grown_at = size, now


def _bytes_below(directory: Path) -> int:
    size = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # its writer took it away meanwhile
            size += path.stat().st_size
    return size


def _is_outage(error: BaseException) -> bool:
    """The record could not be reached or broke off, as against a statement of ours that is wrong."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))
    return isinstance(error, PoolTimeoutError)
