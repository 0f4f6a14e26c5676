"""The dashboard's page of one job, by plain requests."""

import json
import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from sqlalchemy import select

from api import events
from api.keys import Scope
from models.database import Database
from models.deliveries import TryResult, claim_delivery, record_try
from models.job import Job
from models.output import OutputWarning
from models.transitions import fail
from models.webhook import WebhookDelivery, WebhookEndpoint
from tests.integration.api.outputs import finish
from tests.integration.api.pages import hidden
from tests.integration.api.running import RunningApi, problem
from tests.integration.api.tries import begin_again

LogIn = Callable[..., httpx.Client]


def test_it_tells_what_was_asked_for_and_what_became_of_every_try(
    log_in: LogIn, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job(custom_id="<b>7</b>", labels={"title": "Lesson <7>", "show": "a&b"})
    begin_again(database, job.id, times=1)
    with database.transaction() as session:
        assert fail(session, job.id, attempt=2, code="bad_sound", message="There is <no> sound.")
    browser = log_in()

    page = browser.get(f"/dashboard/jobs/{job.id}").text

    for shown in ("&lt;b&gt;7&lt;/b&gt;", "Lesson &lt;7&gt;", "a&amp;b", "There is &lt;no&gt; sound.", "storage_down",
                  "no answer 1", "gpu-1", "gpu-2", job.prompt, job.audio_source.removeprefix("upload:")):  # fmt: skip
        assert shown in page
    assert "<no>" not in page
    assert "<video" not in page
    assert f'href="/dashboard/jobs/{job.id}"' in browser.get("/").text


def test_a_finished_job_shows_its_video_and_where_its_webhooks_are(
    log_in: LogIn, api: RunningApi, database: Database, make_job: Callable[..., Job],
    make_endpoint: Callable[..., WebhookEndpoint],
) -> None:  # fmt: skip
    endpoint = make_endpoint(url="https://example.com/hook")
    job = make_job()
    finish(database, api, job)
    with database.transaction() as session:
        delivery = session.scalars(select(WebhookDelivery)).one()
        claimed = claim_delivery(session, delivery.id)
        assert claimed is not None
        record_try(session, claimed, TryResult(duration_ms=7, response_status=500, error="The receiver answered 500."))

    page = log_in().get(f"/dashboard/jobs/{job.id}").text
    assert f'src="/dashboard/jobs/{job.id}/content"' in page
    assert 'poster="' in page
    assert (f"?endpoint={endpoint.id}" in page, "The receiver answered 500." in page) == (True, True)

    reader = log_in(Scope.JOBS_READ).get(f"/dashboard/jobs/{job.id}").text
    assert "<video" in reader
    for kept_back in ("example.com/hook", "gpu-1", "/cancel", "/retry"):
        assert kept_back not in reader


def test_a_video_that_may_disappoint_says_so(
    log_in: LogIn, api: RunningApi, database: Database, make_job: Callable[..., Job]
) -> None:
    good, bad = make_job(), make_job()
    finish(database, api, good)
    finish(database, api, bad, warnings=(OutputWarning(code="picture_not_drawn", message="No <portrait>."),))
    browser = log_in()
    assert "picture_not_drawn" not in browser.get(f"/dashboard/jobs/{good.id}").text
    shown = browser.get(f"/dashboard/jobs/{bad.id}").text
    assert "No &lt;portrait&gt;. <code>picture_not_drawn</code>" in shown


def test_whoever_is_not_logged_in_comes_to_the_page_by_the_form(
    browser: httpx.Client, make_key: Callable[..., str], make_job: Callable[..., Job]
) -> None:
    job = make_job(custom_id="lesson-7")
    place = f"/dashboard/jobs/{job.id}"
    form = browser.get(place)
    assert "lesson-7" not in form.text
    data = {name: hidden(form, name) for name in ("nonce", "then")}

    wrong = browser.post("/login", data={**data, "key": "rv_x"})
    assert (wrong.status_code, hidden(wrong, "then")) == (401, place)
    for foreign in ("https://evil.example/", "//evil.example/", "/dashboard//../x:y", "/login"):
        data["nonce"] = hidden(browser.get(place), "nonce")
        assert browser.post("/login", data={**data, "then": foreign, "key": make_key()}).headers["location"] == "/"
        browser.cookies.clear()
    data["nonce"] = hidden(browser.get(place), "nonce")
    answer = browser.post("/login", data={**data, "key": make_key()})

    assert (answer.status_code, answer.headers["location"]) == (303, place)
    assert "lesson-7" in browser.get(place).text


def test_another_tenants_job_is_not_there(
    browser: httpx.Client, stranger: httpx.Client, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    key = stranger.headers["authorization"].removeprefix("Bearer ")
    browser.post("/login", data={"nonce": hidden(browser.get("/"), "nonce"), "key": key})

    assert problem(browser.get(f"/dashboard/jobs/{job.id}")) == (404, "not_found")
    assert problem(browser.get(f"/dashboard/jobs/{job.id}/events")) == (404, "not_found")


def test_its_buttons_come_back_to_it_and_a_retry_leads_to_the_new_job(
    log_in: LogIn, client: httpx.Client, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    browser = log_in()
    place = f"/dashboard/jobs/{job.id}"
    page = browser.get(place)
    data = {"csrf": hidden(page, "csrf"), "back": re.findall(r'name="back" value="([^"]+)"', page.text)[0]}

    canceled = browser.post(f"{place}/cancel", data=data)
    assert canceled.headers["location"] == place
    late = browser.post(f"{place}/cancel", data={**data, "csrf": "x"})
    assert "The form is not one of this session" in browser.get(late.headers["location"]).text
    retried = browser.post(f"{place}/retry", data=data)
    by_script = browser.post(f"{place}/retry", data=data, headers={"Accept": "application/json"})

    second, first = client.get("/v1/jobs", params={"status": "queued"}).json()["data"]
    assert (retried.status_code, retried.headers["location"]) == (303, f"/dashboard/jobs/{first['id']}")
    assert (by_script.status_code, by_script.headers["location"]) == (204, f"/dashboard/jobs/{second['id']}")


def test_a_stream_brings_the_sections_until_the_job_has_ended(
    log_in: LogIn, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    browser = log_in()
    place = f"/dashboard/jobs/{job.id}/events"
    with browser.stream("GET", place, timeout=5) as answer:
        lines = answer.iter_lines()
        first = _sections(lines)
        begin_again(database, job.id, times=0)
        running = _sections(lines)
        with database.transaction() as session:
            fail(session, job.id, attempt=1, code="bad_sound", message="no sound")
        rest = list(lines)

    assert "No worker has begun it yet" in first["attempts"]
    assert "under way" in running["attempts"]
    (last,) = [json.loads(line.removeprefix("data: "))["sections"] for line in rest if line.startswith("data: ")]
    assert ("bad_sound" in last["state"], "bad_sound" in last["attempts"]) == (True, True)
    moment = next(line for line in rest if line.startswith("id: ")).removeprefix("id: ")
    assert browser.get(place, headers={"Last-Event-ID": moment}).status_code == 204


def test_the_place_in_the_queue_is_kept_up(
    log_in: LogIn, client: httpx.Client, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.2)  # nothing wakes it for other jobs: it looks as often as that
    first, second = make_job(), make_job()
    with log_in().stream("GET", f"/dashboard/jobs/{second.id}/events", timeout=5) as answer:
        lines = answer.iter_lines()
        assert "Number 2 in the queue" in _sections(lines)["state"]
        client.post(f"/v1/jobs/{first.id}/cancel").raise_for_status()
        assert "Number 1 in the queue" in _sections(lines)["state"]


def test_the_stream_goes_on_until_the_webhooks_are_told(
    log_in: LogIn, api: RunningApi, database: Database, make_job: Callable[..., Job],
    make_endpoint: Callable[..., WebhookEndpoint], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.2)  # nothing wakes it for a delivery: it looks as often as that
    make_endpoint()
    job = make_job()
    finish(database, api, job)
    with log_in().stream("GET", f"/dashboard/jobs/{job.id}/events", timeout=5) as answer:
        lines = answer.iter_lines()
        first = _sections(lines)
        with database.transaction() as session:
            claimed = claim_delivery(session, session.scalars(select(WebhookDelivery.id)).one())
            assert claimed is not None
            record_try(session, claimed, TryResult(duration_ms=7, response_status=204, error=None))
        told = _sections(lines)
        rest = list(lines)

    assert (">pending<" in first["deliveries"], ">delivered<" in told["deliveries"]) == (True, True)
    assert not [line for line in rest if line.startswith("data: ")]


def _sections(lines: Iterator[str]) -> dict[str, str]:
    data = json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))["sections"]
    assert set(data) == {"state", "video", "attempts", "deliveries"}
    return dict(data)
