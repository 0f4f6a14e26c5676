"""The resource `/v1/jobs`: create, read, list, cancel, retry. Knows the tables; renders nothing."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.auth import JobsReader, JobsWriter
from api.errors import ErrorCode
from api.idempotency import Created, IdempotencyKey, create_once, identify, stored_answer
from api.job_actions import (
    cancel,
    check_references,
    custom_id_taken,
    insert_job,
    new_job,
    retry,
    see_job,
)
from api.job_filters import JobFilter, jobs_of
from api.job_inputs import check_input
from api.job_view import view_jobs
from api.openapi import IDEMPOTENT, JSON_BODY, problems
from api.pagination import AfterJob, Limit, fetch_page, page_size
from api.patterns import NO_NUL
from api.schemas import BatchId, JobCreate, JobId, JobOut, JobPage, Moment
from api.services import InjectedServices, Services
from models.job import Job, JobStatus
from models.transitions import CancelAnswer

RETRY_AFTER_S = {JobStatus.QUEUED: 5, JobStatus.RUNNING: 2}

router = APIRouter(tags=["jobs"])

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
            ErrorCode.upload_missing, ErrorCode.upload_empty, ErrorCode.upload_too_large, ErrorCode.bucket_not_allowed,
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
        check_references(session, body, tenant_id=principal.tenant_id)
        return insert_job(session, new_job(checked, body, tenant_id=principal.tenant_id), services)

    try:
        created = create_once(services.database, identity, create)
    except IntegrityError as error:
        raise custom_id_taken(error) from error
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
    after: AfterJob = None,
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


def _publish(created: Created, services: Services) -> JSONResponse:
    if not created.is_replay:
        services.queue.wake()
    return created.response()
