"""The database's own guard on jobs, against SQL that goes past models/transitions.py."""

from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from models.database import Database
from models.job import Job, JobStatus
from models.tenant import Tenant
from tests import factories

MakeJob = Callable[..., Job]

LEGAL = {
    ("queued", "running"), ("queued", "canceled"), ("queued", "expired"),
    ("running", "queued"), ("running", "succeeded"), ("running", "failed"), ("running", "canceled"),
}  # fmt: skip
ENDED = ("succeeded", "failed", "canceled", "expired")
NO_LEASE = "lease_owner = NULL, lease_expires_at = NULL"
OVER = f"finished_at = now(), {NO_LEASE}"
LEASE = "lease_owner = 'w', lease_expires_at = now() + interval '1 min'"
CHANGES = {
    "queued": f"status = 'queued', finished_at = NULL, {NO_LEASE}",
    "running": f"status = 'running', {LEASE}, attempt = attempt + 1",
    "succeeded": f"status = 'succeeded', result_key = 'k', output = '{{}}', {OVER}",
    "failed": f"status = 'failed', error_code = 'c', {OVER}",
    "canceled": f"status = 'canceled', {OVER}",
    "expired": f"status = 'expired', {OVER}",
}


@pytest.mark.parametrize(
    ("before", "after"),
    [(before, after) for before in ("queued", "running") for after in JobStatus if before != after],
)
def test_only_transitions_of_the_state_machine_are_possible(
    database: Database, make_job: MakeJob, before: str, after: str
) -> None:
    job_id = make_job(status=before).id
    if (before, after) in LEGAL:
        _update(database, job_id, CHANGES[after])
        assert _status(database, job_id) == after
    else:
        _refused(database, job_id, CHANGES[after], constraint="jobs_guard_transition")


@pytest.mark.parametrize("status", ENDED)
@pytest.mark.parametrize(
    "change",
    [*CHANGES.values(), "error_message = 'other'", "result_key = 'other'", "cancel_requested_at = now()", "seed = 5"],
)
def test_an_ended_job_never_changes(database: Database, make_job: MakeJob, status: str, change: str) -> None:
    job_id = make_job(status=status, cancel_requested_at=None).id
    _refused(database, job_id, change, constraint="jobs_guard_ended")


def test_an_update_that_changes_nothing_of_an_ended_job_is_let_through(database: Database, make_job: MakeJob) -> None:
    job = make_job(status="succeeded")
    _update(database, job.id, "status = status")
    with database.transaction() as session:
        assert session.get_one(Job, job.id).updated_at == job.updated_at


@pytest.mark.parametrize(
    ("status", "change"),
    [
        ("queued", "attempt = attempt - 1"),
        ("running", "attempt = attempt - 1"),
        ("queued", "attempt = attempt + 1"),
        ("running", "attempt = attempt + 1"),
        ("running", "attempt = attempt + 7"),
        ("queued", f"status = 'running', {LEASE}"),
        ("queued", f"status = 'running', {LEASE}, attempt = attempt + 2"),
        ("running", f"{CHANGES['queued']}, attempt = 0"),
    ],
)
def test_only_a_claim_changes_the_attempt_and_by_one(
    database: Database, make_job: MakeJob, status: str, change: str
) -> None:
    job_id = make_job(status=status, attempt=3).id
    _refused(database, job_id, change, constraint="jobs_guard_attempt")


def test_a_lease_changes_hands_only_by_a_claim(database: Database, make_job: MakeJob) -> None:
    job_id = make_job(status="running", lease_owner="worker-1").id
    _refused(database, job_id, "lease_owner = 'worker-2'", constraint="jobs_guard_lease")
    _update(database, job_id, "lease_expires_at = lease_expires_at + interval '1 min'")


@pytest.mark.parametrize("column", ["crash_count", "error_retries"])
def test_counts_never_fall(database: Database, make_job: MakeJob, column: str) -> None:
    job_id = make_job(crash_count=2, error_retries=2).id
    _refused(database, job_id, f"{column} = 1", constraint="jobs_guard_counts")
    _update(database, job_id, f"{column} = 3")


def test_a_job_stays_with_its_tenant(database: Database, make_job: MakeJob, tenant: Tenant) -> None:
    with database.transaction() as session:
        other = factories.add_tenant(session)
    job_id = make_job().id
    _refused(database, job_id, f"tenant_id = '{other.id}'", constraint="jobs_guard_identity")
    _refused(database, job_id, "id = 'job_other'", constraint="jobs_guard_identity")


@pytest.mark.parametrize(
    ("status", "change", "constraint"),
    [
        ("queued", "lease_owner = 'w'", "ck_jobs_lease"),
        ("running", "lease_owner = NULL", "ck_jobs_lease"),
        ("running", "lease_expires_at = NULL", "ck_jobs_lease"),
        ("queued", "cancel_requested_at = now()", "ck_jobs_cancel"),
        ("queued", "finished_at = now()", "ck_jobs_finished"),
        ("running", f"status = 'succeeded', result_key = 'k', {OVER}", "ck_jobs_output"),
        ("running", f"status = 'succeeded', output = '{{}}', {OVER}", "ck_jobs_output"),
        ("running", f"status = 'failed', {OVER}", "ck_jobs_error"),
        ("queued", "audio_mode = 'fast'", "ck_jobs_audio_mode"),
        ("queued", "sink_rotation = 'none'", "ck_jobs_sink_rotation"),
        ("queued", "size_policy = 'bars', width = NULL, height = NULL", "ck_jobs_size_policy"),
        ("queued", "size_policy = 'reference'", "ck_jobs_size"),
        ("queued", "size_policy = 'reference', width = NULL", "ck_jobs_size"),
        ("queued", "height = NULL", "ck_jobs_size"),
    ],
)
def test_a_row_says_what_its_status_and_its_options_demand(
    database: Database, make_job: MakeJob, status: str, change: str, constraint: str
) -> None:
    job_id = make_job(status=status).id
    _refused(database, job_id, change, constraint=constraint)


def test_every_update_sets_the_time(database: Database, make_job: MakeJob) -> None:
    job = make_job()
    _update(database, job.id, "priority = 'high'")
    with database.transaction() as session:
        assert session.get_one(Job, job.id).updated_at > job.updated_at


def test_listeners_hear_of_every_change_when_it_is_committed(
    database: Database, database_url: str, make_job: MakeJob
) -> None:
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN job_changed")
        job_id = make_job().id
        with database.transaction() as session:
            session.execute(text("UPDATE jobs SET priority = 'high' WHERE id = :id"), {"id": job_id})
            heard = list(listener.notifies(timeout=0.3))
            assert [notice.payload for notice in heard] == [job_id]  # of its creation only
        assert [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)] == [job_id]


def _update(database: Database, job_id: str, change: str) -> None:
    with database.transaction() as session:
        session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": job_id})


def _refused(database: Database, job_id: str, change: str, *, constraint: str) -> None:
    with database.transaction() as session:
        before = session.execute(text("SELECT jobs::text FROM jobs WHERE id = :id"), {"id": job_id}).scalar_one()
    with pytest.raises(IntegrityError) as caught:
        _update(database, job_id, change)
    assert isinstance(caught.value.orig, psycopg.errors.CheckViolation)
    assert caught.value.orig.diag.constraint_name == constraint
    assert constraint.startswith("ck_") or job_id in str(caught.value.orig)
    with database.transaction() as session:
        after = session.execute(text("SELECT jobs::text FROM jobs WHERE id = :id"), {"id": job_id}).scalar_one()
    assert after == before


def _status(database: Database, job_id: str) -> str:
    with database.transaction() as session:
        return session.get_one(Job, job_id).status
