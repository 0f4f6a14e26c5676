"""The lease of an attempt against a real Postgres: renewed while the work moves, given up when it does not."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from infra.local.postgres import EmbeddedPostgres
from models import transitions
from models.database import Database, create_database_engine
from models.job import Job, JobStatus, Phase
from models.tenant import Tenant
from models.transitions import CancelAnswer
from tests import factories
from tests.waiting import wait_for
from worker.tasks import lease as lease_module
from worker.tasks.drain import Drain
from worker.tasks.lease import CancelRequested, DrainRequested, Lease, LeaseLost, Standing

MakeJob = Callable[..., Job]


@pytest.fixture(autouse=True)
def _quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of a lease at a tenth, so that no test waits for a minute."""
    monkeypatch.setattr(lease_module, "TICK_S", 0.02)
    monkeypatch.setattr(lease_module, "WRITE_AT_MOST_EVERY_S", 0.1)
    monkeypatch.setattr(lease_module, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(lease_module, "RENEW_EVERY_S", 0.5)
    monkeypatch.setattr(lease_module, "SETTLE_PAUSE_S", 0.05)


def test_progress_renews_the_lease_and_is_written_for_people_to_see(database: Database, make_job: MakeJob) -> None:
    job = _claim(database, make_job())
    with _lease(database, job) as lease:
        lease.moved(Phase.RENDERING, blocks_done=3, blocks_total=9)
        wait_for(lambda: _row(database, job.id).blocks_done == 3)
    row = _row(database, job.id)
    assert (row.phase, row.blocks_total) == (Phase.RENDERING, 9)
    assert _seconds_left(row) > 55


def test_no_progress_is_no_heartbeat(database: Database, make_job: MakeJob) -> None:
    job = _claim(database, make_job())
    with _lease(database, job) as lease:
        lease.begin(Phase.RENDERING, quiet_allowance_s=0)
        wait_for(lambda: _row(database, job.id).phase == Phase.RENDERING)
        before = _row(database, job.id).lease_expires_at
        time.sleep(1.0)  # two renewals, if it were any
        assert _row(database, job.id).lease_expires_at == before


def test_a_phase_that_cannot_report_is_renewed_within_its_allowance(database: Database, make_job: MakeJob) -> None:
    job = _claim(database, make_job())
    with _lease(database, job) as lease:
        lease.begin(Phase.MUXING, quiet_allowance_s=60)
        wait_for(lambda: _row(database, job.id).phase == Phase.MUXING)
        before = _row(database, job.id).lease_expires_at
        wait_for(lambda: _row(database, job.id).lease_expires_at > before, timeout_s=2)


def test_a_job_that_waits_is_renewed_when_the_one_before_it_moves_and_for_its_allowance_after(
    database: Database, make_job: MakeJob
) -> None:
    job = _claim(database, make_job())
    with _lease(database, job) as lease:
        lease.moved(Phase.PREPARING, blocks_done=0, blocks_total=7, quiet_allowance_s=1.2)
        wait_for(lambda: _row(database, job.id).blocks_total == 7)
        before = _row(database, job.id).lease_expires_at
        wait_for(lambda: _row(database, job.id).lease_expires_at > before, timeout_s=1.2)
        time.sleep(1.2)
        last = _row(database, job.id).lease_expires_at
        time.sleep(1.0)  # two renewals, if the allowance were without end
        assert _row(database, job.id).lease_expires_at == last


def test_a_drain_lets_what_is_drawn_be_finished_but_not_for_ever(database: Database, make_job: MakeJob) -> None:
    job, drain = _claim(database, make_job()), Drain(grace_s=0.5)
    with _lease(database, job, drain) as lease:
        lease.let_finish()
        drain.ask()
        assert lease.standing is Standing.HELD
        lease.begin(Phase.UPLOADING, quiet_allowance_s=60)
        wait_for(lambda: lease.standing is Standing.LOST)
    assert _row(database, job.id).status == JobStatus.QUEUED


def test_a_file_that_grows_is_progress(database: Database, make_job: MakeJob, tmp_path: Path) -> None:
    job = _claim(database, make_job())
    with _lease(database, job) as lease:
        lease.begin(Phase.PREPARING, quiet_allowance_s=0, watching=tmp_path)
        wait_for(lambda: _seconds_left(_row(database, job.id)) > 59)
        before = _row(database, job.id).lease_expires_at
        (tmp_path / "download").write_bytes(b"1")
        wait_for(lambda: _row(database, job.id).lease_expires_at > before, timeout_s=2)


def test_a_cancel_is_noticed_while_nothing_moves(database: Database, make_job: MakeJob, tenant: Tenant) -> None:
    job = _claim(database, make_job())
    with _lease(database, job) as lease:
        with database.transaction() as session:
            assert transitions.request_cancel(session, job.id, tenant_id=tenant.id) is CancelAnswer.REQUESTED
        assert wait_for(lambda: lease.standing is Standing.CANCEL_REQUESTED) < 1
        with pytest.raises(CancelRequested):
            lease.check()


def test_a_job_that_another_attempt_has_is_lost(database: Database, make_job: MakeJob) -> None:
    job = _claim(database, make_job())
    with _lease(database, job) as lease:
        _expire(database, job.id)
        with database.transaction() as session:
            assert transitions.rescue_lost(session) == [job.id]
        wait_for(lambda: lease.standing is Standing.LOST)
        second = _claim(database, job)
        with pytest.raises(LeaseLost):
            lease.begin(Phase.UPLOADING, quiet_allowance_s=60)
        assert not lease.settle(
            lambda session: transitions.fail(session, job.id, attempt=job.attempt, code="late", message="late")
        )
    row = _row(database, job.id)
    assert (row.status, row.attempt) == (JobStatus.RUNNING, second.attempt)


def test_an_expired_lease_is_not_revived_by_progress(database: Database, make_job: MakeJob) -> None:
    job = _claim(database, make_job())
    with _lease(database, job) as lease:
        _expire(database, job.id)
        lease.moved(Phase.RENDERING, blocks_done=1, blocks_total=2)
        wait_for(lambda: lease.standing is Standing.LOST)
    assert _seconds_left(_row(database, job.id)) < 0


def test_a_worker_that_cannot_renew_gives_up_by_its_own_clock(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "GIVE_UP_AFTER_S", 1.5)
    database = Database(create_database_engine(own_postgres.url, application_name="tests", pool_size=2))
    with database.transaction() as session:
        job = factories.add_job(session, tenant_id=factories.add_tenant(session).id)
    job = _claim(database, job)
    try:
        with _lease(database, job) as lease:
            own_postgres.kill()
            lease.moved(Phase.RENDERING, blocks_done=1, blocks_total=2)
            assert lease.standing is Standing.HELD
            assert wait_for(lambda: lease.standing is Standing.LOST, timeout_s=5) > 1.0
            assert lease.settle(lambda session: session.execute(text("SELECT 1"))) is None
    finally:
        database.close()


def test_an_outcome_waits_for_a_record_that_is_away_for_a_while(own_postgres: EmbeddedPostgres) -> None:
    database = Database(create_database_engine(own_postgres.url, application_name="tests", pool_size=2))
    with database.transaction() as session:
        job = factories.add_job(session, tenant_id=factories.add_tenant(session).id)
    job = _claim(database, job)
    try:
        with _lease(database, job) as lease:
            own_postgres.kill()
            own_postgres.start()
            assert lease.settle(
                lambda session: transitions.fail(session, job.id, attempt=job.attempt, code="x", message="y")
            )
        assert _row(database, job.id).status == JobStatus.FAILED
    finally:
        database.close()


def test_a_drain_that_lasts_too_long_hands_the_job_back_without_the_story(
    database: Database, make_job: MakeJob
) -> None:
    job, drain = _claim(database, make_job()), Drain(grace_s=0.3)
    with _lease(database, job, drain) as lease:
        drain.ask()
        with pytest.raises(DrainRequested):
            lease.check()
        assert _row(database, job.id).status == JobStatus.RUNNING
        wait_for(lambda: lease.standing is Standing.LOST)
    row = _row(database, job.id)
    assert (row.status, row.crash_count, row.error_retries) == (JobStatus.QUEUED, 0, 0)


def test_a_second_request_to_drain_hands_the_job_back_at_once(database: Database, make_job: MakeJob) -> None:
    job, drain = _claim(database, make_job()), Drain(grace_s=600)
    with _lease(database, job, drain) as lease:
        drain.ask()
        drain.ask()
        wait_for(lambda: lease.standing is Standing.LOST)
    assert _row(database, job.id).status == JobStatus.QUEUED


def _lease(database: Database, job: Job, drain: Drain | None = None) -> Lease:
    return Lease(database, job_id=job.id, attempt=job.attempt, drain=drain or Drain(grace_s=600))


def _claim(database: Database, job: Job) -> Job:
    with database.transaction() as session:
        claimed = transitions.claim(session, job.id, worker="node-1", preset="tiny")
    assert claimed is not None
    return claimed


def _row(database: Database, job_id: str) -> Job:
    with database.transaction() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


def _seconds_left(job: Job) -> float:
    assert job.lease_expires_at is not None
    return (job.lease_expires_at - datetime.now(UTC)).total_seconds()


def _expire(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        session.execute(
            text("UPDATE jobs SET lease_expires_at = now() - interval '1 second' WHERE id = :id"), {"id": job_id}
        )
