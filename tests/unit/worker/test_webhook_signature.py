"""Our signatures, judged by the reference package of Standard Webhooks."""

import base64
import datetime as dt
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from worker.webhook_signature import signed_headers


def secret(size: int, fill: int = 7) -> str:
    return "whsec_" + base64.b64encode(bytes([fill]) * size).decode()


@given(key=st.binary(min_size=24, max_size=64), text=st.text())
def test_the_reference_package_accepts_our_signature(key: bytes, text: str) -> None:
    key_text = "whsec_" + base64.b64encode(key).decode()
    body = f'"{base64.b64encode(text.encode()).decode()}"'.encode()
    headers = signed_headers(secrets=[key_text], message_id="evt_1", timestamp=int(time.time()), body=body)
    Webhook(key_text).verify(body, headers)


def test_the_reference_package_makes_the_same_signature() -> None:
    now = time.time()
    headers = signed_headers(secrets=[secret(32)], message_id="evt_1", timestamp=int(now), body=b'{"a":1}')
    theirs = Webhook(secret(32)).sign("evt_1", _moment(now), '{"a":1}')
    assert headers["webhook-signature"] == theirs


def test_during_a_rotation_either_secret_verifies() -> None:
    old, new = secret(24, 1), secret(64, 2)
    headers = signed_headers(secrets=[new, old], message_id="evt_1", timestamp=int(time.time()), body=b"{}")
    assert len(headers["webhook-signature"].split(" ")) == 2
    for key in (old, new):
        Webhook(key).verify(b"{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret(32, 3)).verify(b"{}", headers)


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp"])
def test_nothing_that_is_signed_can_be_changed(change: str) -> None:
    headers = signed_headers(secrets=[secret(32)], message_id="evt_1", timestamp=int(time.time()), body=b"{}")
    body = b"{} " if change == "body" else b"{}"
    if change == "webhook-id":
        headers[change] = "evt_2"
    if change == "webhook-timestamp":
        headers[change] = str(int(headers[change]) + 1)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret(32)).verify(body, headers)


@pytest.mark.parametrize("wrong", ["", "secret", "whsec_%%%", "WHSEC_AAAA"])
def test_a_secret_in_another_form_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="webhook secret"):
        signed_headers(secrets=[wrong], message_id="evt_1", timestamp=1, body=b"")


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(seconds), tz=dt.UTC)
