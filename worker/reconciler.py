"""What makes the record right again and keeps the queue fed: one round of each duty.

Knows the record and the publisher; nothing of time or leadership, which are the scheduler's. Every duty may be done by
several reconcilers at once and be broken off anywhere.
"""

from dataclasses import dataclass

import structlog

from models.database import Database
from models.deliveries import bury_undeliverable, forget_delivery_dispatch, take_due_deliveries
from models.dispatch import forget_dispatch, take_undispatched
from models.prune import prune
from models.transitions import expire_overdue, rescue_lost
from worker.failpoints import Failpoint, failpoint
from worker.publisher import BrokerDown, Publisher

MOST_PRUNE_BATCHES = 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Reconciler:
    database: Database
    publisher: Publisher

    def rescue(self) -> None:
        """Take jobs from workers that are gone, end what is overdue, bury what cannot be delivered."""
        with self.database.transaction() as session:
            rescued = rescue_lost(session)
        if rescued:
            failpoint(Failpoint.RESCUED)
            log.warning("leases expired", jobs=rescued)
        with self.database.transaction() as session:
            expired = expire_overdue(session)
        if expired:
            log.info("deadlines passed", jobs=expired)
        with self.database.transaction() as session:
            buried = bury_undeliverable(session)
        if buried:
            log.info("deliveries ended with their endpoints", deliveries=buried)

    def publish_jobs(self) -> None:
        """Wake workers for the jobs whose turn it is. Raises BrokerDown; the jobs not published keep their turn."""
        with self.database.transaction() as session:
            due = take_undispatched(session)
        if due:
            failpoint(Failpoint.TAKEN)
        for number, job in enumerate(due):
            try:
                self.publisher.wake_for_render(job.job_id, preset=job.preset, priority=job.priority)
            except BrokerDown:
                with self.database.transaction() as session:
                    forget_dispatch(session, [left.job_id for left in due[number:]])
                raise

    def publish_deliveries(self) -> None:
        """Wake senders for the webhooks that are due. Raises BrokerDown; those not published keep their turn."""
        with self.database.transaction() as session:
            due = take_due_deliveries(session)
        for number, delivery_id in enumerate(due):
            try:
                self.publisher.wake_for_delivery(delivery_id)
            except BrokerDown:
                with self.database.transaction() as session:
                    forget_delivery_dispatch(session, due[number:])
                raise

    def prune(self) -> None:
        """Delete what has served its time; what is left after some batches waits for the next round."""
        for _ in range(MOST_PRUNE_BATCHES):
            with self.database.transaction() as session:
                if prune(session) == 0:
                    return
