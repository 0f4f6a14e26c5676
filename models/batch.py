"""Batches: jobs that were submitted together. A job's batch is optional."""

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, CreatedAt


class Batch(Base):
    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str | None]
    created_at: Mapped[CreatedAt]
