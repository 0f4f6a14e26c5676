"""Deliveries in the record: one sender at a time, the schedule, the few per endpoint, the end and the replay."""

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from sqlalchemy import func, select, text

from models import deliveries, replays
from models.database import Database
from models.deliveries import MAX_IN_FLIGHT_PER_ENDPOINT, SCHEDULE, ClaimedDelivery, TryResult
from models.job import Job
from models.prune import prune
from models.replays import ReplayAnswer
from models.tenant import Tenant
from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookTry
from tests import factories
from tests.integration.models.steps import Steps

MakeJob = Callable[..., Job]
MakeEndpoint = Callable[..., WebhookEndpoint]

OK = TryResult(duration_ms=20, response_status=204, error=None)
DOWN = TryResult(duration_ms=30, response_status=500, error="The receiver answered 500.")
SILENT = TryResult(duration_ms=15_000, response_status=None, error="No answer in time.")
GONE = TryResult(duration_ms=30, response_status=410, error="The receiver answered 410.")


@dataclass(frozen=True)
class Deliveries:
    database: Database

    def take(self) -> list[str]:
        with self.database.transaction() as session:
            return deliveries.take_due_deliveries(session)

    def claim(self, delivery_id: str) -> ClaimedDelivery | None:
        with self.database.transaction() as session:
            return deliveries.claim_delivery(session, delivery_id)

    def claimed(self, delivery_id: str) -> ClaimedDelivery:
        claimed = self.claim(delivery_id)
        assert claimed is not None
        return claimed

    def record(self, claimed: ClaimedDelivery, result: TryResult) -> DeliveryStatus | None:
        with self.database.transaction() as session:
            return deliveries.record_try(session, claimed, result)

    def bury(self) -> int:
        with self.database.transaction() as session:
            return deliveries.bury_undeliverable(session)

    def replay(self, delivery_id: str, tenant_id: str) -> ReplayAnswer:
        with self.database.transaction() as session:
            return replays.replay(session, delivery_id, tenant_id=tenant_id)

    def row(self, delivery_id: str) -> WebhookDelivery:
        with self.database.transaction() as session:
            return session.get_one(WebhookDelivery, delivery_id)

    def tries(self, delivery_id: str) -> list[WebhookTry]:
        with self.database.transaction() as session:
            rows = select(WebhookTry).where(WebhookTry.delivery_id == delivery_id).order_by(WebhookTry.number)
            return list(session.scalars(rows))

    def seconds_until_next(self, delivery_id: str) -> float:
        with self.database.transaction() as session:
            until = func.extract("epoch", WebhookDelivery.next_try_at - func.now())
            return float(session.scalars(select(until).where(WebhookDelivery.id == delivery_id)).one())

    def let_wait_pass(self) -> None:
        with self.database.transaction() as session:
            session.execute(text("UPDATE webhook_deliveries SET next_try_at = now()"))


@pytest.fixture
def records(database: Database) -> Deliveries:
    return Deliveries(database)


@pytest.fixture
def make_delivery(steps: Steps, make_job: MakeJob) -> Callable[[], str]:
    """The delivery of one more canceled job, to the only endpoint there is."""

    def make() -> str:
        job = make_job()
        steps.request_cancel(job.id, job.tenant_id)
        (delivery,) = steps.deliveries(job.id)
        return delivery.id

    return make


MakeDelivery = Callable[[], str]


def test_a_claim_has_what_a_try_needs(
    steps: Steps, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    endpoint = make_endpoint()
    delivery_id = make_delivery()
    claimed = records.claimed(delivery_id)
    (event,) = steps.events(_job_of(records, delivery_id))
    assert (claimed.url, claimed.secrets) == (endpoint.url, (endpoint.secret,))
    assert (claimed.event_id, claimed.body) == (event.id, event.body)


def test_one_sender_has_a_delivery_and_another_only_after_a_minute(
    steps: Steps, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    slow = records.claimed(delivery_id)
    assert records.claim(delivery_id) is None
    steps.sql("UPDATE webhook_deliveries SET locked_until = locked_until - interval '61 s'")
    quick = records.claimed(delivery_id)
    assert records.record(slow, OK) is None  # it was taken over
    assert records.tries(delivery_id) == []
    assert records.record(quick, DOWN) == DeliveryStatus.PENDING
    assert records.record(slow, OK) is None
    assert records.row(delivery_id).status == DeliveryStatus.PENDING


def test_many_senders_claim_each_delivery_once_and_never_more_than_an_endpoint_may_have(
    records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    ids = [make_delivery() for _ in range(10)]
    with ThreadPoolExecutor(6) as pool:
        claims = list(pool.map(records.claim, ids * 3))
    won = [claimed.id for claimed in claims if claimed is not None]
    assert len(won) == len(set(won)) == MAX_IN_FLIGHT_PER_ENDPOINT


def test_the_next_of_an_endpoint_is_the_one_due_longest_on_the_same_terms(
    database: Database, steps: Steps, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    endpoint = make_endpoint()

    def claim_next() -> str | None:
        with database.transaction() as session:
            claimed = deliveries.claim_next(session, endpoint.id)
            return None if claimed is None else claimed.id

    ids = [make_delivery() for _ in range(6)]
    steps.sql("UPDATE webhook_deliveries SET next_try_at = now() - interval '1 min' WHERE id = :id", id=ids[3])
    steps.sql("UPDATE webhook_deliveries SET next_try_at = now() + interval '1 min' WHERE id = :id", id=ids[0])
    assert claim_next() == ids[3]
    with ThreadPoolExecutor(5) as pool:
        others = [taken for taken in pool.map(lambda _: claim_next(), range(5)) if taken is not None]
    assert len(set(others)) == len(others) == MAX_IN_FLIGHT_PER_ENDPOINT - 1
    assert ids[0] not in others
    steps.sql("UPDATE webhook_deliveries SET status = 'dead', locked_until = NULL WHERE locked_until IS NOT NULL")
    steps.sql("UPDATE webhook_endpoints SET disabled_at = now()")
    assert claim_next() is None


def test_a_delivered_event_is_not_sent_again(
    records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    assert records.record(records.claimed(delivery_id), OK) == DeliveryStatus.DELIVERED
    row = records.row(delivery_id)
    assert (row.status, row.tries, row.locked_until) == (DeliveryStatus.DELIVERED, 1, None)
    assert row.ended_at is not None
    assert records.claim(delivery_id) is None
    assert records.take() == []
    (tried,) = records.tries(delivery_id)
    assert (tried.number, tried.response_status, tried.error, tried.duration_ms) == (1, 204, None, 20)


def test_failures_follow_the_schedule_with_jitter_and_end_dead(
    records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    for wait in SCHEDULE[1:]:
        assert records.record(records.claimed(delivery_id), DOWN) == DeliveryStatus.PENDING
        assert records.claim(delivery_id) is None  # not due
        assert records.seconds_until_next(delivery_id) == pytest.approx(wait.total_seconds(), rel=0.101, abs=2)
        records.let_wait_pass()
    assert records.record(records.claimed(delivery_id), SILENT) == DeliveryStatus.DEAD
    row = records.row(delivery_id)
    assert (row.status, row.tries) == (DeliveryStatus.DEAD, len(SCHEDULE))
    assert row.ended_at is not None
    assert [tried.number for tried in records.tries(delivery_id)] == list(range(1, 11))
    assert records.tries(delivery_id)[-1].response_status is None


def test_waits_that_began_together_end_apart(
    steps: Steps, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    waits = []
    for _ in range(8):
        delivery_id = make_delivery()
        steps.sql("UPDATE webhook_deliveries SET schedule_step = 8 WHERE id = :id", id=delivery_id)
        records.record(records.claimed(delivery_id), DOWN)
        waits.append(records.seconds_until_next(delivery_id))
    assert max(waits) - min(waits) > 60  # of 24 h


@pytest.mark.parametrize(
    ("asked_for", "seconds"),
    [(dt.timedelta(seconds=1), 5), (dt.timedelta(minutes=7), 420), (dt.timedelta(days=300), 86_400)],
)
def test_a_receivers_wish_lengthens_the_wait_up_to_a_day(
    records: Deliveries,
    make_endpoint: MakeEndpoint,
    make_delivery: MakeDelivery,
    asked_for: dt.timedelta,
    seconds: int,
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    busy = TryResult(duration_ms=1, response_status=503, error="busy", retry_after=asked_for)
    records.record(records.claimed(delivery_id), busy)
    assert records.seconds_until_next(delivery_id) == pytest.approx(seconds, rel=0.1, abs=1.5)


def test_a_receiver_that_is_gone_disables_its_endpoint_and_ends_what_waits_for_it(
    database: Database, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    endpoint = make_endpoint()
    first, second, being_sent = make_delivery(), make_delivery(), make_delivery()
    other = records.claimed(being_sent)
    assert records.record(records.claimed(first), GONE) == DeliveryStatus.DEAD
    with database.transaction() as session:
        found = session.get_one(WebhookEndpoint, endpoint.id)
        assert found.disabled_at is not None
        assert found.disabled_reason == "its receiver answered 410 Gone"
    assert records.claim(second) is None
    assert records.take() == []
    assert records.bury() == 1
    assert records.row(second).status == DeliveryStatus.DEAD
    assert records.record(other, OK) == DeliveryStatus.DELIVERED  # its sender had it already


def test_deliveries_of_a_deleted_endpoint_are_buried(
    steps: Steps, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    assert records.bury() == 0
    steps.sql("UPDATE webhook_endpoints SET deleted_at = now()")
    assert records.take() == []
    assert records.bury() == 1
    assert records.row(delivery_id).ended_at is not None


def test_a_due_delivery_is_published_once_and_again_after_a_minute(
    steps: Steps, database: Database, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    assert records.take() == [delivery_id]
    assert records.take() == []
    steps.sql("UPDATE webhook_deliveries SET dispatched_at = now() - interval '61 s'")
    assert records.take() == [delivery_id]
    with database.transaction() as session:
        deliveries.forget_delivery_dispatch(session, [delivery_id])
    assert records.take() == [delivery_id]
    steps.sql("UPDATE webhook_deliveries SET dispatched_at = NULL, next_try_at = now() + interval '5 s'")
    assert records.take() == []


def test_the_next_try_is_published_when_it_is_due_however_recent_the_last(
    records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    assert records.take() == [delivery_id]
    records.record(records.claimed(delivery_id), DOWN)
    assert records.take() == []
    records.let_wait_pass()
    assert records.take() == [delivery_id]


def test_a_delivery_whose_sender_died_is_published_again(
    steps: Steps, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    records.take()
    records.claimed(delivery_id)
    steps.sql("UPDATE webhook_deliveries SET dispatched_at = now() - interval '61 s'")
    assert records.take() == []  # its sender may be alive
    steps.sql("UPDATE webhook_deliveries SET locked_until = now() - interval '1 s'")
    assert records.take() == [delivery_id]


def test_only_a_few_of_one_endpoint_are_published_and_the_others_are_not_held_up(
    database: Database, steps: Steps, records: Deliveries, make_job: MakeJob, make_endpoint: MakeEndpoint
) -> None:
    make_endpoint()
    for _ in range(20):
        job = make_job()
        steps.request_cancel(job.id, job.tenant_id)
    with database.transaction() as session:
        stranger = factories.add_tenant(session)
    late = make_endpoint(tenant_id=stranger.id)
    job = make_job(tenant_id=stranger.id)
    steps.request_cancel(job.id, stranger.id)
    taken = records.take()
    assert len(taken) == MAX_IN_FLIGHT_PER_ENDPOINT + 1
    assert records.row(taken[-1]).endpoint_id == late.id
    assert records.take() == []
    records.record(records.claimed(taken[0]), OK)
    assert len(records.take()) == 1


def test_a_receiver_that_was_slow_gets_one_at_a_time_until_it_is_quick_again(
    records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint()
    ids = [make_delivery() for _ in range(8)]
    first = records.take()
    assert len(first) == MAX_IN_FLIGHT_PER_ENDPOINT
    claimed = [records.claimed(one) for one in first]
    for one in claimed:
        records.record(one, SILENT)
    (next_one,) = records.take()
    in_flight = records.claimed(next_one)
    assert records.take() == []  # one is being sent
    records.record(in_flight, OK)
    assert sorted(records.take()) == sorted(set(ids) - {*first, next_one})


@pytest.mark.parametrize(("duration_ms", "is_slow"), [(5001, True), (4999, False)])
def test_an_answer_that_takes_long_is_slow_whatever_it_says(
    database: Database,
    records: Deliveries,
    make_endpoint: MakeEndpoint,
    make_delivery: MakeDelivery,
    duration_ms: int,
    is_slow: bool,
) -> None:
    endpoint = make_endpoint()
    late = TryResult(duration_ms=duration_ms, response_status=200, error=None)
    assert records.record(records.claimed(make_delivery()), late) == DeliveryStatus.DELIVERED
    with database.transaction() as session:
        assert (session.get_one(WebhookEndpoint, endpoint.id).slow_tries > 0) == is_slow


def test_slow_receivers_together_never_take_more_than_their_lane(
    steps: Steps, records: Deliveries, make_job: MakeJob, make_endpoint: MakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "SLOW_LANE", 3)
    slow = [make_endpoint(slow_tries=1) for _ in range(5)]
    job = make_job()
    steps.request_cancel(job.id, job.tenant_id)
    quick = make_endpoint()
    steps.request_cancel(make_job(webhook_endpoint_id=quick.id).id, job.tenant_id)
    taken = [records.row(one) for one in records.take()]
    assert taken[0].endpoint_id == quick.id  # not behind the slow ones, which have waited longer
    assert len(taken) == 1 + 3
    assert records.take() == []
    for row in taken[1:]:
        records.record(records.claimed(row.id), SILENT)
    assert {records.row(one).endpoint_id for one in records.take()} == (
        {one.id for one in slow} - {row.endpoint_id for row in taken}
    )


@pytest.mark.parametrize("result", [OK, GONE])
def test_an_ended_delivery_can_be_replayed_with_a_whole_schedule_and_keeps_its_history(
    steps: Steps,
    records: Deliveries,
    tenant: Tenant,
    make_endpoint: MakeEndpoint,
    make_delivery: MakeDelivery,
    result: TryResult,
) -> None:
    make_endpoint()
    delivery_id = make_delivery()
    before = records.claimed(delivery_id)
    assert records.replay(delivery_id, tenant.id) == ReplayAnswer.PENDING
    records.record(before, result)
    steps.sql("UPDATE webhook_endpoints SET disabled_at = NULL")
    assert records.replay(delivery_id, "ten_stranger") == ReplayAnswer.UNKNOWN
    assert records.replay(delivery_id, tenant.id) == ReplayAnswer.ACCEPTED
    assert records.take() == [delivery_id]
    again = records.claimed(delivery_id)
    assert (again.event_id, again.body, again.schedule_step) == (before.event_id, before.body, 0)
    assert records.record(again, OK) == DeliveryStatus.DELIVERED
    assert [tried.number for tried in records.tries(delivery_id)] == [1, 2]


def test_the_old_secret_signs_until_it_expires(
    steps: Steps, records: Deliveries, make_endpoint: MakeEndpoint, make_delivery: MakeDelivery
) -> None:
    make_endpoint(secret="whsec_bmV3", previous_secret="whsec_b2xk")
    delivery_id = make_delivery()
    expiry = "UPDATE webhook_endpoints SET previous_secret_expires_at = now() + make_interval(secs => :seconds)"
    for seconds, secrets in ((60, ("whsec_bmV3", "whsec_b2xk")), (-1, ("whsec_bmV3",))):
        steps.sql(expiry, seconds=seconds)
        assert records.claimed(delivery_id).secrets == secrets
        steps.sql("UPDATE webhook_deliveries SET locked_until = NULL")


def test_what_has_served_its_time_is_pruned_and_nothing_else(
    database: Database,
    steps: Steps,
    records: Deliveries,
    tenant: Tenant,
    make_endpoint: MakeEndpoint,
    make_delivery: MakeDelivery,
) -> None:
    make_endpoint()
    ended, pending, recent = make_delivery(), make_delivery(), make_delivery()
    records.record(records.claimed(ended), OK)
    records.record(records.claimed(pending), DOWN)
    steps.sql("UPDATE webhook_tries SET started_at = now() - interval '31 days'")
    records.record(records.claimed(recent), OK)
    answer = """
        INSERT INTO idempotent_answers (tenant_id, key, request_sha256, status_code, body, created_at)
        VALUES (:tenant, :key, '', 201, '{}', now() - make_interval(hours => :hours))
    """
    steps.sql(answer, tenant=tenant.id, key="old", hours=25)
    steps.sql(answer, tenant=tenant.id, key="new", hours=23)
    with database.transaction() as session:
        assert prune(session) == 2
    with database.transaction() as session:
        assert prune(session) == 0
        assert session.scalars(text("SELECT key FROM idempotent_answers")).all() == ["new"]
    assert [len(records.tries(delivery_id)) for delivery_id in (ended, pending, recent)] == [0, 1, 1]


def _job_of(records: Deliveries, delivery_id: str) -> str:
    with records.database.transaction() as session:
        job_id = session.scalar(
            text(
                "SELECT job_id FROM webhook_events JOIN webhook_deliveries ON event_id = webhook_events.id"
                " WHERE webhook_deliveries.id = :id"
            ),
            {"id": delivery_id},
        )
    assert job_id is not None
    return str(job_id)
