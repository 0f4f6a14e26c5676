"""A job's changes as server-sent events. Knows how to wait and what to send; a stream holds no database connection.

A stream begins with the job as it is, and sends it again whenever its status, phase or progress changed. It ends after
a terminal status. Woken by the process's listener; while that is away it looks every two seconds.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, ParamSpec, TypeVar

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool

from api.auth import JobsReader, check_still_valid
from api.errors import ApiError, ErrorCode
from api.job_actions import see_job
from api.job_view import SeenJob
from api.openapi import problems
from api.schemas import JobId
from api.services import InjectedServices, Services

HEARTBEAT_S = 15.0
HEARTBEAT = b": still here\n\n"
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"])

_EVENT_SCHEMA = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"const": "job"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobOut"},
        },
    },
}


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events named `job` whose data is the job; comments in between keep the connection open",
            "content": {"text/event-stream": {"schema": _EVENT_SCHEMA}},
        },
        204: {"description": "The job has ended, and `Last-Event-ID` shows that the client knows: do not come back"},
        **problems(ErrorCode.not_found),
    },
)
async def job_events(
    job_id: JobId,
    principal: JobsReader,
    services: InjectedServices,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Follow a job until it ends."""

    def look() -> Telling:
        with services.database.transaction() as session:
            check_still_valid(session, principal)
            seen = see_job(session, job_id, services, tenant_id=principal.tenant_id)
        return Telling(moment=moment_of(seen), event=lambda: job_event(seen), is_last=not seen.is_active)

    return await stream_of(job_id, look, services, last_event_id=last_event_id)


@dataclass(frozen=True)
class Telling:
    """What one look at a job has to tell."""

    moment: str
    """The id of the event: the same as long as there is nothing new to tell."""
    event: Callable[[], bytes]
    """Made only if it is told: most looks find nothing new."""
    is_last: bool


async def stream_of(
    job_id: str, look: Callable[[], Telling], services: Services, *, last_event_id: str | None
) -> Response:
    """A stream of what `look` has to tell of a job, until the last of it. Raises what `look` raises at first."""
    first = await run_in_threadpool(look)
    if first.is_last and last_event_id == first.moment:
        return Response(status_code=204)
    return StreamingResponse(
        _tell(job_id, first, look, services), media_type="text/event-stream", headers=STREAM_HEADERS
    )


async def _tell(job_id: str, told: Telling, look: Callable[[], Telling], services: Services) -> AsyncIterator[bytes]:
    changes = services.changes
    clock = asyncio.get_running_loop().time
    with changes.subscribe(job_id) as subscription:
        yield told.event()
        heartbeat_at = clock() + HEARTBEAT_S
        pause = 0.0  # at first: it may have changed before the subscription began
        while not told.is_last and not changes.is_closing:
            await subscription.wait(timeout_s=pause)
            try:
                latest = await look_again(look)
            except ApiError:
                return  # the key was revoked, or the job deleted
            if latest is not None and latest.moment != told.moment:
                told = latest
                yield told.event()
                heartbeat_at = clock() + HEARTBEAT_S
            elif clock() >= heartbeat_at:
                yield HEARTBEAT
                heartbeat_at = clock() + HEARTBEAT_S
            pause = changes.pause_s(heartbeat_at - clock())


async def look_again(look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What `look` sees; None while the database is away, so that a stream outlives its restart."""
    try:
        return await run_in_threadpool(look, *args, **kwargs)
    except (OperationalError, PoolTimeoutError) as error:
        logger.warning("a stream of events could not look: %s", error)
        return None


def job_event(seen: SeenJob) -> bytes:
    return sse(event="job", data=json.dumps(seen.out.model_dump(mode="json")), event_id=moment_of(seen))


def sse(*, event: str, data: str, event_id: str | None = None) -> bytes:
    """One event on the wire. `data` must be a single line."""
    identified = "" if event_id is None else f"id: {event_id}\n"
    return f"{identified}event: {event}\ndata: {data}\n\n".encode()


def moment_of(seen: SeenJob) -> str:
    """The same as long as there is nothing new to tell: a place further up the queue alone is not worth an event."""
    job = seen.out
    canceling = "-canceling" if job.cancel_requested_at is not None else ""
    return f"{job.attempt}-{job.status}-{job.phase}-{job.progress.blocks_done}-{job.progress.blocks_total}{canceling}"
