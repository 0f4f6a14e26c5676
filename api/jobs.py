"""The resource `/v1/jobs`: create, read, list, cancel, retry. Knows the tables; renders nothing."""

import datetime as dt
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.auth import JobsReader, JobsWriter
from api.errors import ApiError, ErrorCode, field_error
from api.idempotency import Created, IdempotencyKey, create_once, identify, stored_answer
from api.job_filters import JobFilter, jobs_of
from api.job_inputs import CheckedInput, check_input
from api.job_view import SeenJob, view_jobs
from api.openapi import IDEMPOTENT, JSON_BODY, problems
from api.pagination import After, Limit, fetch_page, page_size
from api.schemas import NO_NUL, BatchId, JobCreate, JobId, JobOut, JobPage, Moment
from api.services import InjectedServices, Services
from models.batch import Batch
from models.ids import IdPrefix, new_id
from models.job import Job, JobStatus
from models.transitions import CancelAnswer, request_cancel
from models.webhook import WebhookEndpoint

RETRYABLE = frozenset({JobStatus.FAILED, JobStatus.CANCELED, JobStatus.EXPIRED})
MAX_DEADLINE = dt.timedelta(days=366)
RETRY_AFTER_S = {JobStatus.QUEUED: 5, JobStatus.RUNNING: 2}

router = APIRouter(tags=["jobs"])

_REPEATED = (
    "batch_id", "audio_source", "image_source", "video_source", "reference_time_s", "prompt", "seed", "fps", "width",
    "height", "denoising_steps", "duration_s", "length_policy", "preset", "webhook_endpoint_id", "labels", "priority",
)  # fmt: skip
_LOCATION = {"Location": {"description": "of the new job", "schema": {"type": "string"}}}
_READ_HEADERS = {
    "ETag": {"description": "of this answer, for If-None-Match", "schema": {"type": "string"}},
    "Retry-After": {"description": "seconds until a look is worth while; unless ended", "schema": {"type": "integer"}},
}


@router.post(
    "/v1/jobs",
    status_code=201,
    response_model=JobOut,
    responses={
        201: {"headers": _LOCATION},
        **problems(
            *JSON_BODY, *IDEMPOTENT,
            ErrorCode.unknown_preset, ErrorCode.size_out_of_limits, ErrorCode.fps_out_of_limits,
            ErrorCode.duration_out_of_limits, ErrorCode.deadline_passed, ErrorCode.upload_unknown,
            ErrorCode.upload_missing, ErrorCode.upload_too_large, ErrorCode.bucket_not_allowed,
            ErrorCode.url_not_allowed, ErrorCode.unknown_batch, ErrorCode.unknown_webhook_endpoint,
            ErrorCode.custom_id_taken, ErrorCode.storage_unavailable,
        ),
    },
)  # fmt: skip
def create_job(
    body: JobCreate,
    request: Request,
    principal: JobsWriter,
    services: InjectedServices,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Accept a job. It is recorded when this answers, and will be rendered whatever stops or restarts meanwhile."""
    identity = identify(request, body, tenant_id=principal.tenant_id, key=idempotency_key)
    # looked up before the inputs: an answer given once is given again even if its uploads are gone
    with services.database.transaction() as session:
        before = stored_answer(session, identity)
    if before is not None:
        return before.response()
    checked = check_input(body, services, tenant_id=principal.tenant_id)

    def create(session: Session) -> Created:
        _check_references(session, body, tenant_id=principal.tenant_id)
        job = _new_job(checked, body, tenant_id=principal.tenant_id)
        return _insert(session, job, services)

    try:
        created = create_once(services.database, identity, create)
    except IntegrityError as error:
        raise _custom_id_taken(error) from error
    return _publish(created, services)


@router.get(
    "/v1/jobs",
    response_model=JobPage,
    responses=problems(ErrorCode.invalid_request),
)
def list_jobs(
    principal: JobsReader,
    services: InjectedServices,
    limit: Limit = None,
    after: After = None,
    status: Annotated[list[JobStatus], Query(description="any of these")] = [],  # noqa: B006 - copied by the framework
    batch_id: BatchId | None = None,
    custom_id: Annotated[str | None, Query(max_length=128, pattern=NO_NUL)] = None,
    created_after: Annotated[Moment | None, Query(description="at this time or later")] = None,
    created_before: Annotated[Moment | None, Query(description="before this time")] = None,
    q: Annotated[
        str | None, Query(max_length=200, pattern=NO_NUL, description="in ids, prompt, source, error code, metadata")
    ] = None,
) -> JobPage:
    """The tenant's jobs, newest first."""
    wanted = JobFilter(
        statuses=tuple(status),
        batch_id=batch_id,
        custom_id=custom_id,
        created_after=created_after,
        created_before=created_before,
        text=q,
    )
    with services.database.transaction() as session:
        query = jobs_of(principal.tenant_id, wanted)
        jobs, has_more = fetch_page(session, query, Job.id, after=after, limit=page_size(limit, services.settings))
        data = [seen.out for seen in view_jobs(session, jobs, services)]
    return JobPage(data=data, has_more=has_more, next=data[-1].id if has_more else None)


@router.get(
    "/v1/jobs/{job_id}",
    response_model=JobOut,
    responses={
        200: {"headers": _READ_HEADERS},
        304: {"description": "Not changed since the answer with this ETag", "headers": _READ_HEADERS},
        **problems(ErrorCode.not_found, ErrorCode.invalid_request),
    },
)
def read_job(
    job_id: JobId,
    principal: JobsReader,
    services: InjectedServices,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One job as it is now. While it is active, `Retry-After` says when to look again."""
    with services.database.transaction() as session:
        seen = see_job(session, job_id, services, tenant_id=principal.tenant_id)
    etag = f'W/"{seen.version}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if seen.is_active:
        headers["Retry-After"] = str(RETRY_AFTER_S[seen.out.status])
    if if_none_match is not None and etag in [offered.strip() for offered in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    return JSONResponse(seen.out.model_dump(mode="json"), headers=headers)


@router.post(
    "/v1/jobs/{job_id}/cancel",
    response_model=JobOut,
    responses={
        202: {
            "model": JobOut,
            "description": "Running: its worker was asked to stop, and it ends within about a block",
        },
        **problems(ErrorCode.not_found, ErrorCode.job_ended),
    },
)
def cancel_job(job_id: JobId, principal: JobsWriter, services: InjectedServices) -> JSONResponse:
    """Cancel a job: at once while it is queued, by its worker while it runs. Doing it twice is fine."""
    with services.database.transaction() as session:
        answer = cancel(session, job_id, tenant_id=principal.tenant_id)
        seen = see_job(session, job_id, services, tenant_id=principal.tenant_id)
    return JSONResponse(seen.out.model_dump(mode="json"), status_code=202 if answer is CancelAnswer.REQUESTED else 200)


@router.post(
    "/v1/jobs/{job_id}/retry",
    status_code=201,
    response_model=JobOut,
    responses={
        201: {"headers": _LOCATION},
        **problems(ErrorCode.not_found, ErrorCode.job_not_retryable, ErrorCode.invalid_request, *IDEMPOTENT),
    },
)
def retry_job(
    job_id: JobId,
    request: Request,
    principal: JobsWriter,
    services: InjectedServices,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Repeat a failed, canceled or expired job as a new one, whose `retry_of` names it.

    The new job has the same input. It has no deadline if the old one has passed. In a batch only the first job keeps
    the `custom_id`, which is unique there.
    """
    identity = identify(request, None, tenant_id=principal.tenant_id, key=idempotency_key)
    created = create_once(
        services.database, identity, lambda session: retry(session, job_id, services, tenant_id=principal.tenant_id)
    )
    return _publish(created, services)


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
    return _insert(session, job, services)


def _check_references(session: Session, body: JobCreate, *, tenant_id: str) -> None:
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


def _new_job(checked: CheckedInput, body: JobCreate, *, tenant_id: str) -> Job:
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


def _insert(session: Session, job: Job, services: Services) -> Created:
    session.add(job)
    session.flush()
    session.refresh(job)  # what the database filled in
    seen = view_jobs(session, [job], services)[0]
    return Created(status_code=201, body=seen.out.model_dump(mode="json"), location=f"/v1/jobs/{job.id}")


def _custom_id_taken(error: IntegrityError) -> ApiError | IntegrityError:
    if "uq_jobs_batch_id_custom_id" not in str(error.orig):
        return error
    return field_error(ErrorCode.custom_id_taken, "custom_id", "Another job of the batch has this custom_id.")


def _publish(created: Created, services: Services) -> JSONResponse:
    if not created.is_replay:
        services.queue.wake()
    return created.response()
