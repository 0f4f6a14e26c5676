"""The resource `/v1/webhook-endpoints`: where events are sent. Knows the table; sends nothing.

A secret is shown when it is made and never again. After a rotation the old one signs too for a day.
"""

import base64
import datetime as dt
import secrets
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from api.auth import WebhookKeeper
from api.errors import ApiError, ErrorCode, field_error
from api.idempotency import Created, IdempotencyKey, create_once, identify
from api.openapi import IDEMPOTENT, JSON_BODY, problems
from api.pagination import AfterEndpoint, Limit, fetch_page, page_size
from api.schemas import EndpointId
from api.services import InjectedServices, Services
from api.urls import complaint_about
from api.webhook_shapes import EndpointChange, EndpointCreate, EndpointOut, EndpointPage, EndpointWithSecret
from models.ids import IdPrefix, new_id
from models.webhook import WebhookEndpoint

SECRET_BYTES = 32
ROTATION = dt.timedelta(hours=24)

router = APIRouter(tags=["webhooks"])

_LOCATION = {"Location": {"description": "of the new endpoint", "schema": {"type": "string"}}}


@router.post(
    "/v1/webhook-endpoints",
    status_code=201,
    response_model=EndpointWithSecret,
    responses={201: {"headers": _LOCATION}, **problems(*JSON_BODY, *IDEMPOTENT, ErrorCode.url_not_allowed)},
)
def create_endpoint(
    body: EndpointCreate,
    request: Request,
    principal: WebhookKeeper,
    services: InjectedServices,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Register a receiver. Its secret is in this answer only."""
    _check_url(body.url, services)
    identity = identify(request, body, tenant_id=principal.tenant_id, key=idempotency_key)

    def create(session: Session) -> Created:
        endpoint = WebhookEndpoint(
            id=new_id(IdPrefix.ENDPOINT),
            tenant_id=principal.tenant_id,
            url=body.url,
            secret=_new_secret(),
            events=[str(event) for event in body.events],
        )
        session.add(endpoint)
        session.flush()
        session.refresh(endpoint)
        answer = EndpointWithSecret(**_fields(endpoint), secret=endpoint.secret).model_dump(mode="json")
        return Created(status_code=201, body=answer, location=f"/v1/webhook-endpoints/{endpoint.id}")

    return create_once(services.database, identity, create).response()


@router.get("/v1/webhook-endpoints", response_model=EndpointPage, responses=problems(ErrorCode.invalid_request))
def list_endpoints(
    principal: WebhookKeeper, services: InjectedServices, limit: Limit = None, after: AfterEndpoint = None
) -> EndpointPage:
    """The tenant's endpoints, newest first; deleted ones are not among them."""
    query = select(WebhookEndpoint).where(
        WebhookEndpoint.tenant_id == principal.tenant_id, WebhookEndpoint.deleted_at.is_(None)
    )
    with services.database.transaction() as session:
        endpoints, has_more = fetch_page(
            session, query, WebhookEndpoint.id, after=after, limit=page_size(limit, services.settings)
        )
    data = [EndpointOut(**_fields(endpoint)) for endpoint in endpoints]
    return EndpointPage(data=data, has_more=has_more, next=data[-1].id if has_more else None)


@router.get("/v1/webhook-endpoints/{endpoint_id}", response_model=EndpointOut, responses=problems(ErrorCode.not_found))
def read_endpoint(endpoint_id: EndpointId, principal: WebhookKeeper, services: InjectedServices) -> EndpointOut:
    """One endpoint, without its secret."""
    with services.database.transaction() as session:
        return EndpointOut(**_fields(own_endpoint(session, endpoint_id, tenant_id=principal.tenant_id)))


@router.patch(
    "/v1/webhook-endpoints/{endpoint_id}",
    response_model=EndpointOut,
    responses=problems(*JSON_BODY, ErrorCode.not_found, ErrorCode.url_not_allowed),
)
def change_endpoint(
    endpoint_id: EndpointId, body: EndpointChange, principal: WebhookKeeper, services: InjectedServices
) -> EndpointOut:
    """Change the URL or the events, or switch the endpoint off and on."""
    if body.url is not None:
        _check_url(body.url, services)
    with services.database.transaction() as session:
        endpoint = _locked_endpoint(session, endpoint_id, tenant_id=principal.tenant_id)
        if body.url is not None:
            endpoint.url = body.url
        if body.events is not None:
            endpoint.events = [str(event) for event in body.events]
        if body.enabled is True:
            endpoint.disabled_at = None
            endpoint.disabled_reason = None
        if body.enabled is False and endpoint.disabled_at is None:
            endpoint.disabled_at = session.scalar(select(func.now()))
            endpoint.disabled_reason = "disabled by its owner"
        session.flush()
        return EndpointOut(**_fields(endpoint))


@router.delete(
    "/v1/webhook-endpoints/{endpoint_id}",
    status_code=204,
    response_class=Response,
    responses=problems(ErrorCode.not_found),
)
def delete_endpoint(endpoint_id: EndpointId, principal: WebhookKeeper, services: InjectedServices) -> Response:
    """Send nothing there any more. What was delivered stays on record."""
    with services.database.transaction() as session:
        endpoint = _locked_endpoint(session, endpoint_id, tenant_id=principal.tenant_id)
        endpoint.deleted_at = session.scalar(select(func.now()))
    return Response(status_code=204)


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}/rotate-secret",
    response_model=EndpointWithSecret,
    responses=problems(ErrorCode.not_found),
)
def rotate_secret(endpoint_id: EndpointId, principal: WebhookKeeper, services: InjectedServices) -> EndpointWithSecret:
    """Make a new secret. For 24 hours events carry a signature of the old one as well."""
    with services.database.transaction() as session:
        endpoint = _locked_endpoint(session, endpoint_id, tenant_id=principal.tenant_id)
        now = session.scalar(select(func.now()))
        assert now is not None
        endpoint.previous_secret = endpoint.secret
        endpoint.previous_secret_expires_at = now + ROTATION
        endpoint.secret = _new_secret()
        session.flush()
        return EndpointWithSecret(**_fields(endpoint), secret=endpoint.secret)


def own_endpoint(session: Session, endpoint_id: str, *, tenant_id: str) -> WebhookEndpoint:
    """Raises ApiError `not_found` for an id that is not this tenant's, or deleted."""
    return _the_one(session, _owned(endpoint_id, tenant_id), endpoint_id)


def _locked_endpoint(session: Session, endpoint_id: str, *, tenant_id: str) -> WebhookEndpoint:
    """The same, and nobody else changes it before this transaction ends."""
    return _the_one(session, _owned(endpoint_id, tenant_id).with_for_update(key_share=True), endpoint_id)


def _owned(endpoint_id: str, tenant_id: str) -> Select[WebhookEndpoint]:
    return select(WebhookEndpoint).where(
        WebhookEndpoint.id == endpoint_id,
        WebhookEndpoint.tenant_id == tenant_id,
        WebhookEndpoint.deleted_at.is_(None),
    )


def _the_one(session: Session, query: Select[WebhookEndpoint], endpoint_id: str) -> WebhookEndpoint:
    endpoint = session.scalars(query).one_or_none()
    if endpoint is None:
        raise ApiError(ErrorCode.not_found, f"There is no webhook endpoint {endpoint_id}.")
    return endpoint


def _check_url(url: str, services: Services) -> None:
    allow_http = services.settings.allow_http_urls
    schemes = ("https", "http") if allow_http else ("https",)
    complaint = complaint_about(url, schemes=schemes, allow_private=allow_http)
    if complaint is not None:
        raise field_error(ErrorCode.url_not_allowed, "url", f"The URL {complaint}.")


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"


def _fields(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": endpoint.events,
        "enabled": endpoint.disabled_at is None,
        "disabled_reason": endpoint.disabled_reason,
        "previous_secret_expires_at": endpoint.previous_secret_expires_at,
        "created_at": endpoint.created_at,
    }
