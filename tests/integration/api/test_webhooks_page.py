"""The dashboard's page of webhooks, by plain requests."""

from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import select, text

from api.keys import Scope
from models.database import Database
from models.deliveries import TryResult, claim_delivery, record_try
from models.job import Job
from models.transitions import request_cancel
from models.webhook import WebhookDelivery, WebhookEndpoint
from tests.integration.api.pages import hidden
from tests.integration.api.running import RunningApi, problem

LogIn = Callable[..., httpx.Client]


@pytest.fixture
def delivery(
    database: Database, make_job: Callable[..., Job], make_endpoint: Callable[..., WebhookEndpoint]
) -> WebhookDelivery:
    """Dead after one try that got a 500."""
    make_endpoint(url="https://example.com/<script>")
    job = make_job()
    with database.transaction() as session:
        request_cancel(session, job.id, tenant_id=job.tenant_id)
        found = session.scalars(select(WebhookDelivery)).one()
        claimed = claim_delivery(session, found.id)
        assert claimed is not None
        record_try(session, claimed, TryResult(duration_ms=7, response_status=500, error="The receiver answered 500."))
        session.execute(text("UPDATE webhook_deliveries SET status = 'dead', ended_at = now()"))
        return found


def test_the_page_shows_endpoints_deliveries_and_their_last_try(log_in: LogIn, delivery: WebhookDelivery) -> None:
    browser = log_in()
    assert 'href="/dashboard/webhooks"' in browser.get("/").text
    page = browser.get("/dashboard/webhooks").text
    for shown in (delivery.id, delivery.endpoint_id, "job.canceled", "dead", "The receiver answered 500.", "1 try"):
        assert shown in page
    assert "<script>" not in page
    assert "whsec_" not in page


def test_a_button_sends_one_again(log_in: LogIn, delivery: WebhookDelivery, database: Database) -> None:
    browser = log_in()
    place = f"/dashboard/webhooks/{delivery.endpoint_id}/deliveries/{delivery.id}/replay"
    token = hidden(browser.get("/dashboard/webhooks"), "csrf")

    forged = browser.post(place, data={"csrf": "x"})
    assert "notice=invalid_csrf_token" in forged.headers["location"]
    assert _status(database, delivery) == "dead"
    answer = browser.post(place, data={"csrf": token})

    assert answer.status_code == 303
    assert "1 delivery will be sent again." in browser.get(answer.headers["location"]).text
    assert _status(database, delivery) == "pending"
    again = browser.post(place, data={"csrf": token})
    assert 'role="alert"' in browser.get(again.headers["location"]).text


def test_the_form_sends_all_again_that_died_since_a_moment(
    log_in: LogIn, delivery: WebhookDelivery, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.deliveries.MOST_AT_ONCE", 1)
    browser = log_in()
    place = f"/dashboard/webhooks/{delivery.endpoint_id}/replay"
    token = hidden(browser.get("/dashboard/webhooks"), "csrf")
    with database.transaction() as session:
        session.execute(text("UPDATE webhook_deliveries SET created_at = '2026-03-01T12:00Z'"))

    for since, sent in (
        ("2026-03-01T12:01", "sent=0"),
        ("noon", "notice=invalid_request"),
        ("2026-03-01T12:00", "sent=1"),
    ):
        answer = browser.post(place, data={"csrf": token, "since": since})
        assert sent in answer.headers["location"]
    assert _status(database, delivery) == "pending"


def test_a_key_without_the_scope_and_another_tenant_see_and_change_nothing(
    log_in: LogIn, delivery: WebhookDelivery, database: Database
) -> None:
    browser = log_in(Scope.JOBS_READ)
    page = browser.get("/")
    assert "/dashboard/webhooks" not in page.text
    assert problem(browser.get("/dashboard/webhooks")) == (403, "scope_missing")
    place = f"/dashboard/webhooks/{delivery.endpoint_id}/replay"
    refused = browser.post(place, data={"csrf": hidden(page, "csrf"), "since": "2026-03-01T12:00"})
    assert "notice=scope_missing" in refused.headers["location"]

    with database.transaction() as session:
        session.execute(text("INSERT INTO tenants (id, name) VALUES ('ten_other', 'another')"))
    browser = log_in(tenant_id="ten_other")
    page = browser.get("/dashboard/webhooks", params={"endpoint": delivery.endpoint_id})
    assert delivery.endpoint_id not in page.text
    token = hidden(page, "csrf")
    refused = browser.post(place, data={"csrf": token, "since": "2026-03-01T12:00"})
    assert "notice=not_found" in refused.headers["location"]
    assert _status(database, delivery) == "dead"


def test_it_is_shown_after_logging_in_and_not_before(api: RunningApi, make_key: Callable[..., str]) -> None:
    with api.client() as browser:
        form = browser.get("/dashboard/webhooks")
        data = {name: hidden(form, name) for name in ("nonce", "then")}
        answer = browser.post("/login", data={**data, "key": make_key()})
    assert "No endpoints yet" not in form.text
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/webhooks")


def _status(database: Database, delivery: WebhookDelivery) -> str:
    with database.transaction() as session:
        return session.get_one(WebhookDelivery, delivery.id).status
