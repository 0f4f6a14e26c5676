"""GPU nodes as they last reported themselves. For people and metrics: no job's fate is decided by this table."""

from enum import StrEnum
from typing import Any

from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

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
