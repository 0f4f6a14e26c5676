"""What each transition does, and what it does not do for those who may not."""

import json
from collections.abc import Callable

import pytest

from models.database import Database
from models.job import AttemptOutcome, Job, JobStatus, Phase
from models.tenant import Tenant
from models.transitions import MAX_CRASHES, MAX_ERROR_RETRIES, CancelAnswer, HeartbeatAnswer, claim, request_cancel
from models.webhook import DeliveryStatus, EventType, WebhookEndpoint
from tests import factories
from tests.factories import KEYS, OUTPUT
from tests.integration.models.steps import Steps

MakeJob = Callable[..., Job]
MakeEndpoint = Callable[..., WebhookEndpoint]


def test_a_claim_gives_the_job_to_one_worker_for_a_minute(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    assert steps.claim(job_id, "worker-1") == 1
    assert steps.claim(job_id, "worker-2") is None
    job = steps.job(job_id)
    assert (job.status, job.lease_owner, job.phase) == (JobStatus.RUNNING, "worker-1", Phase.PREPARING)
    assert job.started_at is not None
    assert steps.seconds_until(job_id, "lease_expires_at") == pytest.approx(60, abs=5)
    assert [(attempt.worker, attempt.ended_at) for attempt in steps.attempts(job_id)] == [("worker-1", None)]


def test_a_job_of_another_preset_cannot_be_claimed(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job(preset="14b").id
    assert steps.claim(job_id) is None
    assert steps.job(job_id).status == JobStatus.QUEUED


def test_a_job_that_is_not_due_yet_cannot_be_claimed(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.sql("UPDATE jobs SET run_after = now() + interval '1 s' WHERE id = :id", id=job_id)
    assert steps.claim(job_id) is None


def test_a_job_whose_deadline_passed_cannot_be_claimed(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.sql("UPDATE jobs SET deadline_at = now() WHERE id = :id", id=job_id)
    assert steps.claim(job_id) is None


def test_a_heartbeat_renews_the_lease_and_records_progress(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    steps.sql("UPDATE jobs SET lease_expires_at = now() + interval '2 s' WHERE id = :id", id=job_id)
    assert steps.heartbeat(job_id, 1, blocks_done=4) == HeartbeatAnswer.KEPT
    job = steps.job(job_id)
    assert (job.phase, job.blocks_done, job.blocks_total) == (Phase.RENDERING, 4, 9)
    assert steps.seconds_until(job_id, "lease_expires_at") == pytest.approx(60, abs=5)


def test_a_heartbeat_after_the_lease_expired_is_too_late_even_before_the_rescue(
    steps: Steps, make_job: MakeJob
) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    steps.let_lease_expire(job_id)
    assert steps.heartbeat(job_id, 1) == HeartbeatAnswer.LOST
    assert steps.rescue_lost() == [job_id]


def test_success_stores_the_output_and_writes_the_event(
    steps: Steps, make_job: MakeJob, make_endpoint: MakeEndpoint
) -> None:
    endpoint = make_endpoint()
    job_id = make_job(labels={"show": "7"}, custom_id="row-1").id
    steps.claim(job_id)
    steps.heartbeat(job_id, 1, blocks_done=8)
    assert steps.succeed(job_id, 1)
    job = steps.job(job_id)
    assert (job.status, job.result_key, job.output) == (JobStatus.SUCCEEDED, KEYS.video, OUTPUT.model_dump(mode="json"))
    assert (job.blocks_done, job.phase, job.lease_owner) == (9, None, None)
    assert [attempt.outcome for attempt in steps.attempts(job_id)] == [AttemptOutcome.SUCCEEDED]
    (event,) = steps.events(job_id)
    assert event.type == EventType.JOB_SUCCEEDED
    body = json.loads(event.body)
    assert body["type"] == "job.succeeded"
    assert body["data"]["id"] == job_id
    assert body["data"]["status"] == "succeeded"
    assert body["data"]["metadata"] == {"show": "7"}
    assert body["data"]["output"] == {
        "duration": OUTPUT.duration_s, "frames": OUTPUT.frames, "fps": OUTPUT.fps, "width": OUTPUT.width,
        "height": OUTPUT.height, "bytes": OUTPUT.size_bytes, "sha256": OUTPUT.sha256, "warnings": [],
    }  # fmt: skip
    (delivery,) = steps.deliveries(job_id)
    assert (delivery.endpoint_id, delivery.status, delivery.tries) == (endpoint.id, DeliveryStatus.PENDING, 0)


def test_success_is_refused_after_a_cancel_request(steps: Steps, make_job: MakeJob, tenant: Tenant) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    assert steps.request_cancel(job_id, tenant.id) == CancelAnswer.REQUESTED
    assert not steps.succeed(job_id, 1)
    assert steps.confirm_cancel(job_id, 1)
    assert steps.job(job_id).status == JobStatus.CANCELED
    assert [event.type for event in steps.events(job_id)] == [EventType.JOB_CANCELED]


def test_a_permanent_error_ends_the_job_with_its_code(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    assert steps.fail(job_id, 1)
    job = steps.job(job_id)
    assert (job.status, job.error_code, job.error_message) == (JobStatus.FAILED, "bad_audio", "no sound in it")
    (event,) = steps.events(job_id)
    assert json.loads(event.body)["data"]["error"] == {"code": "bad_audio", "message": "no sound in it"}
    (attempt,) = steps.attempts(job_id)
    assert (attempt.outcome, attempt.error_code) == (AttemptOutcome.FAILED, "bad_audio")


# --- fencing: attempt 1 lost its lease, attempt 2 has the job ---

FENCED: dict[str, Callable[[Steps, str], object]] = {
    "heartbeat": lambda steps, job_id: steps.heartbeat(job_id, 1) != HeartbeatAnswer.LOST,
    "succeed": lambda steps, job_id: steps.succeed(job_id, 1),
    "fail": lambda steps, job_id: steps.fail(job_id, 1),
    "confirm_cancel": lambda steps, job_id: steps.confirm_cancel(job_id, 1),
    "hand_back": lambda steps, job_id: steps.hand_back(job_id, 1),
    "retry_later": lambda steps, job_id: steps.retry_later(job_id, 1),
    "record_crash": lambda steps, job_id: steps.record_crash(job_id, 1),
}


@pytest.mark.parametrize("act", FENCED.values(), ids=FENCED)
def test_a_zombie_touches_nothing_while_another_attempt_runs(
    steps: Steps, make_job: MakeJob, tenant: Tenant, act: Callable[[Steps, str], object]
) -> None:
    job_id = make_job().id
    steps.claim(job_id, "zombie")
    steps.lose_lease(job_id)
    assert steps.claim(job_id, "worker-2") == 2
    steps.request_cancel(job_id, tenant.id)  # so that confirm_cancel has something to refuse
    before = steps.job(job_id)
    assert not act(steps, job_id)
    after = steps.job(job_id)
    assert _columns(after) == _columns(before)
    assert [attempt.outcome for attempt in steps.attempts(job_id)] == [AttemptOutcome.LOST, None]
    assert steps.events(job_id) == []


@pytest.mark.parametrize("act", FENCED.values(), ids=FENCED)
def test_a_zombie_touches_nothing_while_the_job_waits_again(
    steps: Steps, make_job: MakeJob, act: Callable[[Steps, str], object]
) -> None:
    job_id = make_job().id
    steps.claim(job_id, "zombie")
    steps.lose_lease(job_id)
    before = steps.job(job_id)
    assert not act(steps, job_id)
    assert _columns(steps.job(job_id)) == _columns(before)


@pytest.mark.parametrize("act", FENCED.values(), ids=FENCED)
def test_nothing_is_done_twice_to_an_ended_job(
    steps: Steps, make_job: MakeJob, act: Callable[[Steps, str], object]
) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    assert steps.succeed(job_id, 1)
    before = steps.job(job_id)
    assert not act(steps, job_id)
    assert _columns(steps.job(job_id)) == _columns(before)
    assert len(steps.events(job_id)) == 1


# --- going back to the queue ---


def test_a_drained_job_waits_again_and_nothing_is_counted(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    for attempt in range(1, 6):  # more often than any limit
        assert steps.claim(job_id) == attempt
        assert steps.hand_back(job_id, attempt)
    job = steps.job(job_id)
    assert (job.status, job.attempt, job.crash_count, job.error_retries) == (JobStatus.QUEUED, 5, 0, 0)
    assert job.dispatched_at is None
    assert {attempt.outcome for attempt in steps.attempts(job_id)} == {AttemptOutcome.DRAINED}


@pytest.mark.parametrize("step", [Steps.hand_back, Steps.retry_later, Steps.record_crash])
def test_a_job_that_goes_back_after_a_cancel_request_is_canceled(
    steps: Steps, make_job: MakeJob, tenant: Tenant, step: Callable[[Steps, str, int], bool]
) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    steps.request_cancel(job_id, tenant.id)
    assert step(steps, job_id, 1)
    assert steps.job(job_id).status == JobStatus.CANCELED
    assert [event.type for event in steps.events(job_id)] == [EventType.JOB_CANCELED]


def test_retryable_errors_wait_longer_each_time_and_then_fail_the_job(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    waits = []
    for attempt in range(1, MAX_ERROR_RETRIES + 1):
        assert steps.claim(job_id) == attempt
        assert steps.retry_later(job_id, attempt)
        assert steps.claim(job_id) is None  # not due yet
        waits.append(steps.seconds_until(job_id, "run_after"))
        steps.let_delay_pass(job_id)
    assert waits == pytest.approx([10, 20, 40], abs=3)
    last = MAX_ERROR_RETRIES + 1
    assert steps.claim(job_id) == last
    assert steps.retry_later(job_id, last)
    job = steps.job(job_id)
    assert (job.status, job.error_code, job.crash_count) == (JobStatus.FAILED, "storage_unavailable", 0)
    assert len(steps.events(job_id)) == 1
    outcomes = [attempt.outcome for attempt in steps.attempts(job_id)]
    assert outcomes == [AttemptOutcome.ERROR] * MAX_ERROR_RETRIES + [AttemptOutcome.FAILED]


def test_a_rescued_job_waits_again_at_once(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    steps.take_undispatched()
    steps.lose_lease(job_id)
    job = steps.job(job_id)
    assert (job.status, job.attempt, job.crash_count, job.dispatched_at) == (JobStatus.QUEUED, 1, 1, None)
    assert [attempt.outcome for attempt in steps.attempts(job_id)] == [AttemptOutcome.LOST]
    assert steps.events(job_id) == []
    assert steps.claim(job_id) == 2


def test_a_lease_that_has_not_expired_is_left_alone(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    assert steps.rescue_lost() == []
    assert steps.heartbeat(job_id, 1) == HeartbeatAnswer.KEPT


@pytest.mark.parametrize("crash", ["lease", "group", "both"])
def test_three_crashes_are_poison(steps: Steps, make_job: MakeJob, crash: str) -> None:
    job_id = make_job().id
    for attempt in range(1, MAX_CRASHES + 1):
        assert steps.claim(job_id) == attempt
        if crash == "group" or (crash == "both" and attempt == 2):
            assert steps.record_crash(job_id, attempt)
        else:
            steps.lose_lease(job_id)
    job = steps.job(job_id)
    assert (job.status, job.error_code, job.crash_count) == (JobStatus.FAILED, "poison", MAX_CRASHES)
    assert [event.type for event in steps.events(job_id)] == [EventType.JOB_FAILED]


def test_a_lost_job_whose_cancel_was_asked_for_is_canceled(steps: Steps, make_job: MakeJob, tenant: Tenant) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    steps.request_cancel(job_id, tenant.id)
    steps.lose_lease(job_id)
    assert steps.job(job_id).status == JobStatus.CANCELED
    assert len(steps.events(job_id)) == 1


# --- cancel ---


def test_a_waiting_job_is_canceled_at_once(steps: Steps, make_job: MakeJob, tenant: Tenant) -> None:
    job_id = make_job().id
    assert steps.request_cancel(job_id, tenant.id) == CancelAnswer.CANCELED
    assert steps.job(job_id).status == JobStatus.CANCELED
    assert len(steps.events(job_id)) == 1
    assert steps.claim(job_id) is None
    assert steps.request_cancel(job_id, tenant.id) == CancelAnswer.ENDED
    assert len(steps.events(job_id)) == 1


def test_a_running_job_hears_of_the_cancel_at_its_next_heartbeat(
    steps: Steps, make_job: MakeJob, tenant: Tenant
) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    assert steps.request_cancel(job_id, tenant.id) == CancelAnswer.REQUESTED
    asked_at = steps.job(job_id).cancel_requested_at
    assert steps.request_cancel(job_id, tenant.id) == CancelAnswer.REQUESTED
    assert steps.job(job_id).cancel_requested_at == asked_at
    assert steps.heartbeat(job_id, 1) == HeartbeatAnswer.CANCEL_REQUESTED
    assert steps.confirm_cancel(job_id, 1)
    assert [attempt.outcome for attempt in steps.attempts(job_id)] == [AttemptOutcome.CANCELED]


def test_nobody_cancels_what_was_not_asked_for(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    assert not steps.confirm_cancel(job_id, 1)
    assert steps.job(job_id).status == JobStatus.RUNNING


def test_a_foreign_job_cannot_be_canceled(database: Database, steps: Steps, make_job: MakeJob) -> None:
    with database.transaction() as session:
        stranger = factories.add_tenant(session)
    job_id = make_job().id
    assert steps.request_cancel(job_id, stranger.id) == CancelAnswer.UNKNOWN
    assert steps.job(job_id).status == JobStatus.QUEUED
    steps.claim(job_id)
    assert steps.request_cancel(job_id, stranger.id) == CancelAnswer.UNKNOWN
    assert steps.job(job_id).cancel_requested_at is None


def test_a_session_that_has_read_the_job_before_reports_it_as_it_became(
    database: Database, steps: Steps, make_job: MakeJob, tenant: Tenant
) -> None:
    job_id = make_job().id
    with database.transaction() as session:
        seen = session.get_one(Job, job_id)
        assert seen.status == JobStatus.QUEUED
        request_cancel(session, job_id, tenant_id=tenant.id)
        assert seen.status == JobStatus.CANCELED
    (event,) = steps.events(job_id)
    assert json.loads(event.body)["data"]["status"] == "canceled"


# --- deadlines ---


def test_a_waiting_job_expires_at_its_deadline_and_a_running_one_does_not(steps: Steps, make_job: MakeJob) -> None:
    waiting, running, early = make_job().id, make_job().id, make_job().id
    steps.claim(running)
    for job_id in (waiting, running):
        steps.sql("UPDATE jobs SET deadline_at = now() - interval '1 s' WHERE id = :id", id=job_id)
    steps.sql("UPDATE jobs SET deadline_at = now() + interval '1 min' WHERE id = :id", id=early)
    assert steps.expire_overdue() == [waiting]
    job = steps.job(waiting)
    assert (job.status, job.error_code) == (JobStatus.EXPIRED, "deadline_exceeded")
    assert [event.type for event in steps.events(waiting)] == [EventType.JOB_EXPIRED]
    assert steps.job(running).status == JobStatus.RUNNING
    assert steps.job(early).status == JobStatus.QUEUED


# --- after a lost reply ---


def test_after_a_lost_reply_the_outcome_can_be_read(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    assert steps.outcome_of(job_id, 1) is None  # the commit never happened: do it again
    steps.succeed(job_id, 1)  # whose reply is lost
    assert not steps.succeed(job_id, 1)
    assert steps.outcome_of(job_id, 1) == AttemptOutcome.SUCCEEDED


def test_the_outcome_of_an_attempt_is_its_own_and_not_its_successors(steps: Steps, make_job: MakeJob) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    steps.lose_lease(job_id)
    steps.claim(job_id)
    steps.succeed(job_id, 2)
    assert steps.outcome_of(job_id, 1) == AttemptOutcome.LOST
    assert steps.outcome_of(job_id, 2) == AttemptOutcome.SUCCEEDED
    with pytest.raises(LookupError):
        steps.outcome_of(job_id, 3)


def test_a_claim_that_is_rolled_back_leaves_the_job_in_the_queue(
    database: Database, steps: Steps, make_job: MakeJob
) -> None:
    job_id = make_job().id

    class WorkerDiesError(Exception):
        pass

    def claim_and_die() -> None:
        with database.transaction() as session:
            assert claim(session, job_id, worker="worker-1", preset="tiny") is not None
            raise WorkerDiesError

    with pytest.raises(WorkerDiesError):
        claim_and_die()
    assert steps.attempts(job_id) == []
    assert steps.claim(job_id) == 1


# --- whom the event goes to ---


def test_only_endpoints_that_want_the_event_get_a_delivery(
    database: Database, steps: Steps, make_job: MakeJob, make_endpoint: MakeEndpoint
) -> None:
    with database.transaction() as session:
        stranger = factories.add_tenant(session)
    every = make_endpoint()
    failures = make_endpoint(events=["job.failed"])
    successes = make_endpoint(events=["job.succeeded", "job.canceled"])
    make_endpoint(tenant_id=stranger.id)
    for column in ("disabled_at", "deleted_at"):
        gone = make_endpoint()
        steps.sql(f"UPDATE webhook_endpoints SET {column} = now() WHERE id = :id", id=gone.id)
    job_id = make_job().id
    steps.claim(job_id)
    steps.succeed(job_id, 1)
    assert {delivery.endpoint_id for delivery in steps.deliveries(job_id)} == {every.id, successes.id}
    job_id = make_job(webhook_endpoint_id=failures.id).id
    steps.claim(job_id)
    steps.fail(job_id, 1)
    assert [delivery.endpoint_id for delivery in steps.deliveries(job_id)] == [failures.id]


def _columns(job: Job) -> dict[str, object]:
    return {attribute.key: getattr(job, attribute.key) for attribute in Job.__mapper__.column_attrs}
