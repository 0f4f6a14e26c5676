"""Every change of a job's status, each a guarded UPDATE in the caller's transaction. Nothing else changes one.

A function that takes an `attempt` is fenced by it: a worker that lost its lease changes nothing and is told so. The
outcome of a job and the webhook event that reports it are written in the same transaction. All time is the database's.

      create -> queued -> running -> succeeded | failed | canceled
                   |  <- drain, retryable error, dead group, lost lease
                   -> canceled | expired

When the reply to a commit is lost, call the function again: it does its work at most once. Should it then say that
nothing was held, `outcome_of` tells whether that is because the first call succeeded.
"""

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Update, and_, func, insert, or_, select, update
from sqlalchemy.orm import Session

from models.events import write_event
from models.job import Attempt, AttemptOutcome, Job, JobStatus, Phase
from models.output import OutputReport

LEASE = dt.timedelta(seconds=60)
MAX_CRASHES = 3
MAX_ERROR_RETRIES = 3
ERROR_RETRY_DELAY = dt.timedelta(seconds=10)


class HeartbeatAnswer(StrEnum):
    KEPT = "kept"  # the lease is renewed
    CANCEL_REQUESTED = "cancel_requested"  # renewed, but a client wants it stopped: stop and confirm
    LOST = "lost"  # another attempt, the reconciler or a terminal status has it: abort and touch nothing


class CancelAnswer(StrEnum):
    CANCELED = "canceled"  # it had not started
    REQUESTED = "requested"  # a worker has it and will confirm
    ENDED = "ended"  # too late: it has a terminal status
    UNKNOWN = "unknown"  # this tenant has no such job


@dataclass(frozen=True)
class RenderMetrics:
    gpu_seconds: float
    ms_per_block: float


@dataclass(frozen=True)
class OutputKeys:
    video: str
    poster: str
    preview: str | None = None


def claim(session: Session, job_id: str, *, worker: str, preset: str) -> Job | None:
    """queued -> running for exactly one caller, on a worker that has the job's preset.

    None: canceled, ended, not due yet, another worker has it, or it is a job of another preset.
    """
    job = _changed(
        session,
        update(Job)
        .where(
            Job.id == job_id,
            Job.status == JobStatus.QUEUED,
            Job.preset == preset,
            Job.run_after <= func.now(),
            or_(Job.deadline_at.is_(None), Job.deadline_at > func.now()),
        )
        .values(
            status=JobStatus.RUNNING,
            attempt=Job.attempt + 1,
            lease_owner=worker,
            lease_expires_at=func.now() + LEASE,
            started_at=func.coalesce(Job.started_at, func.now()),
            phase=Phase.PREPARING,
            blocks_done=0,
        ),
    )
    if job is not None:
        session.execute(insert(Attempt).values(job_id=job.id, attempt=job.attempt, worker=worker))
    return job


def heartbeat(
    session: Session, job_id: str, *, attempt: int, phase: Phase, blocks_done: int, blocks_total: int | None
) -> HeartbeatAnswer:
    """Renew the lease and record progress. Call it only when the group really moved."""
    job = _changed(
        session,
        update(Job)
        .where(_held(job_id, attempt), Job.lease_expires_at > func.now())
        .values(
            lease_expires_at=func.now() + LEASE,
            phase=phase,
            blocks_done=blocks_done,
            blocks_total=blocks_total,
        ),
    )
    if job is None:
        return HeartbeatAnswer.LOST
    return HeartbeatAnswer.KEPT if job.cancel_requested_at is None else HeartbeatAnswer.CANCEL_REQUESTED


def record_checkpoint(session: Session, job_id: str, *, attempt: int, key: str) -> bool:
    """The next attempt may go on from what lies in the storage under `key`. False: the lease is lost."""
    job = _changed(session, update(Job).where(_held(job_id, attempt)).values(checkpoint_key=key))
    return job is not None


def succeed(
    session: Session,
    job_id: str,
    *,
    attempt: int,
    keys: OutputKeys,
    output: OutputReport,
    metrics: RenderMetrics,
) -> bool:
    """running -> succeeded with its event. False: the lease is lost or a cancel was asked for; ship nothing."""
    job = _changed(
        session,
        update(Job)
        .where(_held(job_id, attempt), Job.cancel_requested_at.is_(None))
        .values(
            **_ended(JobStatus.SUCCEEDED),
            result_key=keys.video,
            poster_key=keys.poster,
            preview_key=keys.preview,
            output=output.model_dump(),
            gpu_seconds=metrics.gpu_seconds,
            ms_per_block=metrics.ms_per_block,
            blocks_done=func.coalesce(Job.blocks_total, Job.blocks_done),
        ),
    )
    return _report(session, job, AttemptOutcome.SUCCEEDED)


def fail(session: Session, job_id: str, *, attempt: int, code: str, message: str) -> bool:
    """running -> failed with its event, for an error that no retry can mend. False: the lease is lost."""
    job = _changed(
        session,
        update(Job)
        .where(_held(job_id, attempt))
        .values(**_ended(JobStatus.FAILED), error_code=code, error_message=message),
    )
    return _report(session, job, AttemptOutcome.FAILED, code=code, message=message)


def confirm_cancel(session: Session, job_id: str, *, attempt: int) -> bool:
    """running -> canceled, by the worker, after its group has stopped. False: the lease is lost, or nobody asked."""
    job = _changed(
        session,
        update(Job)
        .where(_held(job_id, attempt), Job.cancel_requested_at.is_not(None))
        .values(**_ended(JobStatus.CANCELED)),
    )
    return _report(session, job, AttemptOutcome.CANCELED)


def hand_back(session: Session, job_id: str, *, attempt: int) -> bool:
    """running -> queued at once, because the worker drains; -> canceled if that was asked for meanwhile.

    It counts neither as a crash nor as an error. False: the lease is lost.
    """
    job = _locked(session, job_id, attempt)
    if job is None:
        return False
    if job.cancel_requested_at is not None:
        return confirm_cancel(session, job_id, attempt=attempt)
    job = _changed(session, update(Job).where(_held(job_id, attempt)).values(**_requeued(delay=dt.timedelta(0))))
    return _report(session, job, AttemptOutcome.DRAINED)


def retry_later(session: Session, job_id: str, *, attempt: int, code: str, message: str) -> bool:
    """running -> queued after a retryable error, with a growing delay; -> failed when the retries are used up.

    -> canceled if that was asked for meanwhile. False: the lease is lost.
    """
    job = _locked(session, job_id, attempt)
    if job is None:
        return False
    if job.cancel_requested_at is not None:
        return confirm_cancel(session, job_id, attempt=attempt)
    if job.error_retries >= MAX_ERROR_RETRIES:
        return fail(session, job_id, attempt=attempt, code=code, message=message)
    job = _changed(
        session,
        update(Job)
        .where(_held(job_id, attempt))
        .values(
            **_requeued(delay=ERROR_RETRY_DELAY * 2**job.error_retries),
            error_retries=Job.error_retries + 1,
        ),
    )
    return _report(session, job, AttemptOutcome.ERROR, code=code, message=message)


def record_crash(session: Session, job_id: str, *, attempt: int, message: str) -> bool:
    """running -> queued because the GPU group died under the job, although its worker lives; -> failed as poison.

    It counts with the leases that expired: the input may be what kills. False: the lease is lost.
    """
    job = _locked(session, job_id, attempt)
    if job is None:
        return False
    _crash(session, job, AttemptOutcome.CRASHED, code="group_died", message=message)
    return True


def outcome_of(session: Session, job_id: str, *, attempt: int) -> AttemptOutcome | None:
    """How an attempt ended, whoever ended it; None while it still holds the job.

    For the worker whose commit got no reply. Raises LookupError if there never was such an attempt.
    """
    row = session.execute(
        select(Attempt.outcome).where(Attempt.job_id == job_id, Attempt.attempt == attempt)
    ).one_or_none()
    if row is None:
        raise LookupError(f"job {job_id} has no attempt {attempt}")
    return None if row.outcome is None else AttemptOutcome(row.outcome)


def request_cancel(session: Session, job_id: str, *, tenant_id: str) -> CancelAnswer:
    """queued -> canceled, or ask the worker that has it. A running job is canceled when its worker confirms."""
    # locked first: between two guarded updates the job could go from running to queued and look ended
    job = session.scalars(
        select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id).with_for_update(key_share=True),
        execution_options={"populate_existing": True},
    ).one_or_none()
    if job is None:
        return CancelAnswer.UNKNOWN
    if job.status == JobStatus.QUEUED:
        canceled = _changed(
            session,
            update(Job)
            .where(Job.id == job_id, Job.status == JobStatus.QUEUED)
            .values(**_ended(JobStatus.CANCELED), cancel_requested_at=func.now()),
        )
        assert canceled is not None
        write_event(session, canceled)
        return CancelAnswer.CANCELED
    if job.status == JobStatus.RUNNING:
        _changed(
            session,
            update(Job)
            .where(Job.id == job_id, Job.status == JobStatus.RUNNING)
            .values(cancel_requested_at=func.coalesce(Job.cancel_requested_at, func.now())),
        )
        return CancelAnswer.REQUESTED
    return CancelAnswer.ENDED


def rescue_lost(session: Session, *, limit: int = 100) -> list[str]:
    """Jobs whose lease expired: back to queued; canceled if that was asked for; failed as poison after three crashes.

    Returns the ids of the jobs rescued, whatever became of them. Run by the reconciler.
    """
    lost = session.scalars(
        select(Job)
        .where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < func.now())
        .order_by(Job.lease_expires_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True),
        execution_options={"populate_existing": True},
    ).all()
    for job in lost:
        message = f"worker {job.lease_owner} stopped renewing its lease"
        _crash(session, job, AttemptOutcome.LOST, code="lease_expired", message=message)
    return [job.id for job in lost]


def expire_overdue(session: Session, *, limit: int = 100) -> list[str]:
    """queued -> expired for jobs whose deadline passed while no worker had them. Run by the reconciler."""
    overdue = session.scalars(
        select(Job.id)
        .where(Job.status == JobStatus.QUEUED, Job.deadline_at <= func.now())
        .order_by(Job.deadline_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    for job_id in overdue:
        job = _changed(
            session,
            update(Job)
            .where(Job.id == job_id, Job.status == JobStatus.QUEUED)
            .values(
                **_ended(JobStatus.EXPIRED),
                error_code="deadline_exceeded",
                error_message="the deadline passed before a worker was free",
            ),
        )
        assert job is not None
        write_event(session, job)
    return list(overdue)


def _crash(session: Session, locked: Job, outcome: AttemptOutcome, *, code: str, message: str) -> None:
    """What becomes of a running job, locked by this transaction, whose attempt came to nothing by no choice."""
    job_id, attempt = locked.id, locked.attempt
    values: dict[str, object]
    if locked.cancel_requested_at is not None:
        values = _ended(JobStatus.CANCELED)
    elif locked.crash_count + 1 >= MAX_CRASHES:
        values = {
            **_ended(JobStatus.FAILED),
            "crash_count": Job.crash_count + 1,
            "error_code": "poison",
            "error_message": f"the render crashed {MAX_CRASHES} times; the last time {message}",
        }
    else:
        values = {**_requeued(delay=dt.timedelta(0)), "crash_count": Job.crash_count + 1}
    job = _changed(session, update(Job).where(_held(job_id, attempt)).values(**values))
    assert job is not None
    _report(session, job, outcome, code=code, message=message)


def _report(
    session: Session, job: Job | None, outcome: AttemptOutcome, *, code: str | None = None, message: str | None = None
) -> bool:
    """Close the attempt of a job that was just changed, and write the event if it ended. False: it was not changed."""
    if job is None:
        return False
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job.id, Attempt.attempt == job.attempt, Attempt.ended_at.is_(None))
        .values(ended_at=func.now(), outcome=outcome, error_code=code, error_message=message)
    )
    if job.status != JobStatus.QUEUED:
        write_event(session, job)
    return True


def _locked(session: Session, job_id: str, attempt: int) -> Job | None:
    """The job if this attempt holds it, locked so that no cancel request comes in before the commit."""
    return session.scalars(
        select(Job).where(_held(job_id, attempt)).with_for_update(key_share=True),
        execution_options={"populate_existing": True},
    ).one_or_none()


def _changed(session: Session, guarded: Update) -> Job | None:
    """The row as the update left it, or None if the guard kept it away."""
    return session.scalars(
        guarded.returning(Job),
        # the session may hold the row as it was before
        execution_options={"populate_existing": True, "synchronize_session": False},
    ).one_or_none()


def _held(job_id: str, attempt: int) -> ColumnElement[bool]:
    return and_(Job.id == job_id, Job.status == JobStatus.RUNNING, Job.attempt == attempt)


def _ended(status: JobStatus) -> dict[str, object]:
    return {
        "status": status,
        "finished_at": func.now(),
        "lease_owner": None,
        "lease_expires_at": None,
        "phase": None,
    }


def _requeued(*, delay: dt.timedelta) -> dict[str, object]:
    return {
        "status": JobStatus.QUEUED,
        "run_after": func.now() + delay,
        "dispatched_at": None,
        "lease_owner": None,
        "lease_expires_at": None,
        "phase": None,
    }
