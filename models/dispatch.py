"""Which queued jobs to publish now. Knows rows; nothing of the broker.

A message waits in the broker for a worker, first in first out, and is sent again after a minute in case it was lost. So
only a window of the backlog is ever out there: the broker holds no copy of ten thousand rows each minute, and a tenant
who submits ten thousand jobs stands beside the others in that window, not in front of them.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.orm import Session

from models.job import Job, JobStatus
from models.queues import Priority
from models.worker_node import NodeState, WorkerNode

REDISPATCH_AFTER = dt.timedelta(seconds=60)
SMALLEST_WINDOW = 8
JOBS_PER_NODE = 4
NODE_SEEN_WITHIN = dt.timedelta(minutes=2)

# a tenant's n-th job stands beside the n-th job of the others; those it has running count as its first ones;
# each preset has a window of its own, or jobs that no node can render would stand before those that one can
FAIR_WINDOW = text("""
    SELECT id FROM (
        SELECT queued.id, priority.rank,
               row_number() OVER (
                   PARTITION BY wanted.preset, priority.rank ORDER BY running.count + queued.number, queued.id
               ) AS place
          FROM unnest(CAST(:priorities AS text[])) WITH ORDINALITY AS priority(name, rank)
         CROSS JOIN (SELECT DISTINCT preset FROM jobs WHERE status = 'queued') AS wanted
         CROSS JOIN tenants
         CROSS JOIN LATERAL (
               SELECT count(*) FROM jobs WHERE jobs.tenant_id = tenants.id AND jobs.status = 'running'
         ) AS running
         CROSS JOIN LATERAL (
               SELECT id, row_number() OVER (ORDER BY id) AS number
                 FROM jobs
                WHERE jobs.tenant_id = tenants.id AND jobs.priority = priority.name
                  AND jobs.preset = wanted.preset
                  AND jobs.status = 'queued' AND jobs.run_after <= now()
                ORDER BY id
                LIMIT :window
         ) AS queued
    ) AS candidates
     WHERE place <= :window
     ORDER BY rank, place
""")


@dataclass(frozen=True)
class Dispatch:
    job_id: str
    preset: str
    priority: str


def take_undispatched(session: Session) -> list[Dispatch]:
    """Jobs whose message was never published, or so long ago that it may be lost; marks them as published.

    Publish them after the commit; should that fail, `forget_dispatch` lets the next round take them at once. They come
    in the order in which they should run: by priority, then the tenants in turn, each tenant's oldest first.
    """
    window = dispatch_window(session)
    in_window = _fair_window(session, window)
    rows = session.execute(
        update(Job)
        .where(
            Job.id.in_(
                select(Job.id)
                .where(
                    Job.id.in_(in_window),
                    Job.status == JobStatus.QUEUED,
                    or_(Job.dispatched_at.is_(None), Job.dispatched_at < func.now() - REDISPATCH_AFTER),
                )
                .with_for_update(key_share=True, skip_locked=True)
            )
        )
        .values(dispatched_at=func.now())
        .returning(Job.id, Job.preset, Job.priority),
        execution_options={"synchronize_session": False},
    ).all()
    position = {job_id: number for number, job_id in enumerate(in_window)}
    taken = sorted(rows, key=lambda row: position[row.id])
    return [Dispatch(job_id=row.id, preset=row.preset, priority=row.priority) for row in taken]


def forget_dispatch(session: Session, job_ids: Sequence[str]) -> None:
    """These could not be published after all."""
    session.execute(
        update(Job).where(Job.id.in_(job_ids), Job.status == JobStatus.QUEUED).values(dispatched_at=None),
        execution_options={"synchronize_session": False},
    )


def dispatch_window(session: Session) -> int:
    """How many jobs of one preset and priority may wait in the broker: some for each node that reported lately."""
    nodes = session.scalar(
        select(func.count())
        .select_from(WorkerNode)
        .where(
            WorkerNode.state.in_((NodeState.READY, NodeState.BUSY)),
            WorkerNode.last_seen_at > func.now() - NODE_SEEN_WITHIN,
        )
    )
    return max(SMALLEST_WINDOW, JOBS_PER_NODE * (nodes or 0))


def _fair_window(session: Session, window: int) -> list[str]:
    """Ids of the first `window` due jobs of each preset and priority, in the order in which they should run."""
    return list(
        session.scalars(FAIR_WINDOW, {"priorities": [str(priority) for priority in Priority], "window": window})
    )
