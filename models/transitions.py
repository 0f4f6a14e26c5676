"""Every change of a job's status, each one guarded UPDATE in the caller's transaction.

A function that takes an `attempt` is fenced by it: a worker that lost its lease changes nothing and is told so. The
outcome of a job and the webhook event that reports it are written in the same transaction. All time is the database's.

      create -> queued -> running -> succeeded | failed | canceled
                   |  <- drain, retryable error, lost lease
                   -> canceled | expired
"""

import datetime as dt
import json
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, case, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session

from models.ids import IdPrefix, new_id
from models.job import Attempt, AttemptOutcome, Job, JobStatus, Phase
from models.output import OutputReport
from models.webhook import EventType, WebhookDelivery, WebhookEndpoint, WebhookEvent

LEASE = dt.timedelta(seconds=60)
REDISPATCH_AFTER = dt.timedelta(seconds=60)
MAX_CRASHES = 3
MAX_ERROR_RETRIES = 3
ERROR_RETRY_DELAY = dt.timedelta(seconds=10)

EVENT_OF = {
    JobStatus.SUCCEEDED: EventType.JOB_SUCCEEDED,
    JobStatus.FAILED: EventType.JOB_FAILED,
    JobStatus.CANCELED: EventType.JOB_CANCELED,
    JobStatus.EXPIRED: EventType.JOB_EXPIRED,
}


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


def claim(session: Session, job_id: str, *, worker: str) -> Job | None:
    """queued -> running for exactly one caller. None: canceled, ended, not due yet, or another worker has it."""
    job = session.scalars(
        update(Job)
        .where(
            Job.id == job_id,
            Job.status == JobStatus.QUEUED,
            Job.run_after <= func.now(),
            Job.cancel_requested_at.is_(None),
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
        )
        .returning(Job)
    ).one_or_none()
    if job is not None:
        session.execute(insert(Attempt).values(job_id=job.id, attempt=job.attempt, worker=worker))
    return job


def heartbeat(
    session: Session, job_id: str, *, attempt: int, phase: Phase, blocks_done: int, blocks_total: int | None
) -> HeartbeatAnswer:
    """Renew the lease and record progress. Call it only when the group really moved."""
    row = session.execute(
        update(Job)
        .where(_held(job_id, attempt), Job.lease_expires_at > func.now())
        .values(
            lease_expires_at=func.now() + LEASE,
            phase=phase,
            blocks_done=blocks_done,
            blocks_total=blocks_total,
        )
        .returning(Job.cancel_requested_at)
    ).one_or_none()
    if row is None:
        return HeartbeatAnswer.LOST
    return HeartbeatAnswer.KEPT if row.cancel_requested_at is None else HeartbeatAnswer.CANCEL_REQUESTED


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
    job = session.scalars(
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
        )
        .returning(Job)
    ).one_or_none()
    if job is None:
        return False
    _end_attempt(session, job_id, attempt, AttemptOutcome.SUCCEEDED)
    _write_event(session, job)
    return True


def fail(session: Session, job_id: str, *, attempt: int, code: str, message: str) -> bool:
    """running -> failed with its event, for an error that no retry can mend. False: the lease is lost."""
    job = session.scalars(
        update(Job)
        .where(_held(job_id, attempt))
        .values(**_ended(JobStatus.FAILED), error_code=code, error_message=message)
        .returning(Job)
    ).one_or_none()
    if job is None:
        return False
    _end_attempt(session, job_id, attempt, AttemptOutcome.FAILED, code=code, message=message)
    _write_event(session, job)
    return True


def confirm_cancel(session: Session, job_id: str, *, attempt: int) -> bool:
    """running -> canceled, by the worker, after its group has stopped. False: the lease is lost."""
    job = session.scalars(
        update(Job)
        .where(_held(job_id, attempt), Job.cancel_requested_at.is_not(None))
        .values(**_ended(JobStatus.CANCELED))
        .returning(Job)
    ).one_or_none()
    if job is None:
        return False
    _end_attempt(session, job_id, attempt, AttemptOutcome.CANCELED)
    _write_event(session, job)
    return True


def hand_back(session: Session, job_id: str, *, attempt: int) -> bool:
    """running -> queued at once, because the worker drains; canceled if that was asked for meanwhile.

    It counts neither as a crash nor as an error. False: the lease is lost.
    """
    if confirm_cancel(session, job_id, attempt=attempt):
        return True
    done = session.execute(
        update(Job)
        .where(_held(job_id, attempt), Job.cancel_requested_at.is_(None))
        .values(**_requeued(delay=dt.timedelta(0)))
        .returning(Job.id)
    ).one_or_none()
    if done is None:
        return False
    _end_attempt(session, job_id, attempt, AttemptOutcome.DRAINED)
    return True


def retry_later(session: Session, job_id: str, *, attempt: int, code: str, message: str) -> bool:
    """running -> queued after a retryable error, with a growing delay; -> failed when the retries are used up.

    -> canceled if that was asked for meanwhile. False: the lease is lost.
    """
    if confirm_cancel(session, job_id, attempt=attempt):
        return True
    out_of_retries = Job.error_retries + 1 > MAX_ERROR_RETRIES
    failed = session.scalars(
        update(Job)
        .where(_held(job_id, attempt), out_of_retries)
        .values(**_ended(JobStatus.FAILED), error_code=code, error_message=message)
        .returning(Job)
    ).one_or_none()
    if failed is not None:
        _end_attempt(session, job_id, attempt, AttemptOutcome.FAILED, code=code, message=message)
        _write_event(session, failed)
        return True
    requeued = session.execute(
        update(Job)
        .where(_held(job_id, attempt), Job.cancel_requested_at.is_(None))
        .values(
            **_requeued(delay=ERROR_RETRY_DELAY * func.power(2, Job.error_retries)),
            error_retries=Job.error_retries + 1,
        )
        .returning(Job.id)
    ).one_or_none()
    if requeued is None:
        return False
    _end_attempt(session, job_id, attempt, AttemptOutcome.ERROR, code=code, message=message)
    return True


def request_cancel(session: Session, job_id: str, *, tenant_id: str) -> CancelAnswer:
    """queued -> canceled, or ask the worker that has it. A running job is canceled when its worker confirms."""
    owned = and_(Job.id == job_id, Job.tenant_id == tenant_id)
    job = session.scalars(
        update(Job)
        .where(owned, Job.status == JobStatus.QUEUED)
        .values(**_ended(JobStatus.CANCELED), cancel_requested_at=func.now())
        .returning(Job)
    ).one_or_none()
    if job is not None:
        _write_event(session, job)
        return CancelAnswer.CANCELED
    asked = session.execute(
        update(Job)
        .where(owned, Job.status == JobStatus.RUNNING)
        .values(cancel_requested_at=func.coalesce(Job.cancel_requested_at, func.now()))
        .returning(Job.id)
    ).one_or_none()
    if asked is not None:
        return CancelAnswer.REQUESTED
    known = session.scalar(select(Job.id).where(owned))
    return CancelAnswer.UNKNOWN if known is None else CancelAnswer.ENDED


def rescue_lost(session: Session, *, limit: int = 100) -> list[str]:
    """Jobs whose lease expired: back to queued; canceled if that was asked for; failed as poison after three crashes.

    Returns the ids of the jobs rescued, whatever became of them. Run by the reconciler.
    """
    lost = session.scalars(
        select(Job)
        .where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < func.now())
        .order_by(Job.lease_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for job in lost:
        worker, attempt = job.lease_owner, job.attempt
        message = f"worker {worker} stopped renewing its lease"
        if job.cancel_requested_at is not None:
            ended = _ended(JobStatus.CANCELED)
        elif job.crash_count + 1 >= MAX_CRASHES:
            ended = {
                **_ended(JobStatus.FAILED),
                "crash_count": Job.crash_count + 1,
                "error_code": "poison",
                "error_message": f"the render crashed {MAX_CRASHES} times; last, {message}",
            }
        else:
            ended = {**_requeued(delay=dt.timedelta(0)), "crash_count": Job.crash_count + 1}
        row = session.scalars(
            update(Job).where(_held(job.id, attempt)).values(**ended).returning(Job),
            execution_options={"populate_existing": True},
        ).one()
        _end_attempt(session, job.id, attempt, AttemptOutcome.LOST, code="lease_expired", message=message)
        if row.status != JobStatus.QUEUED:
            _write_event(session, row)
    return [job.id for job in lost]


def expire_overdue(session: Session, *, limit: int = 100) -> list[str]:
    """queued -> expired for jobs whose deadline passed before they started. Run by the reconciler."""
    overdue = (
        select(Job.id)
        .where(Job.status == JobStatus.QUEUED, Job.deadline_at <= func.now())
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    jobs = session.scalars(
        update(Job)
        .where(Job.id.in_(overdue), Job.status == JobStatus.QUEUED)
        .values(
            **_ended(JobStatus.EXPIRED),
            error_code="deadline_exceeded",
            error_message="the deadline passed before a worker was free",
        )
        .returning(Job)
    ).all()
    for job in jobs:
        _write_event(session, job)
    return [job.id for job in jobs]


@dataclass(frozen=True)
class Dispatch:
    job_id: str
    priority: str


def take_undispatched(session: Session, *, limit: int = 200) -> list[Dispatch]:
    """Queued jobs whose message was never published, or so long ago that it may be lost; marks them as published.

    Publish them after the commit: should that fail, the next round takes them again. Highest priority first.
    """
    due = (
        select(Job.id)
        .where(
            Job.status == JobStatus.QUEUED,
            Job.run_after <= func.now(),
            or_(Job.dispatched_at.is_(None), Job.dispatched_at < func.now() - REDISPATCH_AFTER),
        )
        .order_by(case((Job.priority == "high", 0), (Job.priority == "normal", 1), else_=2), Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = session.execute(
        update(Job).where(Job.id.in_(due)).values(dispatched_at=func.now()).returning(Job.id, Job.priority)
    ).all()
    return [Dispatch(job_id=row.id, priority=row.priority) for row in sorted(rows, key=lambda row: str(row.id))]


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


def _requeued(*, delay: dt.timedelta | ColumnElement[dt.timedelta]) -> dict[str, object]:
    return {
        "status": JobStatus.QUEUED,
        "run_after": func.now() + delay,
        "dispatched_at": None,
        "lease_owner": None,
        "lease_expires_at": None,
        "phase": None,
    }


def _end_attempt(
    session: Session,
    job_id: str,
    attempt: int,
    outcome: AttemptOutcome,
    *,
    code: str | None = None,
    message: str | None = None,
) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.attempt == attempt, Attempt.ended_at.is_(None))
        .values(ended_at=func.now(), outcome=outcome, error_code=code, error_message=message)
    )


def _write_event(session: Session, job: Job) -> None:
    """The event of a job's end, and a delivery for each endpoint that wants it."""
    event_id = new_id(IdPrefix.EVENT)
    kind = EVENT_OF[JobStatus(job.status)]
    now = session.scalar(select(func.now()))
    assert now is not None
    body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": _event_data(job)}, separators=(",", ":"))
    session.execute(
        insert(WebhookEvent).values(id=event_id, tenant_id=job.tenant_id, job_id=job.id, type=kind, body=body.encode())
    )
    wanted = select(WebhookEndpoint.id).where(
        WebhookEndpoint.tenant_id == job.tenant_id,
        WebhookEndpoint.disabled_at.is_(None),
        WebhookEndpoint.deleted_at.is_(None),
        or_(WebhookEndpoint.events == [], literal(str(kind)) == func.any(WebhookEndpoint.events)),
    )
    if job.webhook_endpoint_id is not None:
        wanted = wanted.where(WebhookEndpoint.id == job.webhook_endpoint_id)
    for endpoint_id in session.scalars(wanted).all():
        session.execute(
            insert(WebhookDelivery).values(
                id=new_id(IdPrefix.DELIVERY),
                event_id=event_id,
                endpoint_id=endpoint_id,
                tenant_id=job.tenant_id,
            )
        )


def _event_data(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "object": "job",
        "status": job.status,
        "attempt": job.attempt,
        "batch_id": job.batch_id,
        "custom_id": job.custom_id,
        "metadata": job.labels,
        "error": None if job.error_code is None else {"code": job.error_code, "message": job.error_message},
        "output": job.output,
    }
