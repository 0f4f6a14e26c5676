"""Webhooks: endpoints, one row per event, one per (event, endpoint) delivery, one per try."""

from enum import StrEnum

from sqlalchemy import ForeignKey, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from models.base import Base, CreatedAt, Timestamp


class EventType(StrEnum):
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELED = "job.canceled"
    JOB_EXPIRED = "job.expired"


class DeliveryStatus(StrEnum):
    PENDING = "pending"  # waits for its next try
    DELIVERED = "delivered"  # a try was answered with 2xx
    DEAD = "dead"  # every try failed, or the endpoint was disabled; can be replayed


class WebhookEndpoint(Base):
    __tablename__ = "webhook_endpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    url: Mapped[str]
    secret: Mapped[str] = mapped_column(comment="whsec_ + base64; needed in clear to sign")
    previous_secret: Mapped[str | None] = mapped_column(comment="signs too until it expires, so receivers can rotate")
    previous_secret_expires_at: Mapped[Timestamp | None]
    events: Mapped[list[str]] = mapped_column(ARRAY(Text), comment="empty: every type")
    disabled_at: Mapped[Timestamp | None]
    disabled_reason: Mapped[str | None]
    slow_tries: Mapped[int] = mapped_column(
        default=0, server_default="0", comment="tries in a row that took long, whatever came of them"
    )
    deleted_at: Mapped[Timestamp | None] = mapped_column(comment="hidden; its history stays, and ended jobs name it")
    created_at: Mapped[CreatedAt]


class WebhookEvent(Base):
    """Written in the transaction of the change it reports; the body never changes afterwards."""

    __tablename__ = "webhook_events"

    id: Mapped[str] = mapped_column(primary_key=True)  # the webhook-id, the same over every try
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    type: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary, comment="the exact bytes that are signed and sent")
    created_at: Mapped[CreatedAt]

    __table_args__ = (UniqueConstraint("job_id", "type"),)


class WebhookDelivery(Base):
    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(ForeignKey("webhook_events.id", ondelete="CASCADE"))
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    status: Mapped[str] = mapped_column(default=DeliveryStatus.PENDING)
    tries: Mapped[int] = mapped_column(default=0, comment="all of them, over every replay")
    schedule_step: Mapped[int] = mapped_column(default=0, comment="tries since it was created or replayed")
    next_try_at: Mapped[CreatedAt]
    dispatched_at: Mapped[Timestamp | None] = mapped_column(comment="when its message was last published")
    locked_until: Mapped[Timestamp | None] = mapped_column(comment="one sender has it until then")
    created_at: Mapped[CreatedAt]
    ended_at: Mapped[Timestamp | None]

    __table_args__ = (
        UniqueConstraint("event_id", "endpoint_id"),
        Index("ix_webhook_deliveries_due", "endpoint_id", "next_try_at", postgresql_where=text("status = 'pending'")),
        Index("ix_webhook_deliveries_locked", "endpoint_id", postgresql_where=text("locked_until IS NOT NULL")),
        Index("ix_webhook_deliveries_endpoint_id_id", "endpoint_id", "id"),
        Index("ix_webhook_deliveries_tenant_id_id", "tenant_id", "id"),
    )


class WebhookTry(Base):
    __tablename__ = "webhook_tries"

    delivery_id: Mapped[str] = mapped_column(ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[CreatedAt] = mapped_column(index=True)
    duration_ms: Mapped[float]
    response_status: Mapped[int | None]  # None: no answer
    error: Mapped[str | None]
