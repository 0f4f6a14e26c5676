"""`/v1/webhook-endpoints/{id}/deliveries`: what was sent to a receiver, each try of it, and sending it again: one
delivery, or those of a range of time.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.auth import WebhookKeeper
from api.errors import ApiError, ErrorCode
from api.idempotency import Created, IdempotencyKey, create_once, identify
from api.openapi import IDEMPOTENT, JSON_BODY, problems
from api.pagination import AfterDelivery, Limit, fetch_page, page_size
from api.schemas import DeliveryId, EndpointId
from api.services import InjectedServices
from api.webhook_endpoints import own_endpoint
from api.webhook_shapes import DeliveryOut, DeliveryPage, DeliveryWithTries, RangeReplayed, RangeToReplay, TryOut
from models.replays import ReplayAnswer, ReplayRange, replay, replay_range
from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEvent, WebhookTry

MOST_AT_ONCE = 1000

router = APIRouter(tags=["webhooks"])


@router.get(
    "/v1/webhook-endpoints/{endpoint_id}/deliveries",
    response_model=DeliveryPage,
    responses=problems(ErrorCode.not_found, ErrorCode.invalid_request),
)
def list_deliveries(
    endpoint_id: EndpointId,
    principal: WebhookKeeper,
    services: InjectedServices,
    limit: Limit = None,
    after: AfterDelivery = None,
    status: Annotated[DeliveryStatus | None, Query()] = None,
) -> DeliveryPage:
    """What was or will be sent to one endpoint."""
    query = select(WebhookDelivery).where(
        WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.tenant_id == principal.tenant_id
    )
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    with services.database.transaction() as session:
        own_endpoint(session, endpoint_id, tenant_id=principal.tenant_id)
        deliveries, has_more = fetch_page(
            session, query, WebhookDelivery.id, after=after, limit=page_size(limit, services.settings)
        )
        events = _events(session, [delivery.event_id for delivery in deliveries])
    data = [_view(delivery, events[delivery.event_id]) for delivery in deliveries]
    return DeliveryPage(data=data, has_more=has_more, next=data[-1].id if has_more else None)


@router.get(
    "/v1/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}",
    response_model=DeliveryWithTries,
    responses=problems(ErrorCode.not_found),
)
def read_delivery(
    endpoint_id: EndpointId, delivery_id: DeliveryId, principal: WebhookKeeper, services: InjectedServices
) -> DeliveryWithTries:
    """One delivery with its tries."""
    with services.database.transaction() as session:
        return _see(session, endpoint_id, delivery_id, tenant_id=principal.tenant_id)


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}/replay",
    status_code=202,
    response_model=DeliveryWithTries,
    responses=problems(ErrorCode.not_found, ErrorCode.delivery_pending, ErrorCode.endpoint_disabled),
)
def replay_delivery(
    endpoint_id: EndpointId, delivery_id: DeliveryId, principal: WebhookKeeper, services: InjectedServices
) -> DeliveryWithTries:
    """Send the same event once more, with the same `webhook-id` and a new timestamp, retried as before."""
    with services.database.transaction() as session:
        return replay_one(session, endpoint_id, delivery_id, tenant_id=principal.tenant_id)


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}/replay",
    status_code=202,
    response_model=RangeReplayed,
    responses=problems(*JSON_BODY, *IDEMPOTENT, ErrorCode.not_found, ErrorCode.endpoint_disabled),
)
def replay_deliveries(
    endpoint_id: EndpointId,
    body: RangeToReplay,
    request: Request,
    principal: WebhookKeeper,
    services: InjectedServices,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Send the events of a range of time once more, the oldest first, a thousand per request at most.

    Those that are pending stay as they are. Repeat it with `after` until `next` is null.
    """
    identity = identify(request, body, tenant_id=principal.tenant_id, key=idempotency_key)

    def create(session: Session) -> Created:
        out = replay_of_range(session, endpoint_id, body, tenant_id=principal.tenant_id)
        return Created(status_code=202, body=out.model_dump(mode="json"), location=None)

    return create_once(services.database, identity, create).response()


def replay_one(session: Session, endpoint_id: str, delivery_id: str, *, tenant_id: str) -> DeliveryWithTries:
    """Raises ApiError `not_found`, `endpoint_disabled`, `delivery_pending`."""
    before = _see(session, endpoint_id, delivery_id, tenant_id=tenant_id)
    if own_endpoint(session, endpoint_id, tenant_id=tenant_id).disabled_at is not None:
        raise ApiError(ErrorCode.endpoint_disabled)
    if replay(session, before.id, tenant_id=tenant_id) is ReplayAnswer.PENDING:
        raise ApiError(ErrorCode.delivery_pending)
    session.expire_all()
    return _see(session, endpoint_id, delivery_id, tenant_id=tenant_id)


def replay_of_range(session: Session, endpoint_id: str, body: RangeToReplay, *, tenant_id: str) -> RangeReplayed:
    """Raises ApiError `not_found`, `endpoint_disabled`."""
    if own_endpoint(session, endpoint_id, tenant_id=tenant_id).disabled_at is not None:
        raise ApiError(ErrorCode.endpoint_disabled)
    wanted = ReplayRange(since=body.since, until=body.until, statuses=tuple(map(DeliveryStatus, body.statuses)))
    replayed = replay_range(
        session, endpoint_id, tenant_id=tenant_id, wanted=wanted, after=body.after, limit=MOST_AT_ONCE
    )
    is_full = len(replayed) == MOST_AT_ONCE
    return RangeReplayed(replayed=len(replayed), next=replayed[-1] if is_full else None)


def _see(session: Session, endpoint_id: str, delivery_id: str, *, tenant_id: str) -> DeliveryWithTries:
    own_endpoint(session, endpoint_id, tenant_id=tenant_id)
    delivery = session.scalars(
        select(WebhookDelivery).where(
            WebhookDelivery.id == delivery_id,
            WebhookDelivery.endpoint_id == endpoint_id,
            WebhookDelivery.tenant_id == tenant_id,
        )
    ).one_or_none()
    if delivery is None:
        raise ApiError(ErrorCode.not_found, f"There is no delivery {delivery_id}.")
    tries = session.scalars(
        select(WebhookTry).where(WebhookTry.delivery_id == delivery.id).order_by(WebhookTry.number)
    ).all()
    event = _events(session, [delivery.event_id])[delivery.event_id]
    history = [
        TryOut(
            number=one.number,
            started_at=one.started_at,
            duration_ms=one.duration_ms,
            response_status=one.response_status,
            error=one.error,
        )
        for one in tries
    ]
    return DeliveryWithTries(**_view(delivery, event).model_dump(), history=history)


def _events(session: Session, event_ids: list[str]) -> dict[str, WebhookEvent]:
    return {event.id: event for event in session.scalars(select(WebhookEvent).where(WebhookEvent.id.in_(event_ids)))}


def _view(delivery: WebhookDelivery, event: WebhookEvent) -> DeliveryOut:
    is_pending = delivery.status == DeliveryStatus.PENDING
    return DeliveryOut(
        id=delivery.id,
        event_id=event.id,
        event_type=event.type,
        job_id=event.job_id,
        endpoint_id=delivery.endpoint_id,
        status=DeliveryStatus(delivery.status),
        tries=delivery.tries,
        next_try_at=delivery.next_try_at if is_pending else None,
        created_at=delivery.created_at,
        ended_at=delivery.ended_at,
    )
