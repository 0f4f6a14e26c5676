"""Which jobs a list shows. Knows SQL; shared by the API's list and the dashboard's."""

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Select, String, cast, or_, select

from api.pagination import first_id_at, last_id_at
from models.ids import IdPrefix
from models.job import Job, JobStatus


@dataclass(frozen=True)
class JobFilter:
    """Everything given must hold. `text` is looked for in ids, prompts, error codes and metadata values."""

    statuses: tuple[JobStatus, ...] = ()
    batch_id: str | None = None
    custom_id: str | None = None
    created_after: dt.datetime | None = None
    created_before: dt.datetime | None = None
    text: str | None = None


def jobs_of(tenant_id: str, wanted: JobFilter) -> Select[Job]:
    """A tenant's jobs that pass the filter, in no order."""
    query = select(Job).where(Job.tenant_id == tenant_id)
    if wanted.statuses:
        query = query.where(Job.status.in_([str(status) for status in wanted.statuses]))
    if wanted.batch_id is not None:
        query = query.where(Job.batch_id == wanted.batch_id)
    if wanted.custom_id is not None:
        query = query.where(Job.custom_id == wanted.custom_id)
    if wanted.created_after is not None:
        after = first_id_at(IdPrefix.JOB, wanted.created_after)
        query = query.where(Job.created_at >= wanted.created_after, Job.id > after)
    if wanted.created_before is not None:
        before = last_id_at(IdPrefix.JOB, wanted.created_before)
        query = query.where(Job.created_at < wanted.created_before, Job.id < before)
    if wanted.text:
        pattern = f"%{_literally(wanted.text)}%"
        columns = (Job.id, Job.custom_id, Job.prompt, Job.error_code, Job.audio_source, cast(Job.labels, String))
        query = query.where(or_(*(column.ilike(pattern, escape="\\") for column in columns)))
    return query


def _literally(text: str) -> str:
    """Text whose letters mean themselves in LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
