"""GPU nodes as they last reported themselves, and what they are asked to do. No job's fate is decided by this table."""

from enum import StrEnum
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, CreatedAt, Timestamp


class NodeState(StrEnum):
    STARTING = "starting"  # ranks are launching or loading weights
    READY = "ready"  # the group is warm and waits for a job
    BUSY = "busy"  # the group renders
    DRAINING = "draining"  # finishes what it has, takes no more
    UNHEALTHY = "unhealthy"  # the group failed too often; the process is about to exit non-zero
    STOPPED = "stopped"  # ended in good order


class WorkerNode(Base):
    __tablename__ = "worker_nodes"

    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    preset: Mapped[str]
    ranks: Mapped[int]
    devices: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, comment="name, memory_total_bytes, memory_used_bytes")
    current_job_id: Mapped[str | None]
    group_restarts: Mapped[int] = mapped_column(default=0)
    version: Mapped[str]
    started_at: Mapped[CreatedAt]
    last_seen_at: Mapped[Timestamp]
    last_progress_at: Mapped[Timestamp | None]
    drain_requested_at: Mapped[Timestamp | None] = mapped_column(comment="cleared when a node of this name starts")


class DrainAnswer(StrEnum):
    REQUESTED = "requested"  # the node reads it within seconds
    ENDED = "ended"  # it has stopped, or was given up
    UNKNOWN = "unknown"  # no node of this name ever reported


def request_drain(session: Session, name: str) -> DrainAnswer:
    """Ask a node to hand its jobs back and end, as SIGTERM does. Asking twice is asking once."""
    asked = session.scalar(
        update(WorkerNode)
        .where(WorkerNode.name == name, WorkerNode.state.not_in((NodeState.STOPPED, NodeState.UNHEALTHY)))
        .values(drain_requested_at=func.coalesce(WorkerNode.drain_requested_at, func.now()))
        .returning(WorkerNode.name)
    )
    if asked is not None:
        return DrainAnswer.REQUESTED
    known = session.scalar(select(WorkerNode.name).where(WorkerNode.name == name))
    return DrainAnswer.UNKNOWN if known is None else DrainAnswer.ENDED
