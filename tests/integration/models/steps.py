"""The transitions of a job as tests take them, each in a transaction of its own; and time, moved by SQL."""

from dataclasses import dataclass

from sqlalchemy import func, select, text

from models import dispatch, transitions
from models.database import Database
from models.job import Attempt, AttemptOutcome, Job, Phase
from models.transitions import CancelAnswer, HeartbeatAnswer
from models.webhook import WebhookDelivery, WebhookEvent
from tests.factories import KEYS, METRICS, OUTPUT


@dataclass(frozen=True)
class Steps:
    database: Database

    def claim(self, job_id: str, worker: str = "worker-1") -> int | None:
        with self.database.transaction() as session:
            job = transitions.claim(session, job_id, worker=worker, preset="tiny")
            return None if job is None else job.attempt

    def heartbeat(self, job_id: str, attempt: int, blocks_done: int = 1) -> HeartbeatAnswer:
        with self.database.transaction() as session:
            return transitions.heartbeat(
                session, job_id, attempt=attempt, phase=Phase.RENDERING, blocks_done=blocks_done, blocks_total=9
            )

    def succeed(self, job_id: str, attempt: int) -> bool:
        with self.database.transaction() as session:
            return transitions.succeed(session, job_id, attempt=attempt, keys=KEYS, output=OUTPUT, metrics=METRICS)

    def fail(self, job_id: str, attempt: int) -> bool:
        with self.database.transaction() as session:
            return transitions.fail(session, job_id, attempt=attempt, code="bad_audio", message="no sound in it")

    def confirm_cancel(self, job_id: str, attempt: int) -> bool:
        with self.database.transaction() as session:
            return transitions.confirm_cancel(session, job_id, attempt=attempt)

    def hand_back(self, job_id: str, attempt: int) -> bool:
        with self.database.transaction() as session:
            return transitions.hand_back(session, job_id, attempt=attempt)

    def retry_later(self, job_id: str, attempt: int) -> bool:
        with self.database.transaction() as session:
            return transitions.retry_later(
                session, job_id, attempt=attempt, code="storage_unavailable", message="the storage did not answer"
            )

    def record_crash(self, job_id: str, attempt: int) -> bool:
        with self.database.transaction() as session:
            return transitions.record_crash(session, job_id, attempt=attempt, message="rank 1 ended with status -9")

    def request_cancel(self, job_id: str, tenant_id: str) -> CancelAnswer:
        with self.database.transaction() as session:
            return transitions.request_cancel(session, job_id, tenant_id=tenant_id)

    def outcome_of(self, job_id: str, attempt: int) -> AttemptOutcome | None:
        with self.database.transaction() as session:
            return transitions.outcome_of(session, job_id, attempt=attempt)

    def rescue_lost(self) -> list[str]:
        with self.database.transaction() as session:
            return transitions.rescue_lost(session)

    def expire_overdue(self) -> list[str]:
        with self.database.transaction() as session:
            return transitions.expire_overdue(session)

    def take_undispatched(self) -> list[str]:
        with self.database.transaction() as session:
            return [taken.job_id for taken in dispatch.take_undispatched(session)]

    def forget_dispatch(self, job_ids: list[str]) -> None:
        with self.database.transaction() as session:
            dispatch.forget_dispatch(session, job_ids)

    def job(self, job_id: str) -> Job:
        with self.database.transaction() as session:
            return session.get_one(Job, job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.database.transaction() as session:
            return list(session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.attempt)))

    def events(self, job_id: str) -> list[WebhookEvent]:
        with self.database.transaction() as session:
            return list(session.scalars(select(WebhookEvent).where(WebhookEvent.job_id == job_id)))

    def deliveries(self, job_id: str) -> list[WebhookDelivery]:
        with self.database.transaction() as session:
            return list(
                session.scalars(
                    select(WebhookDelivery)
                    .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
                    .where(WebhookEvent.job_id == job_id)
                    .order_by(WebhookDelivery.id)
                )
            )

    def let_lease_expire(self, job_id: str) -> None:
        self.sql("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = :id", id=job_id)

    def let_delay_pass(self, job_id: str) -> None:
        self.sql("UPDATE jobs SET run_after = now() WHERE id = :id", id=job_id)

    def lose_lease(self, job_id: str) -> None:
        """The lease expires and the reconciler takes the job from its worker."""
        self.let_lease_expire(job_id)
        assert self.rescue_lost() == [job_id]

    def sql(self, statement: str, **parameters: object) -> None:
        with self.database.transaction() as session:
            session.execute(text(statement), parameters)

    def seconds_until(self, job_id: str, column: str) -> float:
        """How far in the future a job's timestamp lies, by the database's clock."""
        with self.database.transaction() as session:
            value = session.scalar(
                select(func.extract("epoch", getattr(Job, column) - func.now())).where(Job.id == job_id)
            )
            return float(value)
