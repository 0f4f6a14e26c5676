"""The story of one try to deliver a webhook: claim, sign, send, write down what came of it.

Knows the record and outbound HTTP; nothing of renders. Safe to start twice: one sender has the delivery. A sender that
dies between sending and writing down is replaced by another a minute later, with the same `webhook-id`; one whose
record goes away for a moment waits for it, so that what was received is not sent again.
"""

import datetime as dt
import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from celery import Celery
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from models.database import Database
from models.deliveries import ClaimedDelivery, TryResult, claim_delivery, claim_next, record_try
from models.queues import TaskName
from models.webhook import DeliveryStatus
from worker.failpoints import Failpoint, failpoint
from worker.outbound import Client, OutboundError, Response, UnsafeUrl
from worker.webhook_signature import signed_headers

TIMEOUT_S = 15.0
MOST_SECONDS = 10**9  # more than a timedelta need hold; the schedule has its own limit
CLAIM_PATIENCE_S = 10.0  # afterwards the scheduler's next message, within a minute, is the quicker way
RECORD_PATIENCE_S = 40.0  # with the try itself less than the minute for which this sender has the delivery
PAUSE_S = 0.5
IN_A_ROW_S = 5.0  # then the thread is for others

_Answer = TypeVar("_Answer")

log = structlog.get_logger(__name__)


class RecordAway(Exception):
    """The record could not be reached for as long as it is waited for."""


@dataclass(frozen=True)
class DeliveryDesk:
    """What every delivery of one process works with."""

    database: Database
    client: Client


def register(app: Celery, desk: DeliveryDesk) -> None:
    """Make the task known to the app."""

    def deliver_webhook(delivery_id: str) -> None:
        deliver(desk, delivery_id)

    # not shared: or every app of the process would have it, with this desk
    app.task(deliver_webhook, name=str(TaskName.DELIVER), shared=False)


def deliver(desk: DeliveryDesk, delivery_id: str) -> None:
    """One try, if the delivery is due and nobody else has it; then, while it goes well, the endpoint's next ones."""
    started = time.monotonic()
    claimed = _claim(desk, partial(claim_delivery, delivery_id=delivery_id), of=delivery_id)
    while claimed is not None:
        endpoint_id = claimed.endpoint_id
        status = _try(desk, claimed)
        if status is not DeliveryStatus.DELIVERED or time.monotonic() - started > IN_A_ROW_S:
            return
        claimed = _claim(desk, partial(claim_next, endpoint_id=endpoint_id), of=endpoint_id)


def _claim(
    desk: DeliveryDesk, claim: Callable[[Session], ClaimedDelivery | None], *, of: str
) -> ClaimedDelivery | None:
    try:
        return _patiently(desk, claim, patience_s=CLAIM_PATIENCE_S)
    except RecordAway as away:
        log.warning("not claimed; it is published again", of=of, error=str(away))
        return None


def _try(desk: DeliveryDesk, claimed: ClaimedDelivery) -> DeliveryStatus | None:
    """The status afterwards; None: not this sender's to say, or not known."""
    result = send(desk.client, claimed)
    failpoint(Failpoint.SENT, claimed.id)
    try:
        status = _patiently(desk, lambda session: record_try(session, claimed, result), patience_s=RECORD_PATIENCE_S)
    except RecordAway as away:
        log.error("sent but not recorded; it is sent again", delivery=claimed.id, error=str(away))
        return None
    log.info(
        "webhook tried",
        delivery=claimed.id,
        endpoint=claimed.endpoint_id,
        event_id=claimed.event_id,
        response_status=result.response_status,
        error=result.error,
        duration_ms=round(result.duration_ms),
        status=status or "taken over by another sender",
    )
    return status


def _patiently(desk: DeliveryDesk, step: Callable[[Session], _Answer], *, patience_s: float) -> _Answer:
    """A step in a transaction of its own, again and again while the record is away. Raises RecordAway.

    A step whose commit got no answer finds on the next round that it is done: it is guarded.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with desk.database.transaction() as session:
                return step(session)
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            if time.monotonic() > deadline:
                raise RecordAway(f"{type(error).__name__} for {patience_s:g} s") from error
        time.sleep(PAUSE_S)


def send(client: Client, claimed: ClaimedDelivery) -> TryResult:
    """POST the event; 15 seconds at most. Whatever goes wrong is a result, for the next try is hours away, not here."""
    started = time.monotonic()
    try:
        response = _post(client, claimed)
        wish = retry_after(response, now=claimed.now)
    except (UnsafeUrl, OutboundError) as error:
        return TryResult(duration_ms=_milliseconds_since(started), response_status=None, error=str(error))
    except Exception:
        # without a result it would come again each minute, for ever, and never be dead
        log.exception("a webhook could not be sent", delivery=claimed.id)
        words = "The event could not be sent: an internal error."
        return TryResult(duration_ms=_milliseconds_since(started), response_status=None, error=words)
    return TryResult(
        duration_ms=_milliseconds_since(started),
        response_status=response.status,
        error=complaint_about(response.status),
        retry_after=wish,
    )


def _post(client: Client, claimed: ClaimedDelivery) -> Response:
    headers = {
        "content-type": "application/json",
        **signed_headers(
            secrets=claimed.secrets,
            message_id=claimed.event_id,
            timestamp=int(claimed.now.timestamp()),
            body=claimed.body,
        ),
    }
    return client.post(claimed.url, headers=headers, body=claimed.body, timeout_s=TIMEOUT_S)


def complaint_about(status: int) -> str | None:
    """Why an answer is not a success, in words for the owner of the endpoint."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"The receiver answered {status}: redirects are not followed; name the final URL."
    return f"The receiver answered {status}."


def retry_after(response: Response, *, now: dt.datetime) -> dt.timedelta | None:
    """What the answer's Retry-After asks for, given in seconds or as a date; None without one that makes sense."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return dt.timedelta(seconds=min(int(value[:12]), MOST_SECONDS))
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=dt.UTC)
    return max(at - now, dt.timedelta(0))


def _milliseconds_since(started: float) -> float:
    return (time.monotonic() - started) * 1000
