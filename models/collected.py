"""How many leftovers were collected, by kind; what `/metrics` tells."""

from enum import StrEnum

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, CreatedAt


class LeftoverKind(StrEnum):
    ATTEMPT = "attempt"  # outputs of an attempt that did not win
    CHECKPOINT = "checkpoint"  # of a job that has ended
    UPLOAD = "upload"  # an input that no job ever named
    UNFINISHED = "unfinished"  # the parts of an upload that was never completed


class Collected(Base):
    __tablename__ = "collected"

    kind: Mapped[str] = mapped_column(primary_key=True)
    objects: Mapped[int] = mapped_column(BigInteger, comment="all that were ever deleted")
    last_at: Mapped[CreatedAt]
