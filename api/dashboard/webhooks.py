"""The dashboard's page of webhooks: endpoints, what was sent to one, and sending it again. Knows forms and SQL.

For viewers whose key has the scope `webhooks`. Works without a script.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.dashboard.delivery_rows import DeliveryRow, delivery_rows
from api.dashboard.forms import Form, LoggedIn, SomeViewer, must_have, show_login, title_of
from api.dashboard.pages import render
from api.dashboard.session import Viewer, check_csrf
from api.deliveries import replay_of_range, replay_one
from api.errors import ApiError, ErrorCode
from api.keys import Scope
from api.pagination import fetch_page
from api.schemas import DeliveryId, EndpointId
from api.services import InjectedServices
from api.webhook_shapes import RangeToReplay
from models.webhook import WebhookDelivery, WebhookEndpoint

PLACE = "/dashboard/webhooks"
MOST_ENDPOINTS = 100

router = APIRouter(include_in_schema=False)


@router.get(PLACE)
def webhooks_page(
    viewer: SomeViewer,
    services: InjectedServices,
    endpoint: Annotated[EndpointId | None, Query()] = None,
    after: Annotated[DeliveryId | None, Query()] = None,
    sent: Annotated[int | None, Query(ge=0)] = None,
    notice: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    if viewer is None:
        return show_login(services, then=PLACE)
    must_have(viewer, Scope.WEBHOOKS)
    with services.database.transaction() as session:
        endpoints = _endpoints(session, tenant_id=viewer.principal.tenant_id)
        chosen = next((one for one in endpoints if endpoint in (None, one.id)), None)
        rows, has_more = ([], False) if chosen is None else _rows(session, chosen, after, services.settings.page_size)
    return render(
        "webhooks.html",
        services,
        viewer=viewer,
        endpoints=endpoints,
        chosen=chosen,
        rows=rows,
        next_url=f"{PLACE}?{urlencode({'endpoint': chosen.id, 'after': rows[-1].delivery.id})}"
        if chosen is not None and has_more
        else None,
        sent=sent,
        notice=title_of(notice),
    )


@router.post(PLACE + "/{endpoint_id}/deliveries/{delivery_id}/replay")
def replay_from_page(
    endpoint_id: EndpointId, delivery_id: DeliveryId, viewer: LoggedIn, services: InjectedServices, form: Form
) -> Response:
    def act() -> int:
        with services.database.transaction() as session:
            replay_one(session, endpoint_id, delivery_id, tenant_id=viewer.principal.tenant_id)
        return 1

    return _act(act, endpoint_id, viewer, form)


@router.post(PLACE + "/{endpoint_id}/replay")
def replay_range_from_page(
    endpoint_id: EndpointId, viewer: LoggedIn, services: InjectedServices, form: Form
) -> Response:
    """Every dead delivery since a moment, which the form gives in UTC."""

    def act() -> int:
        wanted, count = _dead_since(form.get("since", "")), 0
        while True:
            with services.database.transaction() as session:
                replayed = replay_of_range(session, endpoint_id, wanted, tenant_id=viewer.principal.tenant_id)
            count += replayed.replayed
            if replayed.next is None:
                return count
            wanted = wanted.model_copy(update={"after": replayed.next})

    return _act(act, endpoint_id, viewer, form)


def _act(act: Callable[[], int], endpoint_id: str, viewer: Viewer, form: dict[str, str]) -> Response:
    """Do what a button asks for, and show the page again with what came of it."""
    try:
        check_csrf(viewer, form.get("csrf", ""))
        must_have(viewer, Scope.WEBHOOKS)
        came_of_it = {"sent": str(act())}
    except ApiError as error:
        came_of_it = {"notice": error.code.name}
    return RedirectResponse(f"{PLACE}?{urlencode({'endpoint': endpoint_id, **came_of_it})}", status_code=303)


def _dead_since(field: str) -> RangeToReplay:
    try:
        since = dt.datetime.fromisoformat(field)
        return RangeToReplay(since=since.replace(tzinfo=since.tzinfo or dt.UTC))
    except (ValueError, ValidationError) as error:
        raise ApiError(ErrorCode.invalid_request, "The form names no moment.") from error


def _endpoints(session: Session, *, tenant_id: str) -> Sequence[WebhookEndpoint]:
    return session.scalars(
        select(WebhookEndpoint)
        .where(WebhookEndpoint.tenant_id == tenant_id, WebhookEndpoint.deleted_at.is_(None))
        .order_by(WebhookEndpoint.id.desc())
        .limit(MOST_ENDPOINTS)
    ).all()


def _rows(session: Session, endpoint: WebhookEndpoint, after: str | None, limit: int) -> tuple[list[DeliveryRow], bool]:
    query = select(WebhookDelivery).where(
        WebhookDelivery.endpoint_id == endpoint.id, WebhookDelivery.tenant_id == endpoint.tenant_id
    )
    deliveries, has_more = fetch_page(session, query, WebhookDelivery.id, after=after, limit=limit)
    shown = WebhookDelivery.id.in_([one.id for one in deliveries])
    return delivery_rows(session, shown, limit=limit), has_more
