"""Transitions that meet: each pair on two real connections, one of which waits for the other's lock."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from models import transitions
from models.database import Database
from models.dispatch import take_undispatched
from models.job import Job, JobStatus
from models.tenant import Tenant
from models.transitions import CancelAnswer, HeartbeatAnswer
from tests.factories import KEYS, METRICS, OUTPUT
from tests.integration.models.steps import Steps

MakeJob = Callable[..., Job]
Transition = Callable[[Session], object]

WAITING = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
""")


def race(database: Database, first: Transition, second: Transition) -> tuple[object, object]:
    """`first` changes the row, `second` comes to it and waits, `first` commits; what each of them answered."""
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            first_answer = first(session)
            session.flush()
            rival: Future[object] = pool.submit(_in_transaction, database, second)
            _wait_until_blocked(database)
        return first_answer, rival.result(10)


def _in_transaction(database: Database, transition: Transition) -> object:
    with database.transaction() as session:
        return transition(session)


def _wait_until_blocked(database: Database) -> None:
    deadline = time.monotonic() + 10
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.scalar(WAITING) != 1:
            assert time.monotonic() < deadline, "the second transition never waited for the first"
            time.sleep(0.005)


def claim(job: Job, worker: str = "worker-1") -> Transition:
    def run(session: Session) -> object:
        claimed = transitions.claim(session, job.id, worker=worker, preset="tiny")
        return None if claimed is None else claimed.attempt

    return run


def succeed(job: Job, attempt: int = 1) -> Transition:
    return lambda session: transitions.succeed(
        session, job.id, attempt=attempt, keys=KEYS, output=OUTPUT, metrics=METRICS
    )


def hand_back(job: Job, attempt: int = 1) -> Transition:
    return lambda session: transitions.hand_back(session, job.id, attempt=attempt)


def retry_later(job: Job, attempt: int = 1) -> Transition:
    return lambda session: transitions.retry_later(session, job.id, attempt=attempt, code="c", message="m")


def cancel(job: Job) -> Transition:
    return lambda session: transitions.request_cancel(session, job.id, tenant_id=job.tenant_id)


def rescue(session: Session) -> object:
    return transitions.rescue_lost(session)


def test_of_two_claims_one_wins(database: Database, steps: Steps, make_job: MakeJob) -> None:
    job = make_job()
    assert race(database, claim(job, "worker-1"), claim(job, "worker-2")) == (1, None)
    assert [attempt.worker for attempt in steps.attempts(job.id)] == ["worker-1"]


def test_many_workers_claim_many_jobs_each_once(database: Database, steps: Steps, make_job: MakeJob) -> None:
    jobs = [make_job() for _ in range(30)]
    won: Counter[str] = Counter()
    lock = threading.Lock()

    def work(worker: int) -> None:
        for job in jobs:
            if steps.claim(job.id, f"worker-{worker}") is not None:
                with lock:
                    won[job.id] += 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert won == Counter({job.id: 1 for job in jobs})
    assert all(steps.job(job.id).attempt == 1 for job in jobs)


def test_a_success_beats_the_cancel_that_comes_after_it(database: Database, steps: Steps, make_job: MakeJob) -> None:
    job = make_job()
    steps.claim(job.id)
    assert race(database, succeed(job), cancel(job)) == (True, CancelAnswer.ENDED)
    assert steps.job(job.id).status == JobStatus.SUCCEEDED
    assert len(steps.events(job.id)) == 1


def test_a_cancel_beats_the_success_that_comes_after_it(database: Database, steps: Steps, make_job: MakeJob) -> None:
    job = make_job()
    steps.claim(job.id)
    assert race(database, cancel(job), succeed(job)) == (CancelAnswer.REQUESTED, False)
    assert steps.confirm_cancel(job.id, 1)
    assert [event.type for event in steps.events(job.id)] == ["job.canceled"]


def test_a_cancel_that_meets_a_claim_reaches_the_worker(database: Database, steps: Steps, make_job: MakeJob) -> None:
    job = make_job()
    assert race(database, claim(job), cancel(job)) == (1, CancelAnswer.REQUESTED)
    assert steps.heartbeat(job.id, 1) == HeartbeatAnswer.CANCEL_REQUESTED


def test_a_claim_that_meets_a_cancel_gets_nothing(database: Database, steps: Steps, make_job: MakeJob) -> None:
    job = make_job()
    assert race(database, cancel(job), claim(job)) == (CancelAnswer.CANCELED, None)
    assert steps.attempts(job.id) == []


@pytest.mark.parametrize("go_back", [hand_back, retry_later])
def test_a_cancel_that_meets_a_job_on_its_way_back_cancels_it(
    database: Database, steps: Steps, make_job: MakeJob, go_back: Callable[[Job], Transition]
) -> None:
    job = make_job()
    steps.claim(job.id)
    assert race(database, go_back(job), cancel(job)) == (True, CancelAnswer.CANCELED)
    assert steps.job(job.id).status == JobStatus.CANCELED
    assert len(steps.events(job.id)) == 1


@pytest.mark.parametrize("go_back", [hand_back, retry_later])
def test_a_job_on_its_way_back_that_meets_a_cancel_is_canceled(
    database: Database, steps: Steps, make_job: MakeJob, go_back: Callable[[Job], Transition]
) -> None:
    job = make_job()
    steps.claim(job.id)
    assert race(database, cancel(job), go_back(job)) == (CancelAnswer.REQUESTED, True)
    assert steps.job(job.id).status == JobStatus.CANCELED
    assert len(steps.events(job.id)) == 1


@pytest.mark.parametrize("late", [succeed, hand_back, retry_later])
def test_a_zombie_that_wakes_during_the_rescue_touches_nothing(
    database: Database, steps: Steps, make_job: MakeJob, late: Callable[[Job], Transition]
) -> None:
    job = make_job()
    steps.claim(job.id)
    steps.let_lease_expire(job.id)
    rescued, answer = race(database, rescue, late(job))
    assert rescued == [job.id]
    assert answer is False
    found = steps.job(job.id)
    assert (found.status, found.crash_count, found.error_retries) == (JobStatus.QUEUED, 1, 0)


def test_a_late_result_before_the_rescue_counts_and_the_rescue_passes_by(
    database: Database, steps: Steps, make_job: MakeJob
) -> None:
    job = make_job()
    steps.claim(job.id)
    steps.let_lease_expire(job.id)
    with database.transaction() as session:
        assert succeed(job)(session)
        assert steps.rescue_lost() == []  # on another connection; it does not wait
    assert steps.rescue_lost() == []
    assert steps.job(job.id).status == JobStatus.SUCCEEDED


def test_two_reconcilers_rescue_each_job_once(database: Database, steps: Steps, make_job: MakeJob) -> None:
    jobs = [make_job() for _ in range(6)]
    for job in jobs:
        steps.claim(job.id)
        steps.let_lease_expire(job.id)
    with database.transaction() as session:
        first = transitions.rescue_lost(session, limit=3)
        second = steps.rescue_lost()
    assert len(first) == 3
    assert sorted([*first, *second]) == sorted(job.id for job in jobs)
    assert all(steps.job(job.id).crash_count == 1 for job in jobs)


def test_two_reconcilers_publish_each_job_once(database: Database, steps: Steps, make_job: MakeJob) -> None:
    jobs = [make_job() for _ in range(4)]
    with database.transaction() as session:
        first = [taken.job_id for taken in take_undispatched(session)]
        assert steps.take_undispatched() == []
    assert first == [job.id for job in jobs]
    assert steps.take_undispatched() == []


def test_a_result_whose_transaction_breaks_leaves_no_event(
    database: Database, steps: Steps, make_job: MakeJob, tenant: Tenant
) -> None:
    job = make_job()
    steps.claim(job.id)
    with suppress(RuntimeError), database.transaction() as session:
        assert succeed(job)(session)
        raise RuntimeError("the connection breaks")
    assert steps.job(job.id).status == JobStatus.RUNNING
    assert steps.events(job.id) == []
    assert steps.outcome_of(job.id, 1) is None
    assert steps.succeed(job.id, 1)
