"""Uploads: input files that a client puts into the storage with a presigned URL before it names them in a job."""

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, CreatedAt, Timestamp


class Upload(Base):
    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    object_key: Mapped[str] = mapped_column(unique=True)
    filename: Mapped[str]
    content_type: Mapped[str]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="as announced by the client")
    created_at: Mapped[CreatedAt]
    used_at: Mapped[Timestamp | None] = mapped_column(comment="when the collector saw that a job names it")
    discarded_at: Mapped[Timestamp | None] = mapped_column(
        comment="no job may name it any more; it is about to be deleted"
    )

    __table_args__ = (Index("ix_uploads_unused", "created_at", postgresql_where=text("used_at IS NULL")),)
