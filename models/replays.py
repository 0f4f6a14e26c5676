"""Sending an ended delivery again, or those of a range of time: the same events, under their ids.

Knows rows; sends nothing. A replayed delivery is pending like a new one, with its whole schedule of tries before it.
"""

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import and_, func, select, true, update
from sqlalchemy.orm import Session

from models.webhook import DeliveryStatus, WebhookDelivery

QUIETLY = {"synchronize_session": False}  # the session's own rows need not learn of the change


@dataclass(frozen=True)
class ReplayRange:
    """Deliveries by when their event was written, from `since` on and before `until`, and by how they ended."""

    since: dt.datetime
    until: dt.datetime | None
    statuses: tuple[DeliveryStatus, ...]


class ReplayAnswer(StrEnum):
    ACCEPTED = "accepted"  # it is pending again, due now, with its whole schedule of tries before it
    PENDING = "pending"  # it has not ended: nothing was changed
    UNKNOWN = "unknown"  # this tenant has no such delivery


def replay(session: Session, delivery_id: str, *, tenant_id: str) -> ReplayAnswer:
    """delivered | dead -> pending: the same event with the same id, signed anew."""
    owned = and_(WebhookDelivery.id == delivery_id, WebhookDelivery.tenant_id == tenant_id)
    replayed = session.scalar(
        update(WebhookDelivery)
        .where(owned, WebhookDelivery.status != DeliveryStatus.PENDING)
        .values(**_replayed())
        .returning(WebhookDelivery.id),
        execution_options=QUIETLY,
    )
    if replayed is not None:
        return ReplayAnswer.ACCEPTED
    known = session.scalar(select(WebhookDelivery.id).where(owned))
    return ReplayAnswer.UNKNOWN if known is None else ReplayAnswer.PENDING


def replay_range(
    session: Session, endpoint_id: str, *, tenant_id: str, wanted: ReplayRange, after: str | None, limit: int
) -> list[str]:
    """delivered | dead -> pending for those of an endpoint in a range of time: their ids, the oldest first.

    At most `limit` of those behind `after`; pending ones stay as they are.
    """
    chosen = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.endpoint_id == endpoint_id,
            WebhookDelivery.tenant_id == tenant_id,
            WebhookDelivery.status.in_(wanted.statuses),
            WebhookDelivery.status != DeliveryStatus.PENDING,
            WebhookDelivery.created_at >= wanted.since,
            true() if wanted.until is None else WebhookDelivery.created_at < wanted.until,
            WebhookDelivery.id > (after or ""),
        )
        .order_by(WebhookDelivery.id)
        .limit(limit)
        .with_for_update(key_share=True)
    )
    replayed = session.scalars(
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(chosen))
        .values(**_replayed())
        .returning(WebhookDelivery.id),
        execution_options=QUIETLY,
    )
    return sorted(replayed)


def _replayed() -> dict[str, object]:
    return {
        "status": DeliveryStatus.PENDING,
        "schedule_step": 0,
        "next_try_at": func.now(),
        "dispatched_at": None,
        "locked_until": None,
        "ended_at": None,
    }
