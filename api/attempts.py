"""`/v1/jobs/{id}/attempts`: what became of each try of a job. Knows one table."""

from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import JobsReader
from api.errors import ErrorCode
from api.job_actions import own_job
from api.keys import Principal, Scope
from api.openapi import problems
from api.pagination import AfterAttempt, Limit, fetch_page, page_size
from api.schemas import Answer, JobError, JobId, Moment, Page
from api.services import InjectedServices
from models.job import Attempt, AttemptOutcome

router = APIRouter(tags=["jobs"])


class AttemptOut(Answer):
    attempt: int = Field(description="1: the first")
    object: Literal["attempt"] = "attempt"
    worker: str | None = Field(description="which node; shown to keys with the scope `workers`")
    started_at: Moment
    ended_at: Moment | None
    outcome: AttemptOutcome | None = Field(
        description="null: it goes on. After error, drained, crashed and lost the job is tried again, or has failed if"
        " that came too often"
    )
    error: JobError | None = Field(description="why it ended")


class AttemptPage(Page[AttemptOut]):
    """Attempts, the last one first."""


@router.get(
    "/v1/jobs/{job_id}/attempts",
    response_model=AttemptPage,
    responses=problems(ErrorCode.not_found, ErrorCode.invalid_request),
)
def list_attempts(
    job_id: JobId, principal: JobsReader, services: InjectedServices, limit: Limit = None, after: AfterAttempt = None
) -> AttemptPage:
    """Each time that a worker began the job, and how that ended. A job in the queue may have had some."""
    with services.database.transaction() as session:
        own_job(session, job_id, tenant_id=principal.tenant_id)
        data, has_more = attempts_of(session, job_id, principal, after=after, limit=page_size(limit, services.settings))
    return AttemptPage(data=data, has_more=has_more, next=str(data[-1].attempt) if has_more else None)


def attempts_of(
    session: Session, job_id: str, principal: Principal, *, after: int | None = None, limit: int
) -> tuple[list[AttemptOut], bool]:
    """Those of one of the tenant's jobs, the last one first, and whether more follow."""
    query = select(Attempt).where(Attempt.job_id == job_id)
    attempts: Sequence[Attempt]
    attempts, has_more = fetch_page(session, query, Attempt.attempt, after=after, limit=limit)
    sees_workers = principal.may(Scope.WORKERS)
    return [_view(attempt, sees_workers=sees_workers) for attempt in attempts], has_more


def _view(attempt: Attempt, *, sees_workers: bool) -> AttemptOut:
    code = attempt.error_code
    return AttemptOut(
        attempt=attempt.attempt,
        worker=attempt.worker if sees_workers else None,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=None if attempt.outcome is None else AttemptOutcome(attempt.outcome),
        error=None if code is None else JobError(code=code, message=attempt.error_message or ""),
    )
