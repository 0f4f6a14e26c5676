"""What the API and the dashboard do with jobs: find, create, cancel, retry. Knows the tables; knows no HTTP route.

Each function works in its caller's transaction, for one tenant.
"""

import datetime as dt
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.errors import ApiError, ErrorCode, field_error
from api.idempotency import Created
from api.job_inputs import CheckedInput
from api.job_view import SeenJob, view_jobs
from api.schemas import JobCreate
from api.services import Services
from models.batch import Batch
from models.ids import IdPrefix, new_id
from models.job import Job, JobStatus
from models.transitions import CancelAnswer, request_cancel
from models.webhook import WebhookEndpoint

MAX_DEADLINE = dt.timedelta(days=366)
RETRYABLE = frozenset({JobStatus.FAILED, JobStatus.CANCELED, JobStatus.EXPIRED})
_REPEATED = (
    "batch_id", "audio_source", "image_source", "video_source", "reference_time_s", "prompt", "seed", "fps",
    "size_policy", "width", "height", "denoising_steps", "audio_mode", "sink_rotation", "duration_s", "length_policy",
    "preset", "webhook_endpoint_id", "labels", "priority",
)  # fmt: skip


def see_job(session: Session, job_id: str, services: Services, *, tenant_id: str) -> SeenJob:
    """Raises ApiError `not_found` for an id that is not this tenant's."""
    return view_jobs(session, [own_job(session, job_id, tenant_id=tenant_id)], services)[0]


def own_job(session: Session, job_id: str, *, tenant_id: str) -> Job:
    """Raises ApiError `not_found` for an id that is not this tenant's."""
    job = session.scalars(select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id)).one_or_none()
    if job is None:
        raise ApiError(ErrorCode.not_found, f"There is no job {job_id}.")
    return job


def cancel(session: Session, job_id: str, *, tenant_id: str) -> CancelAnswer:
    """CANCELED for a job that was canceled before, too. Raises ApiError `not_found` or `job_ended`."""
    answer = request_cancel(session, job_id, tenant_id=tenant_id)
    if answer in (CancelAnswer.CANCELED, CancelAnswer.REQUESTED):
        return answer
    job = own_job(session, job_id, tenant_id=tenant_id)
    if job.status != JobStatus.CANCELED:
        raise ApiError(ErrorCode.job_ended, f"The job ended as {job.status}.")
    return CancelAnswer.CANCELED


def retry(session: Session, job_id: str, services: Services, *, tenant_id: str) -> Created:
    """Insert the repetition of an ended job. Raises ApiError `not_found` or `job_not_retryable`."""
    old = own_job(session, job_id, tenant_id=tenant_id)
    if old.status not in RETRYABLE:
        raise ApiError(ErrorCode.job_not_retryable, f"The job is {old.status}.")
    copied = {column: getattr(old, column) for column in _REPEATED}
    now = session.scalar(select(func.now()))
    assert now is not None
    job = Job(
        id=new_id(IdPrefix.JOB),
        tenant_id=tenant_id,
        retry_of=old.id,
        custom_id=old.custom_id if old.batch_id is None else None,
        deadline_at=old.deadline_at if old.deadline_at is not None and old.deadline_at > now else None,
        **copied,
    )
    return insert_job(session, job, services)


def check_references(session: Session, body: JobCreate, *, tenant_id: str) -> None:
    """Raises ApiError for a batch or endpoint that is not this tenant's, and for a deadline that has passed."""
    if body.batch_id is not None:
        batch = session.scalar(select(Batch.id).where(Batch.id == body.batch_id, Batch.tenant_id == tenant_id))
        if batch is None:
            raise field_error(ErrorCode.unknown_batch, "batch_id", f"There is no batch {body.batch_id}.")
    if body.webhook_endpoint_id is not None:
        endpoint = session.scalar(
            select(WebhookEndpoint.id).where(
                WebhookEndpoint.id == body.webhook_endpoint_id,
                WebhookEndpoint.tenant_id == tenant_id,
                WebhookEndpoint.deleted_at.is_(None),
            )
        )
        if endpoint is None:
            message = f"There is no webhook endpoint {body.webhook_endpoint_id}."
            raise field_error(ErrorCode.unknown_webhook_endpoint, "webhook_endpoint_id", message)
    now = session.scalar(select(func.now()))
    assert now is not None
    if body.deadline is not None and not now < body.deadline < now + MAX_DEADLINE:
        message = f"The deadline must lie in the future, at most {MAX_DEADLINE.days} days ahead."
        raise field_error(ErrorCode.deadline_passed, "deadline", message)


def new_job(checked: CheckedInput, body: JobCreate, *, tenant_id: str) -> Job:
    columns: dict[str, Any] = vars(checked)
    return Job(
        id=new_id(IdPrefix.JOB),
        tenant_id=tenant_id,
        batch_id=body.batch_id,
        custom_id=body.custom_id,
        labels=dict(body.metadata or {}),
        webhook_endpoint_id=body.webhook_endpoint_id,
        deadline_at=body.deadline,
        **columns,
    )


def insert_job(session: Session, job: Job, services: Services) -> Created:
    session.add(job)
    session.flush()
    session.refresh(job)  # what the database filled in
    seen = view_jobs(session, [job], services)[0]
    return Created(status_code=201, body=seen.out.model_dump(mode="json"), location=f"/v1/jobs/{job.id}")


def custom_id_taken(error: IntegrityError) -> ApiError | IntegrityError:
    if "uq_jobs_batch_id_custom_id" not in str(error.orig):
        return error
    return field_error(ErrorCode.custom_id_taken, "custom_id", "Another job of the batch has this custom_id.")
