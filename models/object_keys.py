"""Names of the objects in the storage. A tenant's objects lie below its id; an attempt's below its number.

An output's key holds the attempt, so two attempts of one job never write the same object and clients only ever see the
winner's.
"""

from enum import StrEnum


class OutputName(StrEnum):
    VIDEO = "video.mp4"
    POSTER = "poster.jpg"
    PREVIEW = "preview.webp"


def upload_key(*, tenant_id: str, upload_id: str) -> str:
    return f"tenants/{tenant_id}/uploads/{upload_id}"


def attempt_prefix(*, tenant_id: str, job_id: str, attempt: int) -> str:
    return f"tenants/{tenant_id}/jobs/{job_id}/{attempt}/"


def output_key(name: OutputName, *, tenant_id: str, job_id: str, attempt: int) -> str:
    return attempt_prefix(tenant_id=tenant_id, job_id=job_id, attempt=attempt) + name
