"""The dashboard's page of GPU nodes: what each does, its GPUs, and the button that drains it. Knows forms.

For viewers whose key has the scope `workers`; only `workers:drain` has the button. A script fetches it again and again.
"""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.dashboard.forms import Form, LoggedIn, SomeViewer, must_have, press, show_login, title_of
from api.dashboard.pages import render
from api.keys import Scope
from api.pagination import AfterWorker
from api.services import InjectedServices
from api.workers import drain, page_of_workers

PLACE = "/dashboard/workers"

router = APIRouter(include_in_schema=False)


@router.get(PLACE)
def workers_page(
    viewer: SomeViewer,
    services: InjectedServices,
    after: AfterWorker = None,
    notice: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    if viewer is None:
        return show_login(services, then=PLACE)
    must_have(viewer, Scope.WORKERS)
    with services.database.transaction() as session:
        page = page_of_workers(
            session, tenant_id=viewer.principal.tenant_id, after=after, limit=services.settings.page_size
        )
    return render(
        "workers.html",
        services,
        viewer=viewer,
        workers=page.data,
        next_url=f"{PLACE}?{urlencode({'after': page.next})}" if page.has_more else None,
        notice=title_of(notice),
    )


@router.post(PLACE + "/drain")
def drain_from_page(request: Request, viewer: LoggedIn, services: InjectedServices, form: Form) -> Response:
    def act() -> None:
        with services.database.transaction() as session:
            drain(session, form.get("name", ""))

    return press(act, request, viewer, form, scope=Scope.DRAIN)
