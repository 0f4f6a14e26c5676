"""Identifiers: a prefix that says what it names and a ULID, so that ids sort by time of creation."""

from enum import StrEnum

from ulid import ULID


class IdPrefix(StrEnum):
    TENANT = "ten"
    API_KEY = "key"
    UPLOAD = "upl"
    BATCH = "bat"
    JOB = "job"
    ENDPOINT = "we"
    EVENT = "evt"
    DELIVERY = "dlv"


def new_id(prefix: IdPrefix) -> str:
    """A new id such as `job_01KABCDEF…` (26 characters after the prefix, 80 random bits)."""
    return f"{prefix}_{ULID()}"
