"""A job's outputs: a redirect to a link that is signed at that moment. Knows the row; serves no bytes itself."""

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import RedirectResponse

from api.auth import JobsReader
from api.errors import ApiError, ErrorCode
from api.job_actions import own_job
from api.job_view import Variant, output_expires_at, output_link
from api.openapi import problems
from api.schemas import JobId
from api.services import InjectedServices, Services
from api.storage import Disposition
from models.job import TERMINAL_STATUSES, JobStatus

router = APIRouter(tags=["jobs"])


@router.get(
    "/v1/jobs/{job_id}/content",
    status_code=302,
    response_class=RedirectResponse,
    responses={
        302: {
            "description": "To the file, by a link that works for about an hour",
            "headers": {"Location": {"schema": {"type": "string"}}},
        },
        **problems(
            ErrorCode.not_found, ErrorCode.variant_missing, ErrorCode.job_not_finished, ErrorCode.job_without_output,
            ErrorCode.output_expired, ErrorCode.invalid_request,
        ),
    },
)  # fmt: skip
def read_content(
    job_id: JobId,
    principal: JobsReader,
    services: InjectedServices,
    variant: Annotated[Variant, Query(description="`preview` is a short moving picture, where one was made")] = (
        Variant.VIDEO
    ),
) -> Response:
    """The finished video, its poster or its preview."""
    return redirect_to_output(job_id, variant, services, tenant_id=principal.tenant_id)


def redirect_to_output(
    job_id: str,
    variant: Variant,
    services: Services,
    *,
    tenant_id: str,
    disposition: Disposition = Disposition.INLINE,
) -> Response:
    """Raises ApiError `not_found`, `variant_missing`, `job_not_finished`, `job_without_output` or `output_expired`."""
    with services.database.transaction() as session:
        job = own_job(session, job_id, tenant_id=tenant_id)
    if job.status not in TERMINAL_STATUSES:
        raise ApiError(ErrorCode.job_not_finished, f"The job is {job.status}.", headers={"Retry-After": "5"})
    if job.status != JobStatus.SUCCEEDED:
        raise ApiError(ErrorCode.job_without_output, f"The job ended as {job.status}.")
    expires_at = output_expires_at(job, services)
    if expires_at is not None and expires_at <= dt.datetime.now(dt.UTC):
        raise ApiError(ErrorCode.output_expired, f"It was kept until {expires_at:%Y-%m-%d %H:%M} UTC.")
    url = output_link(job, variant, services, disposition=disposition)
    if url is None:
        raise ApiError(ErrorCode.variant_missing, f"The job has no {variant}.")
    return RedirectResponse(url, status_code=302, headers={"Cache-Control": "private, no-store"})
