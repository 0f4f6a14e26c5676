"""Clients, workers, zombies and the reconciler in any order: what holds always, over the real SQL.

The machine below keeps its own small account of each job and compares every answer with it. Tokens (job, attempt) are
never given up, so any of them may act again at any time: those are the zombies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from sqlalchemy import literal_column, select, text

from models.database import Database
from models.job import TERMINAL_STATUSES, Attempt, AttemptOutcome, Job, JobStatus
from models.tenant import Tenant
from models.transitions import MAX_CRASHES, MAX_ERROR_RETRIES, CancelAnswer, HeartbeatAnswer
from models.webhook import WebhookDelivery, WebhookEvent
from tests import factories
from tests.conftest import DELETE_EVERYTHING
from tests.integration.models.steps import Steps

TYPE_OF_EVENT = {
    "succeeded": "job.succeeded",
    "failed": "job.failed",
    "canceled": "job.canceled",
    "expired": "job.expired",
}


@dataclass
class Account:
    """What should be true of one job."""

    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0
    crashes: int = 0
    retries: int = 0
    cancel_requested: bool = False
    lease_expired: bool = False
    due: bool = True
    overdue: bool = False
    row_when_ended: str | None = None
    endpoints_when_ended: set[str] = field(default_factory=set)
    outcomes: dict[int, AttemptOutcome] = field(default_factory=dict)
    """Of the attempts that have ended."""


@dataclass(frozen=True)
class Token:
    job_id: str
    attempt: int


class Jobs(RuleBasedStateMachine):
    jobs: Bundle[str] = Bundle("jobs")
    tokens: Bundle[Token] = Bundle("tokens")

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.steps = Steps(database)
        self.accounts: dict[str, Account] = {}
        self.endpoints: set[str] = set()
        with database.transaction() as session:
            session.execute(text(DELETE_EVERYTHING))
            self.tenant: Tenant = factories.add_tenant(session)

    # --- clients ---

    @rule(target=jobs)
    def submit(self) -> str:
        with self.database.transaction() as session:
            job = factories.add_job(session, tenant_id=self.tenant.id)
        self.accounts[job.id] = Account()
        return job.id

    @rule(target=tokens)
    def submit_and_claim(self) -> object:
        """Most steps do nothing unless somebody has a job."""
        return self.claim(self.submit(), "worker-1")

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        account = self.accounts[job_id]
        answer = self.steps.request_cancel(job_id, self.tenant.id)
        if account.status == JobStatus.QUEUED:
            assert answer == CancelAnswer.CANCELED
            self._ends(account, JobStatus.CANCELED)
        elif account.status == JobStatus.RUNNING:
            assert answer == CancelAnswer.REQUESTED
            account.cancel_requested = True
        else:
            assert answer == CancelAnswer.ENDED

    @rule(token=tokens)
    def cancel_what_was_claimed(self, token: Token) -> None:
        self.cancel(token.job_id)

    @rule()
    def add_endpoint(self) -> None:
        if len(self.endpoints) < 3:
            with self.database.transaction() as session:
                self.endpoints.add(factories.add_endpoint(session, tenant_id=self.tenant.id).id)

    # --- workers; a token may be a zombie's ---

    @rule(target=tokens, job_id=jobs, worker=st.sampled_from(["worker-1", "worker-2"]))
    def claim(self, job_id: str, worker: str) -> object:
        account = self.accounts[job_id]
        attempt = self.steps.claim(job_id, worker)
        if account.status != JobStatus.QUEUED or not account.due or account.overdue:
            assert attempt is None
            return multiple()
        account.status, account.attempt, account.lease_expired = JobStatus.RUNNING, account.attempt + 1, False
        assert attempt == account.attempt
        return Token(job_id, attempt)

    @rule(token=tokens, blocks=st.integers(0, 9))
    def heartbeat(self, token: Token, blocks: int) -> None:
        account = self.accounts[token.job_id]
        answer = self.steps.heartbeat(token.job_id, token.attempt, blocks)
        if not self._holds(token) or account.lease_expired:
            assert answer == HeartbeatAnswer.LOST
        elif account.cancel_requested:
            assert answer == HeartbeatAnswer.CANCEL_REQUESTED
        else:
            assert answer == HeartbeatAnswer.KEPT

    @rule(token=tokens)
    def succeed(self, token: Token) -> None:
        account = self.accounts[token.job_id]
        holds = self._holds(token) and not account.cancel_requested
        assert self.steps.succeed(token.job_id, token.attempt) == holds
        if holds:
            account.outcomes[token.attempt] = AttemptOutcome.SUCCEEDED
            self._ends(account, JobStatus.SUCCEEDED)

    @rule(token=tokens)
    def fail(self, token: Token) -> None:
        holds = self._holds(token)
        assert self.steps.fail(token.job_id, token.attempt) == holds
        if holds:
            self.accounts[token.job_id].outcomes[token.attempt] = AttemptOutcome.FAILED
            self._ends(self.accounts[token.job_id], JobStatus.FAILED)

    @rule(token=tokens)
    def confirm_cancel(self, token: Token) -> None:
        account = self.accounts[token.job_id]
        holds = self._holds(token) and account.cancel_requested
        assert self.steps.confirm_cancel(token.job_id, token.attempt) == holds
        if holds:
            account.outcomes[token.attempt] = AttemptOutcome.CANCELED
            self._ends(account, JobStatus.CANCELED)

    @rule(token=tokens)
    def drain(self, token: Token) -> None:
        account = self.accounts[token.job_id]
        holds = self._holds(token)
        assert self.steps.hand_back(token.job_id, token.attempt) == holds
        if holds:
            is_canceled = account.cancel_requested
            account.outcomes[token.attempt] = AttemptOutcome.CANCELED if is_canceled else AttemptOutcome.DRAINED
            self._goes_back(account)

    @rule(token=tokens)
    def meet_a_retryable_error(self, token: Token) -> None:
        account = self.accounts[token.job_id]
        holds = self._holds(token)
        assert self.steps.retry_later(token.job_id, token.attempt) == holds
        if not holds:
            return
        if not account.cancel_requested and account.retries == MAX_ERROR_RETRIES:
            account.outcomes[token.attempt] = AttemptOutcome.FAILED
            self._ends(account, JobStatus.FAILED)
            return
        is_canceled = account.cancel_requested
        account.outcomes[token.attempt] = AttemptOutcome.CANCELED if is_canceled else AttemptOutcome.ERROR
        account.retries += not account.cancel_requested
        self._goes_back(account)
        account.due = account.status != JobStatus.QUEUED

    @rule(token=tokens)
    def lose_the_group(self, token: Token) -> None:
        holds = self._holds(token)
        assert self.steps.record_crash(token.job_id, token.attempt) == holds
        if holds:
            self.accounts[token.job_id].outcomes[token.attempt] = AttemptOutcome.CRASHED
            self._crashes(self.accounts[token.job_id])

    @rule(token=tokens)
    def ask_what_became_of_it(self, token: Token) -> None:
        """As after a reply that was lost."""
        account = self.accounts[token.job_id]
        assert self.steps.outcome_of(token.job_id, token.attempt) == account.outcomes.get(token.attempt)

    # --- time and the reconciler ---

    @rule(job_id=jobs)
    def lease_expires(self, job_id: str) -> None:
        account = self.accounts[job_id]
        if account.status == JobStatus.RUNNING:
            self.steps.let_lease_expire(job_id)
            account.lease_expired = True

    @rule(job_id=jobs)
    def delay_passes(self, job_id: str) -> None:
        account = self.accounts[job_id]
        if account.status == JobStatus.QUEUED:
            self.steps.let_delay_pass(job_id)
            account.due = True

    @rule(job_id=jobs)
    def deadline_passes(self, job_id: str) -> None:
        account = self.accounts[job_id]
        if account.status not in TERMINAL_STATUSES:
            self.steps.sql("UPDATE jobs SET deadline_at = now() - interval '1 s' WHERE id = :id", id=job_id)
            account.overdue = True

    @rule(token=tokens)
    def worker_dies(self, token: Token) -> None:
        self.lease_expires(token.job_id)
        self.rescue()

    @rule()
    def rescue(self) -> None:
        lost = {
            job_id
            for job_id, account in self.accounts.items()
            if account.status == JobStatus.RUNNING and account.lease_expired
        }
        assert set(self.steps.rescue_lost()) == lost
        for job_id in lost:
            account = self.accounts[job_id]
            account.outcomes[account.attempt] = AttemptOutcome.LOST
            self._crashes(account)

    @rule()
    def expire(self) -> None:
        overdue = {
            job_id
            for job_id, account in self.accounts.items()
            if account.status == JobStatus.QUEUED and account.overdue
        }
        assert set(self.steps.expire_overdue()) == overdue
        for job_id in overdue:
            self._ends(self.accounts[job_id], JobStatus.EXPIRED)

    @rule()
    def publish(self) -> None:
        taken = self.steps.take_undispatched()
        assert len(taken) == len(set(taken))
        assert all(self.accounts[job_id].status == JobStatus.QUEUED for job_id in taken)
        assert self.steps.take_undispatched() == []  # their messages are under way

    @rule()
    def publish_while_the_broker_is_down(self) -> None:
        taken = self.steps.take_undispatched()
        self.steps.forget_dispatch(taken)
        assert self.steps.take_undispatched() == taken

    # --- what holds always ---

    @invariant()
    def the_record_is_as_accounted(self) -> None:
        with self.database.transaction() as session:
            jobs = session.execute(select(Job, literal_column("jobs::text").label("dump"))).all()
            attempts = session.scalars(select(Attempt).order_by(Attempt.job_id, Attempt.attempt)).all()
            events = session.scalars(select(WebhookEvent)).all()
            deliveries = session.scalars(select(WebhookDelivery)).all()
        self._rows_are_as_accounted({row.Job.id: row.Job for row in jobs})
        self._ended_rows_never_change({row.Job.id: row.dump for row in jobs})
        self._attempts_are_numbered_and_all_but_the_held_one_have_ended(attempts)
        self._each_end_is_reported_once_to_those_who_were_there(events, deliveries)

    def _rows_are_as_accounted(self, jobs: dict[str, Job]) -> None:
        assert jobs.keys() == self.accounts.keys()
        for job_id, account in self.accounts.items():
            job = jobs[job_id]
            assert (job.status, job.attempt) == (account.status, account.attempt)
            assert (job.crash_count, job.error_retries) == (account.crashes, account.retries)
            assert (job.lease_owner is not None) == (job.status == JobStatus.RUNNING)
            assert (job.finished_at is not None) == (job.status in TERMINAL_STATUSES)

    def _ended_rows_never_change(self, dumps: dict[str, str]) -> None:
        for job_id, account in self.accounts.items():
            if account.status in TERMINAL_STATUSES:
                account.row_when_ended = account.row_when_ended or dumps[job_id]
                assert dumps[job_id] == account.row_when_ended

    def _attempts_are_numbered_and_all_but_the_held_one_have_ended(self, attempts: Sequence[Attempt]) -> None:
        for job_id, account in self.accounts.items():
            of_job = [attempt for attempt in attempts if attempt.job_id == job_id]
            assert [attempt.attempt for attempt in of_job] == list(range(1, account.attempt + 1))
            still_open = [attempt.attempt for attempt in of_job if attempt.ended_at is None]
            assert still_open == ([account.attempt] if account.status == JobStatus.RUNNING else [])
            assert {one.attempt: one.outcome for one in of_job if one.outcome is not None} == account.outcomes

    def _each_end_is_reported_once_to_those_who_were_there(
        self, events: Sequence[WebhookEvent], deliveries: Sequence[WebhookDelivery]
    ) -> None:
        ended = {job_id: account for job_id, account in self.accounts.items() if account.status in TERMINAL_STATUSES}
        assert sorted(event.job_id for event in events) == sorted(ended)
        for event in events:
            account = ended[event.job_id]
            assert event.type == TYPE_OF_EVENT[account.status]
            targets = [delivery.endpoint_id for delivery in deliveries if delivery.event_id == event.id]
            assert len(targets) == len(set(targets))
            assert set(targets) == account.endpoints_when_ended

    def _holds(self, token: Token) -> bool:
        account = self.accounts[token.job_id]
        return account.status == JobStatus.RUNNING and account.attempt == token.attempt

    def _goes_back(self, account: Account) -> None:
        if account.cancel_requested:
            self._ends(account, JobStatus.CANCELED)
        else:
            account.status, account.due = JobStatus.QUEUED, True

    def _crashes(self, account: Account) -> None:
        if not account.cancel_requested:
            account.crashes += 1
            if account.crashes == MAX_CRASHES:
                self._ends(account, JobStatus.FAILED)
                return
        self._goes_back(account)

    def _ends(self, account: Account, status: JobStatus) -> None:
        account.status = status
        account.endpoints_when_ended = set(self.endpoints)


def test_any_order_of_events_keeps_the_promises(database: Database) -> None:
    run_state_machine_as_test(
        lambda: Jobs(database),
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
