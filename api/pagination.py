"""Pages by keyset: what comes after an id, so that a page costs the same however long the table is. Knows SQL."""

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Query
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session
from ulid import ULID

from api.patterns import NO_NUL
from api.schemas import DeliveryId, EndpointId, JobId
from api.settings import ApiSettings
from models.ids import IdPrefix

Limit = Annotated[int | None, Query(ge=1, le=100, description="how many; null: the installation's page size")]
_OF_PAGE_BEFORE = "the `next` of the page before"
AfterJob = Annotated[JobId | None, Query(description=_OF_PAGE_BEFORE)]
AfterEndpoint = Annotated[EndpointId | None, Query(description=_OF_PAGE_BEFORE)]
AfterDelivery = Annotated[DeliveryId | None, Query(description=_OF_PAGE_BEFORE)]
AfterAttempt = Annotated[int | None, Query(ge=1, le=2**31 - 1, description=_OF_PAGE_BEFORE)]
AfterWorker = Annotated[str | None, Query(min_length=1, max_length=255, pattern=NO_NUL, description=_OF_PAGE_BEFORE)]

Row = TypeVar("Row")
Key = TypeVar("Key", str, int)

# ids carry the clock of the process that made them, created_at the database's
CLOCK_SKEW_S = 300
ULID_TIME_LETTERS = 10
LARGEST_RANDOM = "Z" * 16
MAX_ULID_MS = 2**48 - 1


def fetch_page(
    session: Session, query: Select[Row], key: InstrumentedAttribute[Key], *, after: Key | None, limit: int
) -> tuple[Sequence[Row], bool]:
    """The rows after the cursor, by falling key, and whether more follow."""
    if after is not None:
        query = query.where(key < after)
    rows = session.scalars(query.order_by(key.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def page_size(limit: int | None, settings: ApiSettings) -> int:
    return settings.page_size if limit is None else limit


def first_id_at(prefix: IdPrefix, moment: dt.datetime) -> str:
    """Smaller than every id that a row created at `moment` can have: a search by time goes through the primary key."""
    return _time_part(prefix, moment.timestamp() - CLOCK_SKEW_S)


def last_id_at(prefix: IdPrefix, moment: dt.datetime) -> str:
    """Larger than every id that a row created at `moment` can have."""
    return _time_part(prefix, moment.timestamp() + CLOCK_SKEW_S) + LARGEST_RANDOM


def _time_part(prefix: IdPrefix, seconds: float) -> str:
    milliseconds = min(max(int(seconds * 1000), 0), MAX_ULID_MS)
    return f"{prefix}_{str(ULID.from_timestamp(milliseconds))[:ULID_TIME_LETTERS]}"
