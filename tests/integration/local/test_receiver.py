"""The demo's webhook receiver: a right signature is taken, everything else refused. The standard's own code signs."""

import datetime as dt
import json
from collections.abc import Iterator

import httpx
import pytest
from standardwebhooks import Webhook

from infra.local.receiver import WebhookReceiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = json.dumps({"type": "job.succeeded", "data": {"id": "job_1"}})


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(secret=lambda: SECRET) as receiver:
        yield receiver


def test_a_signed_event_is_taken(receiver: WebhookReceiver) -> None:
    assert post(receiver, BODY, signed(BODY)) == 204
    received = receiver.wait_for("job_1", timeout_s=5)
    assert (received.webhook_id, received.type) == ("evt_1", "job.succeeded")


@pytest.mark.parametrize("secret", ["whsec_" + "A" * 32])
def test_an_event_signed_by_somebody_else_is_refused(receiver: WebhookReceiver, secret: str) -> None:
    assert post(receiver, BODY, signed(BODY, secret=secret)) == 401
    assert len(receiver.refused) == 1
    with pytest.raises(TimeoutError, match="refused"):
        receiver.wait_for("job_1", timeout_s=0.1)


def test_a_changed_body_is_refused(receiver: WebhookReceiver) -> None:
    assert post(receiver, BODY.replace("job_1", "job_2"), signed(BODY)) == 401
    assert receiver.received == ()


def signed(body: str, *, secret: str = SECRET) -> dict[str, str]:
    now = dt.datetime.now(dt.UTC)
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("evt_1", now, body),
    }


def post(receiver: WebhookReceiver, body: str, headers: dict[str, str]) -> int:
    return httpx.post(receiver.url, content=body, headers=headers, timeout=5, trust_env=False).status_code
