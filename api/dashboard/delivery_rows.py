"""Deliveries as the dashboard's tables show them. Knows SQL."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookEvent, WebhookTry


@dataclass(frozen=True)
class DeliveryRow:
    """A delivery as a row of a table shows it."""

    delivery: WebhookDelivery
    event: WebhookEvent
    endpoint: WebhookEndpoint
    last_try: WebhookTry | None  # None: there was none yet, or it is too long ago

    @property
    def has_ended(self) -> bool:
        return self.delivery.status != DeliveryStatus.PENDING


def delivery_rows(session: Session, which: ColumnElement[bool], *, limit: int) -> list[DeliveryRow]:
    """Those of which that holds, newest first."""
    rows = session.execute(
        select(WebhookDelivery, WebhookEvent, WebhookEndpoint, WebhookTry)
        .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .outerjoin(
            WebhookTry,
            and_(WebhookTry.delivery_id == WebhookDelivery.id, WebhookTry.number == WebhookDelivery.tries),
        )
        .where(which)
        .order_by(WebhookDelivery.id.desc())
        .limit(limit)
    )
    return [DeliveryRow(*row) for row in rows]
