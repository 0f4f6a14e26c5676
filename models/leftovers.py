"""What in the storage nobody needs any more: outputs of attempts that did not win, checkpoints of ended jobs, inputs
that no job ever named; and how many of them were deleted.

Knows rows and names of objects; deletes no object. What is said to be a leftover here stays one for ever: an attempt
that has ended never holds its job again (the fencing token only grows), and an ended job never changes. So nothing that
happens later can make a deletion wrong, however long it takes, whoever does it as well, and whatever is in flight. The
grace is for an uploader that lost its lease and does not know yet: what it still writes is found with the rest.
"""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.collected import Collected, LeftoverKind
from models.job import Attempt, Job, JobStatus
from models.object_keys import AttemptName, JobName
from models.upload import Upload

GRACE = dt.timedelta(minutes=20)  # longer than a lease, and than the 15 minutes that one upload may take
DISCARDED_FOR = dt.timedelta(hours=1)  # longer than any request that saw the upload before may take to name it
UPLOADS_AT_ONCE = 500
UPLOAD_PREFIX = "upload:"


@dataclass(frozen=True)
class DiscardedUpload:
    id: str
    object_key: str


def ended_attempts(session: Session, names: Collection[AttemptName]) -> set[AttemptName]:
    """Those of them that ended a while ago, the winners too: whatever they were uploading, nobody completes it."""
    return _attempts(session, names, and_(_is_over(), Attempt.ended_at < func.now() - GRACE))


def lost_attempts(session: Session, names: Collection[AttemptName]) -> set[AttemptName]:
    """Those of them that ended a while ago and are not what their job succeeded with: their outputs are leftovers."""
    has_won = and_(Job.status == JobStatus.SUCCEEDED, Job.attempt == Attempt.attempt)
    return _attempts(session, names, and_(_is_over(), Attempt.ended_at < func.now() - GRACE, ~has_won))


def ended_jobs(session: Session, names: Collection[JobName]) -> set[JobName]:
    """Those of them that have had a terminal status for a while: their checkpoints are leftovers."""
    if not names:
        return set()
    rows = session.execute(
        select(Job.tenant_id, Job.id).where(
            tuple_(Job.tenant_id, Job.id).in_([(name.tenant_id, name.job_id) for name in names]),
            Job.finished_at < func.now() - GRACE,  # only a terminal job has finished
        )
    )
    return {JobName(row.tenant_id, row.id) for row in rows}


def discard_unused_uploads(session: Session, *, older_than: dt.timedelta) -> int:
    """No job may name them from now on. Those that a job names are marked, and not looked at again.

    Returns how many were looked at: 0 means that none are left.
    """
    old = session.execute(
        select(Upload.id, Upload.tenant_id)
        .where(Upload.used_at.is_(None), Upload.discarded_at.is_(None), Upload.created_at < func.now() - older_than)
        .order_by(Upload.created_at)
        .limit(UPLOADS_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    used = _named_by_jobs(session, {row.id for row in old}, tenant_ids={row.tenant_id for row in old})
    unused = {row.id for row in old} - used
    _set(session, used, used_at=func.now())
    _set(session, unused, discarded_at=func.now())
    return len(old)


def take_discarded_uploads(session: Session) -> list[DiscardedUpload]:
    """Those that may be deleted now. One that a job came to name in the last moment is kept after all."""
    discarded = session.execute(
        select(Upload.id, Upload.tenant_id, Upload.object_key)
        .where(Upload.used_at.is_(None), Upload.discarded_at < func.now() - DISCARDED_FOR)
        .order_by(Upload.created_at)
        .limit(UPLOADS_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    used = _named_by_jobs(session, {row.id for row in discarded}, tenant_ids={row.tenant_id for row in discarded})
    _set(session, used, used_at=func.now(), discarded_at=None)
    return [DiscardedUpload(row.id, row.object_key) for row in discarded if row.id not in used]


def forget_upload(session: Session, upload_id: str) -> None:
    """Its object is deleted."""
    session.execute(delete(Upload).where(Upload.id == upload_id, Upload.discarded_at.is_not(None)))


def note_collected(session: Session, kind: LeftoverKind, objects: int) -> None:
    added = insert(Collected).values(kind=kind, objects=objects, last_at=func.now())
    session.execute(
        added.on_conflict_do_update(
            index_elements=[Collected.kind],
            set_={"objects": Collected.objects + added.excluded.objects, "last_at": added.excluded.last_at},
        )
    )


def _attempts(session: Session, names: Collection[AttemptName], which: ColumnElement[bool]) -> set[AttemptName]:
    if not names:
        return set()
    rows = session.execute(
        select(Job.tenant_id, Attempt.job_id, Attempt.attempt)
        .join(Job, Job.id == Attempt.job_id)
        .where(
            tuple_(Job.tenant_id, Attempt.job_id, Attempt.attempt).in_(
                [(name.tenant_id, name.job_id, name.attempt) for name in names]
            ),
            which,
        )
    )
    return {AttemptName(row.tenant_id, row.job_id, row.attempt) for row in rows}


def _is_over() -> ColumnElement[bool]:
    """The attempt does not hold its job; it can never succeed any more."""
    return or_(Job.status != JobStatus.RUNNING, Job.attempt != Attempt.attempt)


def _named_by_jobs(session: Session, upload_ids: Collection[str], *, tenant_ids: Collection[str]) -> set[str]:
    if not upload_ids:
        return set()
    sources = [f"{UPLOAD_PREFIX}{upload_id}" for upload_id in upload_ids]
    columns = (Job.audio_source, Job.image_source, Job.video_source)
    rows = session.execute(
        select(*columns).where(Job.tenant_id.in_(tenant_ids), or_(*(column.in_(sources) for column in columns)))
    )
    named = {source.removeprefix(UPLOAD_PREFIX) for row in rows for source in row if source is not None}
    return named & set(upload_ids)


def _set(session: Session, upload_ids: Collection[str], **values: object) -> None:
    session.execute(
        update(Upload).where(Upload.id.in_(upload_ids)).values(**values),
        execution_options={"synchronize_session": False},
    )
