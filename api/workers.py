"""The resource `/v1/workers`: GPU nodes as they last reported themselves. Knows one table; a request is left there."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.auth import WorkersKeeper, WorkersReader
from api.errors import ApiError, ErrorCode
from api.openapi import problems
from api.pagination import AfterWorker, Limit, fetch_page, page_size
from api.patterns import NO_NUL
from api.schemas import Answer, Moment, Page
from api.services import InjectedServices
from models.job import Job
from models.worker_node import DrainAnswer, NodeState, WorkerNode, request_drain

SILENCE = dt.timedelta(seconds=60)

router = APIRouter(tags=["workers"])

WorkerName = Annotated[str, Path(min_length=1, max_length=255, pattern=NO_NUL)]


class Device(Answer):
    name: str
    memory_total_bytes: int | None
    memory_used_bytes: int | None


class WorkerOut(Answer):
    name: str
    object: Literal["worker"] = "worker"
    state: NodeState = Field(description="as it last reported")
    online: bool = Field(description="whether it reported within the last minute, and did not stop")
    preset: str
    ranks: int
    devices: list[Device]
    current_job_id: str | None = Field(description="shown if the job is this tenant's")
    group_restarts: int
    version: str
    started_at: Moment
    last_seen_at: Moment
    last_progress_at: Moment | None
    drain_requested_at: Moment | None = Field(description="when it was last asked to hand its jobs back and end")


class WorkerPage(Page[WorkerOut]):
    """Workers, by falling name."""


@router.get("/v1/workers", response_model=WorkerPage, responses=problems(ErrorCode.invalid_request))
def list_workers(
    principal: WorkersReader, services: InjectedServices, limit: Limit = None, after: AfterWorker = None
) -> WorkerPage:
    """Every node that this installation has heard of."""
    with services.database.transaction() as session:
        return page_of_workers(
            session, tenant_id=principal.tenant_id, after=after, limit=page_size(limit, services.settings)
        )


@router.get(
    "/v1/workers/{name:path}",
    response_model=WorkerOut,
    responses=problems(ErrorCode.not_found, ErrorCode.invalid_request),
)
def read_worker(name: WorkerName, principal: WorkersReader, services: InjectedServices) -> WorkerOut:
    """One node."""
    with services.database.transaction() as session:
        node = session.get(WorkerNode, name)
        if node is None:
            raise ApiError(ErrorCode.not_found, "There is no such worker.")
        return _views(session, [node], tenant_id=principal.tenant_id)[0]


@router.put(  # not below /v1/workers/, where all that follows is a name
    "/v1/worker-drains/{name:path}",
    status_code=202,
    response_model=WorkerOut,
    responses=problems(ErrorCode.not_found, ErrorCode.worker_ended, ErrorCode.invalid_request),
)
def drain_worker(name: WorkerName, principal: WorkersKeeper, services: InjectedServices) -> WorkerOut:
    """Ask a node to hand its jobs back and end. It does so within seconds, and is `stopped` then.

    For operators: no tenant's `admin` key may do it, only one with the scope `workers:drain`. Doing it twice is fine.
    """
    with services.database.transaction() as session:
        drain(session, name)
        return _views(session, [session.get_one(WorkerNode, name)], tenant_id=principal.tenant_id)[0]


def page_of_workers(session: Session, *, tenant_id: str, after: str | None, limit: int) -> WorkerPage:
    """Every node, as this tenant sees it."""
    nodes, has_more = fetch_page(session, select(WorkerNode), WorkerNode.name, after=after, limit=limit)
    data = _views(session, nodes, tenant_id=tenant_id)
    return WorkerPage(data=data, has_more=has_more, next=data[-1].name if has_more else None)


def drain(session: Session, name: str) -> None:
    """Raises ApiError `not_found` or `worker_ended`."""
    match request_drain(session, name):
        case DrainAnswer.UNKNOWN:
            raise ApiError(ErrorCode.not_found, "There is no such worker.")
        case DrainAnswer.ENDED:
            raise ApiError(ErrorCode.worker_ended)
        case DrainAnswer.REQUESTED:
            pass


def _views(session: Session, nodes: Sequence[WorkerNode], *, tenant_id: str) -> list[WorkerOut]:
    now = session.scalar(select(func.now()))
    assert now is not None
    current = [node.current_job_id for node in nodes if node.current_job_id is not None]
    own = set(session.scalars(select(Job.id).where(Job.id.in_(current), Job.tenant_id == tenant_id)))
    return [_view(node, now=now, own_jobs=own) for node in nodes]


def _view(node: WorkerNode, *, now: dt.datetime, own_jobs: Collection[str]) -> WorkerOut:
    return WorkerOut(
        name=node.name,
        state=NodeState(node.state),
        online=node.state != NodeState.STOPPED and node.last_seen_at > now - SILENCE,
        preset=node.preset,
        ranks=node.ranks,
        devices=[
            Device(
                name=str(device.get("name", "")),
                memory_total_bytes=device.get("memory_total_bytes"),
                memory_used_bytes=device.get("memory_used_bytes"),
            )
            for device in node.devices
        ],
        current_job_id=node.current_job_id if node.current_job_id in own_jobs else None,
        group_restarts=node.group_restarts,
        version=node.version,
        started_at=node.started_at,
        last_seen_at=node.last_seen_at,
        last_progress_at=node.last_progress_at,
        drain_requested_at=node.drain_requested_at,
    )
