"""Answers to creating requests, by (tenant, Idempotency-Key): the same request again gets the same answer."""

from typing import Any

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, CreatedAt


class IdempotentAnswer(Base):
    """Written in the transaction that creates the resource: key and resource exist together or not at all."""

    __tablename__ = "idempotent_answers"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[bytes] = mapped_column(LargeBinary, comment="of method, path and body")
    status_code: Mapped[int]
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[CreatedAt] = mapped_column(index=True)
