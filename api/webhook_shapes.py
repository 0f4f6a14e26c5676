"""The shapes of webhook endpoints and deliveries on the wire. Knows JSON; knows no table."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from api.patterns import URL
from api.schemas import Answer, DeliveryId, EndpointId, Moment, Page
from api.schemas import Request as RequestBody
from models.webhook import DeliveryStatus, EventType

Url = Annotated[str, StringConstraints(min_length=8, max_length=2048, pattern=URL)]
Events = Annotated[list[EventType], Field(max_length=len(EventType))]


class EndpointCreate(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"url": "https://example.com/webhooks"}]})

    url: Url = Field(description="https, on the public internet; it gets a POST for each event")
    events: Events = Field(default=[], description="empty: every type")


class EndpointChange(RequestBody):
    """What is left out, or null, stays as it is."""

    url: Url | None = None
    events: Events | None = None
    enabled: Annotated[bool, Field(strict=True)] | None = Field(
        default=None, description="true also enables an endpoint that was disabled by its receiver's 410"
    )


class EndpointOut(Answer):
    id: EndpointId
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    url: str
    events: list[str]
    enabled: bool
    disabled_reason: str | None
    previous_secret_expires_at: Moment | None = Field(description="until then events are signed with both secrets")
    created_at: Moment


class EndpointWithSecret(EndpointOut):
    secret: str = Field(description="`whsec_…`, for the signatures (Standard Webhooks); it is not shown again")


class EndpointPage(Page[EndpointOut]):
    """Webhook endpoints, newest first."""


class DeliveryOut(Answer):
    id: DeliveryId
    object: Literal["webhook_delivery"] = "webhook_delivery"
    event_id: str = Field(description="the `webhook-id` of every try")
    event_type: str
    job_id: str
    endpoint_id: EndpointId
    status: DeliveryStatus = Field(description="dead: no try succeeded and none will follow, unless it is replayed")
    tries: int
    next_try_at: Moment | None = Field(description="null unless pending")
    created_at: Moment
    ended_at: Moment | None


class RangeToReplay(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"since": "2026-03-01T06:00:00Z"}]})

    since: Moment = Field(description="of events from this moment on")
    until: Moment | None = Field(default=None, description="and before this one; null: until now")
    statuses: list[Literal["dead", "delivered"]] = Field(
        default=["dead"], min_length=1, max_length=2, description="delivered: received already, and lost"
    )
    after: DeliveryId | None = Field(default=None, description="the `next` of the answer before")

    @model_validator(mode="after")
    def _some_time(self) -> "RangeToReplay":
        if self.until is not None and self.until <= self.since:
            raise ValueError("until must be later than since")
        return self


class RangeReplayed(Answer):
    object: Literal["webhook_replay"] = "webhook_replay"
    replayed: int = Field(description="deliveries that are pending again, due now")
    next: DeliveryId | None = Field(description="null: that was all of the range")


class TryOut(Answer):
    number: int
    started_at: Moment
    duration_ms: float
    response_status: int | None = Field(description="null: there was no answer")
    error: str | None


class DeliveryWithTries(DeliveryOut):
    history: list[TryOut] = Field(description="every try, the first one first")


class DeliveryPage(Page[DeliveryOut]):
    """Deliveries, newest first."""
