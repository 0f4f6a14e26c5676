"""Which jobs are published, when again, and in what order."""

import datetime as dt
from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from models import dispatch
from models.database import Database
from models.job import Job
from models.queues import Priority
from models.tenant import Tenant
from models.worker_node import NodeState, WorkerNode
from tests import factories
from tests.integration.models.steps import Steps

MakeJob = Callable[..., Job]


def test_a_new_job_is_published_once_and_again_after_a_minute(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    assert steps.take_undispatched() == [job_id]
    assert steps.take_undispatched() == []
    steps.sql("UPDATE jobs SET dispatched_at = now() - interval '59 s'")
    assert steps.take_undispatched() == []
    steps.sql("UPDATE jobs SET dispatched_at = now() - interval '61 s'")
    assert steps.take_undispatched() == [job_id]


def test_a_job_that_could_not_be_published_is_taken_again_at_once(
    database: Database, steps: Steps, make_job: MakeJob, tenant: Tenant
) -> None:
    lost, claimed, canceled = make_job().id, make_job().id, make_job().id
    assert steps.take_undispatched() == [lost, claimed, canceled]
    steps.claim(claimed)
    steps.request_cancel(canceled, tenant.id)
    with database.transaction() as session:
        dispatch.forget_dispatch(session, [lost, claimed, canceled])
    assert steps.take_undispatched() == [lost]


@pytest.mark.parametrize("status", ["running", "succeeded", "failed", "canceled", "expired"])
def test_only_waiting_jobs_are_published(steps: Steps, make_job: MakeJob, status: str) -> None:
    make_job(status=status)
    assert steps.take_undispatched() == []


def test_a_job_that_waits_out_a_delay_is_published_when_it_is_due(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job(run_after=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)).id
    assert steps.take_undispatched() == []
    steps.let_delay_pass(job_id)
    assert steps.take_undispatched() == [job_id]


def test_a_job_that_comes_back_is_published_again_without_waiting(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.take_undispatched()
    steps.claim(job_id)
    steps.hand_back(job_id, 1)
    assert steps.take_undispatched() == [job_id]


def test_jobs_come_by_priority_and_then_by_age(steps: Steps, make_job: MakeJob) -> None:
    low, normal, high, second = (
        make_job(priority=priority).id for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.HIGH)
    )
    assert steps.take_undispatched() == [high, second, normal, low]


def test_a_small_tenant_stands_beside_a_large_one(database: Database, steps: Steps, make_job: MakeJob) -> None:
    large = [make_job().id for _ in range(20)]
    with database.transaction() as session:
        other = factories.add_tenant(session)
    small = make_job(tenant_id=other.id).id
    assert steps.take_undispatched()[:3] == [large[0], small, large[1]]


def test_running_jobs_count_as_a_tenants_first(database: Database, steps: Steps, make_job: MakeJob) -> None:
    running = [make_job().id for _ in range(2)]
    for job_id in running:
        steps.claim(job_id)
    waiting = make_job().id
    with database.transaction() as session:
        other = factories.add_tenant(session)
    others = [make_job(tenant_id=other.id).id for _ in range(3)]
    assert steps.take_undispatched() == [others[0], others[1], waiting, others[2]]


def test_only_a_window_of_the_backlog_is_ever_published(steps: Steps, make_job: MakeJob) -> None:
    jobs = [make_job().id for _ in range(dispatch.SMALLEST_WINDOW + 5)]
    assert steps.take_undispatched() == jobs[: dispatch.SMALLEST_WINDOW]
    assert steps.take_undispatched() == []
    steps.claim(jobs[0])
    steps.claim(jobs[1])
    assert steps.take_undispatched() == jobs[dispatch.SMALLEST_WINDOW :][:2]


def test_all_tenants_share_one_window(database: Database, steps: Steps, make_job: MakeJob) -> None:
    with database.transaction() as session:
        other = factories.add_tenant(session)
    for _ in range(dispatch.SMALLEST_WINDOW):
        make_job()
        make_job(tenant_id=other.id)
    assert len(steps.take_undispatched()) == dispatch.SMALLEST_WINDOW


def test_each_priority_has_a_window_of_its_own(steps: Steps, make_job: MakeJob) -> None:
    for _ in range(dispatch.SMALLEST_WINDOW):
        make_job(priority=Priority.HIGH)
    low = make_job(priority=Priority.LOW).id
    assert low in steps.take_undispatched()


def test_jobs_that_no_node_can_render_do_not_stand_before_others(
    database: Database, steps: Steps, make_job: MakeJob
) -> None:
    for _ in range(dispatch.SMALLEST_WINDOW):  # a tenant each, or the first tiny job would share their first place
        with database.transaction() as session:
            other = factories.add_tenant(session)
        make_job(tenant_id=other.id, preset="14b")
    tiny = make_job(preset="tiny").id
    assert tiny in steps.take_undispatched()


def test_the_window_grows_with_the_nodes_that_are_there(database: Database) -> None:
    now = dt.datetime.now(dt.UTC)
    with database.transaction() as session:
        for number in range(5):
            _add_node(session, f"ready-{number}", state=NodeState.READY, last_seen_at=now)
        _add_node(session, "gone", state=NodeState.READY, last_seen_at=now - dt.timedelta(minutes=3))
        _add_node(session, "ill", state=NodeState.UNHEALTHY, last_seen_at=now)
    with database.transaction() as session:
        assert dispatch.dispatch_window(session) == 5 * dispatch.JOBS_PER_NODE


def _add_node(session: Session, name: str, *, state: NodeState, last_seen_at: dt.datetime) -> None:
    session.add(
        WorkerNode(
            name=name, state=state, preset="tiny", ranks=1, devices=[], version="test", last_seen_at=last_seen_at
        )
    )
