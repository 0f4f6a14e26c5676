"""The story of a render job, from the claim to its outcome. The only way a video is made for the queue.

Knows the record and what each way of ending means for the job; how the video is made is in `making.py`. It may be told
twice of one job, at any time, on any node: only one claim wins. Some stories run beside each other; which may begin is
the node's rule (`worker/group/stations.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DatabaseSession

from models import transitions
from models.job import Job
from models.queues import TaskName
from worker.failpoints import Failpoint, failpoint
from worker.group.errors import GroupFailed, GroupUnavailable, RenderDrained
from worker.group.link import Session
from worker.tasks.checkpointing import forget_if_ended
from worker.tasks.desk import RenderDesk
from worker.tasks.endings import Ending, ending_of
from worker.tasks.lease import CancelRequested, DrainRequested, Lease, LeaseLost
from worker.tasks.making import Made, make, pieces_directory

POLL_S = 0.2

log = logging.getLogger(__name__)


def register(app: Celery, stories: Stories) -> None:
    """Make `app` answer to the messages of render jobs."""

    def render(job_id: str) -> None:
        stories.begin(job_id)

    app.task(render, name=str(TaskName.RENDER), shared=False)


class Stories:
    """The stories of a consumer's jobs: each in a thread of its own, begun one at a time."""

    def __init__(self, desk: RenderDesk) -> None:
        self._desk = desk
        self._running: set[threading.Thread] = set()

    def begin(self, job_id: str) -> None:
        """Claim one job and begin its story. Safe to call twice: only one claim wins.

        The node is asked first, so that a job is never claimed by a node that cannot render it soon. A job that is left
        unclaimed is sent again by the scheduler. Returns when the node would take one more: until then, messages are
        left for other nodes.
        """
        failpoint(Failpoint.POPPED, job_id)
        desk = self._desk
        with ExitStack() as stack:
            try:
                group = stack.enter_context(desk.link.session(job_id))
            except GroupUnavailable as unavailable:
                log.warning("%s: not claimed: %s", job_id, unavailable)
                return
            job = _claim(job_id, desk)
            if job is None:
                return
            failpoint(Failpoint.CLAIMED, job_id)
            thread = threading.Thread(
                target=_live, args=(job, group, desk, stack.pop_all()), name=f"story {job_id}", daemon=True
            )
            thread.start()
        self._running = {running for running in self._running if running.is_alive()} | {thread}
        try:
            desk.link.wait_for_place(until=lambda: desk.drain.is_asked)
        except GroupUnavailable as unavailable:
            log.info("no more is taken now: %s", unavailable)

    def wait_until_all_ended(self, *, grace_s: float) -> None:
        """Once no more begin. After a drain it waits until `grace_s` after all was handed back."""
        for thread in self._running:
            while thread.is_alive() and not self._desk.drain.is_overdue:
                thread.join(timeout=POLL_S)
        deadline = time.monotonic() + grace_s
        for thread in self._running:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))


def _claim(job_id: str, desk: RenderDesk) -> Job | None:
    """None: not to be had (see `transitions.claim`), or the record cannot be reached."""
    try:
        with desk.database.transaction() as session:
            return transitions.claim(session, job_id, worker=desk.node_name, preset=desk.preset)
    except SQLAlchemyError as error:
        log.warning("%s: not claimed, the record is away: %s", job_id, error)
        return None


def _live(job: Job, group: Session, desk: RenderDesk, place: ExitStack) -> None:
    """One attempt: the video is made and the job ends, or the job goes on elsewhere. `place` is on the node."""
    log.info("%s: attempt %d begins", job.id, job.attempt)
    with (
        place,
        Lease(desk.database, job_id=job.id, attempt=job.attempt, drain=desk.drain) as lease,
        desk.attempts.of(job.id, attempt=job.attempt) as directory,
    ):
        try:
            made = make(job, group=group, lease=lease, desk=desk, directory=directory)
        except LeaseLost as lost:
            log.warning("%s: nothing is shipped: %s", job.id, lost)
        except CancelRequested:
            _settle(job, lease, transitions.confirm_cancel)
        except (DrainRequested, RenderDrained, GroupUnavailable) as reason:
            log.info("%s: handed back: %s", job.id, reason)
            _settle(job, lease, transitions.hand_back)
        except GroupFailed as failure:
            _settle(job, lease, partial(transitions.record_crash, message=failure.message))
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the job has an outcome and the log a trace
            _end_badly(job, lease, ending_of(error))
        else:
            _succeed(job, lease, made)
        forget_if_ended(job, directory=pieces_directory(directory), lease=lease, storage=desk.storage)


def _succeed(job: Job, lease: Lease, made: Made) -> None:
    """Nothing may undo a video that is stored: a lost reply is asked about, never answered by rendering again."""
    failpoint(Failpoint.UPLOADED, job.id)

    def succeed(session: DatabaseSession, job_id: str, *, attempt: int) -> bool:
        lease.write_progress(session)
        return transitions.succeed(
            session, job_id, attempt=attempt, keys=made.keys, output=made.output, metrics=made.metrics
        )

    if _settle(job, lease, succeed):
        failpoint(Failpoint.DONE, job.id)
        log.info("%s: succeeded in %.1f s of GPU time", job.id, made.metrics.gpu_seconds)
    elif lease.settle(lambda session: transitions.outcome_of(session, job.id, attempt=job.attempt)) is None:
        _settle(job, lease, transitions.confirm_cancel)  # still held, so that is why it could not succeed


def _end_badly(job: Job, lease: Lease, ending: Ending) -> None:
    transition = transitions.retry_later if ending.is_worth_another_try else transitions.fail
    log.warning("%s: attempt %d ends with %s: %s", job.id, job.attempt, ending.code, ending.message)
    _settle(job, lease, partial(transition, code=ending.code, message=ending.message))


def _settle(job: Job, lease: Lease, transition: Callable[..., bool]) -> bool:
    """Whether the job ended, or left this attempt, in the way of `transition`."""

    def run(session: DatabaseSession) -> bool:
        return transition(session, job.id, attempt=job.attempt)

    settled = lease.settle(run)
    if not settled:
        log.warning("%s: attempt %d had nothing to settle: it is decided elsewhere", job.id, job.attempt)
    return bool(settled)
