"""Webhook deliveries: which to send now, one sender at a time, what each try came to.

Knows rows; sends nothing. A delivery is pending until a try succeeds, its schedule is used up or its endpoint is gone.
The status changes by guarded updates only. All time is the database's.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Float, Interval, Update, and_, func, insert, or_, select, text, update
from sqlalchemy.orm import Session

from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookEvent, WebhookTry

# Standard Webhooks 1.0.0: the wait before each try, counted from the one before
SCHEDULE = (
    dt.timedelta(0),
    dt.timedelta(seconds=5),
    dt.timedelta(minutes=5),
    dt.timedelta(minutes=30),
    dt.timedelta(hours=2),
    dt.timedelta(hours=5),
    dt.timedelta(hours=10),
    dt.timedelta(hours=14),
    dt.timedelta(hours=20),
    dt.timedelta(hours=24),
)
JITTER = 0.1  # of each wait, up or down, so that what failed together does not come back together
LONGEST_WAIT = dt.timedelta(hours=24)  # whatever a receiver asks for
LOCK = dt.timedelta(seconds=60)  # a try takes 15 s at most; after this its sender is taken for dead
MAX_IN_FLIGHT_PER_ENDPOINT = 4  # a receiver that begins to hang holds so many threads and no more
SLOW = dt.timedelta(seconds=5)  # a try that took longer makes its endpoint a slow one, until one is quick again
SLOW_LANE = 64  # tries under way of all slow endpoints together, one of each, so that they leave room for the others
REDISPATCH_AFTER = dt.timedelta(seconds=60)
GONE = 410

# those being sent were due before the others, so they take the first places
IN_TURN = text("""
    SELECT id FROM (
        SELECT delivery.id, delivery.next_try_at, endpoint.slow_tries > 0 AS is_slow,
               row_number() OVER (PARTITION BY endpoint.slow_tries > 0 ORDER BY delivery.next_try_at) AS place
          FROM webhook_endpoints AS endpoint
         CROSS JOIN LATERAL (
               SELECT id, next_try_at FROM webhook_deliveries
                WHERE endpoint_id = endpoint.id AND status = 'pending' AND next_try_at <= now()
                ORDER BY next_try_at
                LIMIT CASE WHEN endpoint.slow_tries > 0 THEN 1 ELSE :per_endpoint END
         ) AS delivery
         WHERE endpoint.disabled_at IS NULL AND endpoint.deleted_at IS NULL
    ) AS due
     WHERE NOT is_slow OR place <= :slow_lane
     ORDER BY is_slow, next_try_at
""")


@dataclass(frozen=True)
class ClaimedDelivery:
    """What a sender needs for one try, and the token by which it reports back."""

    id: str
    endpoint_id: str
    url: str
    secrets: tuple[str, ...]  # all of them sign
    event_id: str
    body: bytes
    now: dt.datetime
    locked_until: dt.datetime  # no other claim has the same, so it fences
    schedule_step: int  # how many tries came before, since it was created or replayed


@dataclass(frozen=True)
class TryResult:
    """What became of one try. `response_status` is None if there was no answer."""

    duration_ms: float
    response_status: int | None
    error: str | None
    retry_after: dt.timedelta | None = None


def take_due_deliveries(session: Session) -> list[str]:
    """Due deliveries to publish, the longest waiting first, at most a few per endpoint; marks them as published.

    Of a slow endpoint it is one, behind the others, and never more than the slow lane holds. Those being sent count.
    Publish after the commit; should that fail, `forget_delivery_dispatch`.
    """
    in_turn = list(session.scalars(IN_TURN, {"per_endpoint": MAX_IN_FLIGHT_PER_ENDPOINT, "slow_lane": SLOW_LANE}))
    rows = session.scalars(
        _quietly(
            update(WebhookDelivery)
            .where(
                WebhookDelivery.id.in_(
                    select(WebhookDelivery.id)
                    .where(
                        WebhookDelivery.id.in_(in_turn),
                        _is_due(),
                        or_(
                            WebhookDelivery.dispatched_at.is_(None),
                            WebhookDelivery.dispatched_at < func.now() - REDISPATCH_AFTER,
                        ),
                    )
                    .with_for_update(key_share=True, skip_locked=True)
                )
            )
            .values(dispatched_at=func.now())
        ).returning(WebhookDelivery.id)
    ).all()
    taken = set(rows)
    return [delivery_id for delivery_id in in_turn if delivery_id in taken]


def forget_delivery_dispatch(session: Session, delivery_ids: Sequence[str]) -> None:
    """These could not be published after all."""
    session.execute(
        _quietly(update(WebhookDelivery).where(WebhookDelivery.id.in_(delivery_ids)).values(dispatched_at=None))
    )


def claim_delivery(session: Session, delivery_id: str) -> ClaimedDelivery | None:
    """The delivery for exactly one sender, for a minute.

    None: it ended, is not due, another sender has it, its endpoint is gone or has all the senders it may have.
    """
    endpoint_id = session.scalar(select(WebhookDelivery.endpoint_id).where(WebhookDelivery.id == delivery_id))
    endpoint = None if endpoint_id is None else _endpoint_with_room(session, endpoint_id)
    return None if endpoint is None else _claim(session, delivery_id, endpoint)


def claim_next(session: Session, endpoint_id: str) -> ClaimedDelivery | None:
    """The delivery of this endpoint that is due the longest, on the terms of `claim_delivery`.

    For a sender that has just delivered: many that are due, as after a replay, need not wait for a message each.
    """
    endpoint = _endpoint_with_room(session, endpoint_id)
    if endpoint is None:
        return None
    delivery_id = session.scalar(
        select(WebhookDelivery.id)
        .where(WebhookDelivery.endpoint_id == endpoint_id, _is_due())
        .order_by(WebhookDelivery.next_try_at)
        .limit(1)
    )
    return None if delivery_id is None else _claim(session, delivery_id, endpoint)


def _endpoint_with_room(session: Session, endpoint_id: str) -> WebhookEndpoint | None:
    """Locked, which makes its claims count one after the other. None: it is gone, or has all it may have in flight."""
    endpoint = session.scalars(
        select(WebhookEndpoint)
        .where(
            WebhookEndpoint.id == endpoint_id,
            WebhookEndpoint.disabled_at.is_(None),
            WebhookEndpoint.deleted_at.is_(None),
        )
        .with_for_update(key_share=True),
        execution_options={"populate_existing": True},
    ).one_or_none()
    if endpoint is None or _in_flight(session, endpoint.id) >= MAX_IN_FLIGHT_PER_ENDPOINT:
        return None
    return endpoint


def _claim(session: Session, delivery_id: str, endpoint: WebhookEndpoint) -> ClaimedDelivery | None:
    row = session.execute(
        _quietly(
            update(WebhookDelivery)
            .where(WebhookDelivery.id == delivery_id, _is_due())
            .values(locked_until=func.now() + LOCK)
        ).returning(
            WebhookDelivery.event_id,
            WebhookDelivery.locked_until,
            WebhookDelivery.schedule_step,
            func.now().label("now"),
        )
    ).one_or_none()
    if row is None:
        return None
    event = session.get_one(WebhookEvent, row.event_id)
    secrets = [endpoint.secret]
    rotates_until = endpoint.previous_secret_expires_at
    if endpoint.previous_secret is not None and (rotates_until is None or rotates_until > row.now):
        secrets.append(endpoint.previous_secret)
    return ClaimedDelivery(
        id=delivery_id,
        endpoint_id=endpoint.id,
        url=endpoint.url,
        secrets=tuple(secrets),
        event_id=event.id,
        body=event.body,
        now=row.now,
        locked_until=row.locked_until,
        schedule_step=row.schedule_step,
    )


def record_try(session: Session, claimed: ClaimedDelivery, result: TryResult) -> DeliveryStatus | None:
    """Write down the try and what follows from it; the status that the delivery has now.

    2xx: delivered. 410: dead, and the endpoint is disabled. Anything else: pending until the next try, or dead after
    the last. None: another sender took the delivery over, and nothing was written.
    """
    # the endpoint before the delivery, in the order in which a claim locks them
    _note_pace(session, claimed.endpoint_id, result)
    if result.response_status == GONE:
        _disable(session, claimed.endpoint_id)
    status = _status_after(claimed, result)
    tries = session.scalar(
        _quietly(
            update(WebhookDelivery)
            .where(
                WebhookDelivery.id == claimed.id,
                WebhookDelivery.status == DeliveryStatus.PENDING,
                WebhookDelivery.locked_until == claimed.locked_until,
            )
            .values(
                status=status,
                tries=WebhookDelivery.tries + 1,
                schedule_step=WebhookDelivery.schedule_step + 1,
                next_try_at=func.now() + _wait(claimed, result),
                ended_at=None if status == DeliveryStatus.PENDING else func.now(),
                locked_until=None,
                dispatched_at=None,
            )
        ).returning(WebhookDelivery.tries)
    )
    if tries is None:
        return None
    session.execute(
        insert(WebhookTry).values(
            delivery_id=claimed.id,
            number=tries,
            started_at=func.now() - dt.timedelta(milliseconds=result.duration_ms),
            duration_ms=result.duration_ms,
            response_status=result.response_status,
            error=result.error,
        )
    )
    return status


def bury_undeliverable(session: Session) -> int:
    """Pending deliveries of disabled and deleted endpoints -> dead; how many. Run by the reconciler.

    One that is being sent is left to its sender.
    """
    gone = select(WebhookEndpoint.id).where(
        or_(WebhookEndpoint.disabled_at.is_not(None), WebhookEndpoint.deleted_at.is_not(None))
    )
    buried = session.scalars(
        _quietly(
            update(WebhookDelivery)
            .where(
                WebhookDelivery.endpoint_id.in_(gone),
                WebhookDelivery.status == DeliveryStatus.PENDING,
                _is_unlocked(),
            )
            .values(status=DeliveryStatus.DEAD, ended_at=func.now(), locked_until=None)
        ).returning(WebhookDelivery.id)
    ).all()
    return len(buried)


def _status_after(claimed: ClaimedDelivery, result: TryResult) -> DeliveryStatus:
    if result.response_status is not None and 200 <= result.response_status < 300:
        return DeliveryStatus.DELIVERED
    is_last = claimed.schedule_step + 1 >= len(SCHEDULE)
    return DeliveryStatus.DEAD if is_last or result.response_status == GONE else DeliveryStatus.PENDING


def _wait(claimed: ClaimedDelivery, result: TryResult) -> ColumnElement[dt.timedelta]:
    """Until the next try: as scheduled, or as long as the receiver asks for if that is longer."""
    scheduled = SCHEDULE[min(claimed.schedule_step + 1, len(SCHEDULE) - 1)]
    asked_for = min(result.retry_after or dt.timedelta(0), LONGEST_WAIT)
    jitter = 1 - JITTER + 2 * JITTER * func.random(type_=Float)
    seconds = func.greatest(jitter * scheduled.total_seconds(), asked_for.total_seconds(), type_=Float)
    return func.make_interval(0, 0, 0, 0, 0, 0, seconds, type_=Interval)


def _note_pace(session: Session, endpoint_id: str, result: TryResult) -> None:
    is_slow = result.duration_ms > SLOW / dt.timedelta(milliseconds=1)
    endpoint = update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id)
    if is_slow:
        change = endpoint.values(slow_tries=WebhookEndpoint.slow_tries + 1)
    else:
        change = endpoint.where(WebhookEndpoint.slow_tries > 0).values(slow_tries=0)
    session.execute(_quietly(change))


def _disable(session: Session, endpoint_id: str) -> None:
    session.execute(
        _quietly(
            update(WebhookEndpoint)
            .where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.disabled_at.is_(None))
            .values(disabled_at=func.now(), disabled_reason="its receiver answered 410 Gone")
        )
    )


def _in_flight(session: Session, endpoint_id: str) -> int:
    return session.scalars(
        select(func.count())
        .select_from(WebhookDelivery)
        .where(
            WebhookDelivery.endpoint_id == endpoint_id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.locked_until > func.now(),
        )
    ).one()


def _is_due() -> ColumnElement[bool]:
    return and_(
        WebhookDelivery.status == DeliveryStatus.PENDING, WebhookDelivery.next_try_at <= func.now(), _is_unlocked()
    )


def _is_unlocked() -> ColumnElement[bool]:
    return or_(WebhookDelivery.locked_until.is_(None), WebhookDelivery.locked_until <= func.now())


def _quietly(change: Update) -> Update:
    """The session holds no rows that would have to learn of the change."""
    return change.execution_options(synchronize_session=False)
