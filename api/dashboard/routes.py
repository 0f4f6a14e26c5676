"""The dashboard's addresses: login, the list of jobs, cancel and retry. Knows forms and cookies; renders nothing."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from api.content import redirect_to_output
from api.dashboard.forms import Form, LoggedIn, SomeViewer, is_own_page, press, show_login, title_of
from api.dashboard.live import changed_rows, count_by_status, jobs_at, rows_of
from api.dashboard.pages import HERE, ListPlace, jobs_page
from api.dashboard.session import check_csrf, check_login, log_in, log_out
from api.events import STREAM_HEADERS
from api.job_actions import cancel, retry
from api.job_filters import JobFilter
from api.job_view import Variant
from api.keys import Scope, authenticate
from api.patterns import NO_NUL
from api.schemas import JobId
from api.services import InjectedServices
from api.storage import Disposition
from models.job import JobStatus

router = APIRouter(include_in_schema=False)


def static_files() -> StaticFiles:
    return StaticFiles(directory=HERE / "static")


def _place(
    status: Annotated[list[JobStatus], Query()] = [],  # noqa: B006 - copied by the framework
    q: Annotated[str | None, Query(max_length=200, pattern=NO_NUL)] = None,
    after: Annotated[JobId | None, Query()] = None,
) -> ListPlace:
    return ListPlace(wanted=JobFilter(statuses=tuple(status), text=q or None), after=after)


Place = Annotated[ListPlace, Depends(_place)]


@router.get("/")
def index(
    viewer: SomeViewer,
    services: InjectedServices,
    place: Place,
    notice: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    if viewer is None:
        return show_login(services)
    tenant_id = viewer.principal.tenant_id
    with services.database.transaction() as session:
        jobs, has_more = jobs_at(session, place, services, tenant_id=tenant_id)
        rows = rows_of(session, jobs, services)
        counts = count_by_status(session, tenant_id=tenant_id)
    return jobs_page(
        services,
        viewer,
        rows=rows,
        counts=counts,
        place=place,
        next_after=jobs[-1].id if has_more else None,
        notice=title_of(notice),
    )


@router.post("/login")
def login(request: Request, services: InjectedServices, form: Form) -> Response:
    then = form.get("then", "")
    if not is_own_page(then):
        then = "/"
    if not check_login(request, form.get("nonce", ""), services):
        return show_login(services, then=then, error="The form was open for too long. Try again.", status=403)
    with services.database.transaction() as session:
        principal = authenticate(session, form.get("key", "").strip())
    if principal is None:
        return show_login(services, then=then, error="This key is unknown, revoked or expired.", status=401)
    if not principal.may(Scope.JOBS_READ):
        return show_login(services, then=then, error=f"This key has no scope {Scope.JOBS_READ}.", status=403)
    response = RedirectResponse(then, status_code=303)
    log_in(response, principal.key_id, services)
    return response


@router.post("/logout")
def logout(viewer: LoggedIn, form: Form) -> Response:
    check_csrf(viewer, form.get("csrf", ""))
    response = RedirectResponse("/", status_code=303)
    log_out(response)
    return response


@router.post("/dashboard/jobs/{job_id}/cancel")
def cancel_from_page(
    job_id: JobId, request: Request, viewer: LoggedIn, services: InjectedServices, form: Form
) -> Response:
    def act() -> None:
        with services.database.transaction() as session:
            cancel(session, job_id, tenant_id=viewer.principal.tenant_id)

    return press(act, request, viewer, form, scope=Scope.JOBS_WRITE)


@router.post("/dashboard/jobs/{job_id}/retry")
def retry_from_page(
    job_id: JobId, request: Request, viewer: LoggedIn, services: InjectedServices, form: Form
) -> Response:
    """From the old job's page it leads to the new one's."""

    def act() -> str:
        with services.database.transaction() as session:
            created = retry(session, job_id, services, tenant_id=viewer.principal.tenant_id)
        services.queue.wake()
        return f"/dashboard/jobs/{created.body['id']}"

    return press(act, request, viewer, form, scope=Scope.JOBS_WRITE)


@router.get("/dashboard/jobs/{job_id}/content")
def content(job_id: JobId, viewer: LoggedIn, services: InjectedServices, variant: Variant = Variant.VIDEO) -> Response:
    return redirect_to_output(job_id, variant, services, tenant_id=viewer.principal.tenant_id)


@router.get("/dashboard/jobs/{job_id}/download")
def download(job_id: JobId, viewer: LoggedIn, services: InjectedServices) -> Response:
    """To the video by a link that says to save it: the page cannot, where the storage is of another origin."""
    return redirect_to_output(
        job_id,
        Variant.VIDEO,
        services,
        tenant_id=viewer.principal.tenant_id,
        disposition=Disposition.ATTACHMENT,
    )


@router.get("/dashboard/events")
async def page_events(viewer: LoggedIn, services: InjectedServices, place: Place) -> Response:
    """Rows that changed, as HTML, for the list at this place; one stream for the whole page."""
    return StreamingResponse(
        changed_rows(viewer, services, place), media_type="text/event-stream", headers=STREAM_HEADERS
    )
