"""How long a job will take: its place in the queue, and a guess of its end from the pace of recent jobs. Knows SQL.

Guesses only: workers take jobs by priority, then in about the order in which they came.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from api.pagination import first_id_at
from models.ids import IdPrefix
from models.job import Job, JobStatus
from models.queues import Priority
from models.worker_node import NodeState, WorkerNode

RECENT = dt.timedelta(days=1)
RECENT_JOBS = 50
WORKER_SILENCE = dt.timedelta(seconds=60)

_RANK = case({priority.value: rank for rank, priority in enumerate(Priority)}, value=Job.priority)


@dataclass(frozen=True)
class Pace:
    """What recent jobs tell: averages over the last `RECENT_JOBS` that succeeded within a day."""

    now: dt.datetime
    ms_per_block: float | None
    blocks_per_job: float | None
    workers: int

    def eta(self, job: Job, *, position: int | None) -> dt.datetime | None:
        """When the job will have ended; None when nothing is known to guess from, or it has ended."""
        if self.ms_per_block is None or self.blocks_per_job is None:
            return None
        blocks = self.blocks_per_job if job.blocks_total is None else job.blocks_total
        if job.status == JobStatus.RUNNING:
            return self.now + dt.timedelta(milliseconds=max(blocks - job.blocks_done, 0) * self.ms_per_block)
        if job.status != JobStatus.QUEUED or position is None or self.workers == 0:
            return None
        wait = (position - 1) / self.workers * self.blocks_per_job
        return self.now + dt.timedelta(milliseconds=(wait + blocks) * self.ms_per_block)


def current_pace(session: Session) -> Pace:
    now = session.scalar(select(func.now()))
    assert now is not None
    recent = (
        select(Job.ms_per_block, Job.blocks_total)
        .where(
            Job.id > first_id_at(IdPrefix.JOB, now - RECENT),
            Job.status == JobStatus.SUCCEEDED,
            Job.ms_per_block.is_not(None),
        )
        .order_by(Job.id.desc())
        .limit(RECENT_JOBS)
        .subquery()
    )
    ms_per_block, blocks = session.execute(
        select(func.avg(recent.c.ms_per_block), func.avg(recent.c.blocks_total))
    ).one()
    workers = session.scalar(
        select(func.count())
        .select_from(WorkerNode)
        .where(WorkerNode.state.in_([NodeState.READY, NodeState.BUSY]), WorkerNode.last_seen_at > now - WORKER_SILENCE)
    )
    return Pace(
        now=now,
        ms_per_block=None if ms_per_block is None else float(ms_per_block),
        blocks_per_job=None if blocks is None else float(blocks),
        workers=workers or 0,
    )


def queue_positions(session: Session, jobs: Sequence[Job]) -> dict[str, int]:
    """Places of the queued ones among all queued jobs, every tenant's; 1 is next."""
    waiting = [job.id for job in jobs if job.status == JobStatus.QUEUED]
    if not waiting:
        return {}
    line = (
        select(Job.id, func.row_number().over(order_by=[_RANK, Job.run_after, Job.id]).label("position"))
        .where(Job.status == JobStatus.QUEUED)
        .subquery()
    )
    rows = session.execute(select(line.c.id, line.c.position).where(line.c.id.in_(waiting))).all()
    return {row.id: row.position for row in rows}
