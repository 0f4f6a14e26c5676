"""The list of jobs that the dashboard shows, and the stream that keeps an open page fresh. Knows SQL and events."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.auth import check_still_valid
from api.dashboard.pages import JobRow, ListPlace, fragment
from api.dashboard.session import Viewer
from api.errors import ApiError
from api.events import HEARTBEAT, HEARTBEAT_S, look_again, sse
from api.job_filters import jobs_of
from api.job_view import view_jobs
from api.pagination import fetch_page
from api.services import Services
from models.job import Job, JobStatus

COALESCE_S = 0.25
MAX_NEW_ROWS = 20


async def changed_rows(viewer: Viewer, services: Services, place: ListPlace) -> AsyncIterator[bytes]:
    """Events named `rows`: at first every row of the page, then those that changed, came on top or left the filter."""
    changes = services.changes
    clock = asyncio.get_running_loop().time
    page = LivePage(viewer, services, place)
    with changes.subscribe_to_all() as subscription:
        heartbeat_at = clock() + HEARTBEAT_S
        pause = 0.0
        while not changes.is_closing:
            changed = await subscription.wait(timeout_s=pause)
            if changed:
                await asyncio.sleep(COALESCE_S)  # what changes together is sent together
                changed |= await subscription.wait(timeout_s=0)
            try:
                update = await look_again(page.look, changed)
            except ApiError:
                return
            if update is not None:
                yield update
                heartbeat_at = clock() + HEARTBEAT_S
            elif clock() >= heartbeat_at:
                yield HEARTBEAT
                heartbeat_at = clock() + HEARTBEAT_S
            pause = changes.pause_s(heartbeat_at - clock())


class LivePage:
    """One open page: which rows it shows, and what of them was sent."""

    def __init__(self, viewer: Viewer, services: Services, place: ListPlace) -> None:
        self._viewer = viewer
        self._services = services
        self._place = place
        self._tenant_id = viewer.principal.tenant_id
        self._sent: dict[str, str] = {}
        self._counts: dict[JobStatus, int] = {}

    def look(self, changed: Collection[str]) -> bytes | None:
        """The rows to put in and to take out, of those that changed; without ids, of all. None when nothing is new.

        Raises ApiError when the key is not valid any more.
        """
        with self._services.database.transaction() as session:
            check_still_valid(session, self._viewer.principal)
            jobs = self._changed(session, changed) if changed else self._whole_page(session)
            if jobs is None:
                return None
            kept = {job.id for job in jobs}
            news = [job for job in jobs if self._sent.get(job.id) != _version(job)]
            gone = [job_id for job_id in changed or self._sent if job_id in self._sent and job_id not in kept]
            counts = count_by_status(session, tenant_id=self._tenant_id)
            if not news and not gone and counts == self._counts:
                return None
            self._counts = counts
            self._sent |= {job.id: _version(job) for job in news}
            for job_id in gone:
                del self._sent[job_id]
            rows = [
                {"id": row.job.id, "html": fragment("row.html", row=row, viewer=self._viewer)}
                for row in rows_of(session, news, self._services)
            ]
        return sse(event="rows", data=json.dumps({"rows": rows, "gone": gone, "counts": counts}))

    def _whole_page(self, session: Session) -> list[Job]:
        jobs, _ = jobs_at(session, self._place, self._services, tenant_id=self._tenant_id)
        return [*jobs, *self._load(session, self._sent.keys() - {job.id for job in jobs})]

    def _changed(self, session: Session, changed: Collection[str]) -> list[Job] | None:
        """Those of the page, and new ones for its top. None when no job of this tenant is among them."""
        own = set(session.scalars(select(Job.id).where(Job.tenant_id == self._tenant_id, Job.id.in_(changed))))
        if not own:
            return None
        shown = self._load(session, own & self._sent.keys())
        if not self._place.is_first:
            return shown
        new = jobs_of(self._tenant_id, self._place.wanted).where(Job.id.in_(own - self._sent.keys()))
        return [*shown, *session.scalars(new.order_by(Job.id.desc()).limit(MAX_NEW_ROWS))]

    def _load(self, session: Session, job_ids: Collection[str]) -> list[Job]:
        """Those that still pass the filter."""
        if not job_ids:
            return []
        return list(session.scalars(jobs_of(self._tenant_id, self._place.wanted).where(Job.id.in_(job_ids))))


def _version(job: Job) -> str:
    return f"{job.status} {job.phase} {job.blocks_done} {job.blocks_total} {job.attempt} {job.cancel_requested_at}"


def jobs_at(session: Session, place: ListPlace, services: Services, *, tenant_id: str) -> tuple[Sequence[Job], bool]:
    return fetch_page(
        session, jobs_of(tenant_id, place.wanted), Job.id, after=place.after, limit=services.settings.page_size
    )


def rows_of(session: Session, jobs: Sequence[Job], services: Services) -> list[JobRow]:
    return [
        JobRow(job=seen.out, has_poster=job.poster_key is not None)
        for job, seen in zip(jobs, view_jobs(session, jobs, services), strict=True)
    ]


def count_by_status(session: Session, *, tenant_id: str) -> dict[JobStatus, int]:
    counted = select(Job.status, func.count()).where(Job.tenant_id == tenant_id).group_by(Job.status)
    found = {row[0]: row[1] for row in session.execute(counted).all()}
    return {status: found.get(status, 0) for status in JobStatus}
