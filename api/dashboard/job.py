"""The dashboard's page of one job: where it is, its video, its tries, what was asked for, and its webhooks.

Knows SQL and events. The page is made of sections; a stream brings them again whenever the job has changed.
"""

import json
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from api.attempts import AttemptOut, attempts_of
from api.auth import check_still_valid
from api.dashboard.delivery_rows import DeliveryRow, delivery_rows
from api.dashboard.forms import LoggedIn, SomeViewer, show_login, title_of
from api.dashboard.pages import JobRow, fragment, render
from api.dashboard.session import Viewer
from api.events import Telling, moment_of, sse, stream_of
from api.job_actions import own_job
from api.job_view import view_jobs
from api.schemas import JobId
from api.services import InjectedServices, Services
from models.webhook import WebhookEvent

PLACE = "/dashboard/jobs/{job_id}"
SECTIONS = ("state", "video", "attempts", "deliveries")
"""Those that change with the job; each has a template `job_….html`."""
MOST_ATTEMPTS = 50
MOST_DELIVERIES = 50

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Shown:
    """What the page shows at one look."""

    row: JobRow
    moment_of_job: str
    attempts: list[AttemptOut]
    more_attempts: bool
    deliveries: list[DeliveryRow]

    @property
    def is_last(self) -> bool:
        """Nothing changes any more by itself."""
        return not self.row.is_active and all(told.has_ended for told in self.deliveries)

    @property
    def moment(self) -> str:
        tries = sum(told.delivery.tries for told in self.deliveries)
        ended = sum(told.has_ended for told in self.deliveries)
        return f"{self.moment_of_job}-{self.row.job.queue_position}-{tries}-{ended}"

    def sections(self, viewer: Viewer) -> dict[str, str]:
        return {name: fragment(f"job_{name}.html", shown=self, viewer=viewer) for name in SECTIONS}


@router.get(PLACE)
def job_page(
    job_id: JobId,
    request: Request,
    viewer: SomeViewer,
    services: InjectedServices,
    notice: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    if viewer is None:
        return show_login(services, then=request.url.path)
    with services.database.transaction() as session:
        shown = _look(session, job_id, viewer, services)
    return render(
        "job.html",
        services,
        shown=shown,
        sections=shown.sections(viewer),
        viewer=viewer,
        notice=title_of(notice),
    )


@router.get(PLACE + "/events")
async def job_page_events(
    job_id: JobId,
    viewer: LoggedIn,
    services: InjectedServices,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The sections as HTML, until the job has ended and its webhooks are told."""

    def look() -> Telling:
        with services.database.transaction() as session:
            check_still_valid(session, viewer.principal)
            shown = _look(session, job_id, viewer, services)
        return Telling(moment=shown.moment, event=lambda: _event(shown, viewer), is_last=shown.is_last)

    return await stream_of(job_id, look, services, last_event_id=last_event_id)


def _event(shown: Shown, viewer: Viewer) -> bytes:
    data = json.dumps({"sections": shown.sections(viewer), "ended": shown.is_last})
    return sse(event="job", data=data, event_id=shown.moment)


def _look(session: Session, job_id: str, viewer: Viewer, services: Services) -> Shown:
    """Raises ApiError `not_found` for an id that is not this tenant's."""
    principal = viewer.principal
    job = own_job(session, job_id, tenant_id=principal.tenant_id)
    seen = view_jobs(session, [job], services)[0]
    deliveries: list[DeliveryRow] = []
    if viewer.may_keep_webhooks:
        deliveries = delivery_rows(session, WebhookEvent.job_id == job_id, limit=MOST_DELIVERIES)
    attempts, more = attempts_of(session, job_id, principal, limit=MOST_ATTEMPTS)
    return Shown(
        row=JobRow(job=seen.out, has_poster=job.poster_key is not None),
        moment_of_job=moment_of(seen),
        attempts=attempts,
        more_attempts=more,
        deliveries=deliveries,
    )
