"""The page for people, by plain requests: login, forms, what it shows and to whom."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx

from api.keys import Scope, revoke_key
from models.database import Database
from models.job import Job, JobStatus, Phase
from models.tenant import Tenant
from models.transitions import claim, fail, heartbeat
from tests.integration.api.outputs import POSTER, VIDEO, finish
from tests.integration.api.pages import hidden
from tests.integration.api.running import RunningApi, api_settings, problem, running_api


def log_in(browser: httpx.Client, key: str) -> httpx.Response:
    nonce = hidden(browser.get("/"), "nonce")
    return browser.post("/login", data={"nonce": nonce, "key": key})


def test_a_valid_key_logs_in_and_the_cookie_holds_no_secret(
    browser: httpx.Client, make_key: Callable[..., str], make_job: Callable[..., Job]
) -> None:
    job, key = make_job(custom_id="lesson-1"), make_key(Scope.JOBS_READ)
    assert job.id not in browser.get("/").text

    answer = log_in(browser, f" {key} ")

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = next(line for line in answer.headers.get_list("set-cookie") if line.startswith("realvideo_session="))
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    assert key.rpartition("_")[2] not in cookie
    page = browser.get("/")
    assert (job.id in page.text, "lesson-1" in page.text) == (True, True)


def test_the_cookie_is_for_https_only_where_the_service_is(database_url: str, broker_url: str, tmp_path: Path) -> None:
    settings = api_settings(database_url, broker_url, tmp_path, public_url="https://videos.example.com")
    with running_api(settings) as api, api.client() as browser:
        form = browser.get("/")
        assert "; Secure" in form.headers["set-cookie"]
        assert "https://videos.example.com" in form.headers["content-security-policy"]


def test_a_wrong_key_a_foreign_form_or_a_key_that_may_not_read_does_not_log_in(
    browser: httpx.Client, make_key: Callable[..., str]
) -> None:
    wrong = log_in(browser, "rv_01ARZ3NDEKTSV4RRFFQ69G5FAV_" + "0" * 64)
    scope = log_in(browser, make_key(Scope.WEBHOOKS))
    browser.get("/")
    foreign = browser.post("/login", data={"nonce": "0" * 32, "key": make_key()})
    browser.cookies.clear()
    without_cookie = browser.post("/login", data={"nonce": "0" * 32, "key": make_key()})

    assert [answer.status_code for answer in (wrong, scope, foreign, without_cookie)] == [401, 403, 403, 403]
    assert 'role="alert">This key is unknown' in wrong.text
    assert "realvideo_session" not in browser.cookies


def test_a_changed_cookie_or_a_revoked_key_ends_the_session(
    browser: httpx.Client, make_key: Callable[..., str], database: Database, tenant: Tenant
) -> None:
    key = make_key()
    log_in(browser, key)
    cookie = browser.cookies["realvideo_session"]
    assert 'id="rows"' in browser.get("/").text

    other_id = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    for changed in (cookie[:-1], cookie.replace(cookie.split(".")[0], other_id), "x", "", f"{cookie}.x"):
        answer = httpx.get(f"{browser.base_url}/", headers={"Cookie": f"realvideo_session={changed}"}, trust_env=False)
        assert 'id="rows"' not in answer.text
    with database.transaction() as session:
        revoke_key(session, f"key_{key.split('_')[1]}", tenant_id=tenant.id)
    assert 'id="rows"' not in browser.get("/").text
    assert problem(browser.get("/dashboard/events")) == (401, "missing_api_key")


def test_logging_out_ends_the_session_and_needs_the_token(browser: httpx.Client, make_key: Callable[..., str]) -> None:
    log_in(browser, make_key())
    token = hidden(browser.get("/"), "csrf")

    assert problem(browser.post("/logout", data={"csrf": "x"})) == (403, "invalid_csrf_token")
    assert browser.post("/logout", data={"csrf": token}).status_code == 303
    assert 'id="rows"' not in browser.get("/").text


def test_buttons_cancel_and_retry_and_only_with_the_token(
    browser: httpx.Client, client: httpx.Client, make_key: Callable[..., str], make_job: Callable[..., Job]
) -> None:
    job = make_job()
    log_in(browser, make_key())
    token = hidden(browser.get("/"), "csrf")
    as_script = {"Accept": "application/json"}

    foreign = browser.post(f"/dashboard/jobs/{job.id}/cancel", data={"csrf": "x"}, headers=as_script)
    assert problem(foreign) == (403, "invalid_csrf_token")
    assert client.get(f"/v1/jobs/{job.id}").json()["status"] == "queued"

    form = browser.post(f"/dashboard/jobs/{job.id}/cancel", data={"csrf": token, "back": "/?status=canceled"})
    assert (form.status_code, form.headers["location"]) == (303, "/?status=canceled")
    assert client.get(f"/v1/jobs/{job.id}").json()["status"] == "canceled"

    script = browser.post(f"/dashboard/jobs/{job.id}/retry", data={"csrf": token}, headers=as_script)
    assert script.status_code == 204
    assert [one["retry_of"] for one in client.get("/v1/jobs").json()["data"]] == [job.id, None]


def test_a_button_that_comes_too_late_says_so(
    api: RunningApi, browser: httpx.Client, make_key: Callable[..., str], make_job: Callable[..., Job],
    database: Database,
) -> None:  # fmt: skip
    job = make_job()
    log_in(browser, make_key())
    token = hidden(browser.get("/"), "csrf")
    finish(database, api, job)

    script = browser.post(
        f"/dashboard/jobs/{job.id}/cancel", data={"csrf": token}, headers={"Accept": "application/json"}
    )
    form = browser.post(f"/dashboard/jobs/{job.id}/cancel", data={"csrf": token, "back": "https://evil.example/"})

    assert problem(script) == (409, "job_ended")
    assert form.headers["location"] == "/?notice=job_ended"
    assert "The job has ended already" in browser.get(form.headers["location"]).text


def test_a_reader_sees_no_buttons_and_cannot_press_them(
    browser: httpx.Client, client: httpx.Client, make_key: Callable[..., str], make_job: Callable[..., Job]
) -> None:
    job = make_job()
    log_in(browser, make_key(Scope.JOBS_READ))
    page = browser.get("/")

    answer = browser.post(
        f"/dashboard/jobs/{job.id}/cancel", data={"csrf": hidden(page, "csrf")}, headers={"Accept": "application/json"}
    )

    assert "/cancel" not in page.text
    assert problem(answer) == (403, "scope_missing")
    assert client.get(f"/v1/jobs/{job.id}").json()["status"] == "queued"


def test_another_tenants_jobs_are_neither_shown_nor_touched(
    api: RunningApi, browser: httpx.Client, stranger: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    finish(database, api, job)
    log_in(browser, stranger.headers["authorization"].removeprefix("Bearer "))
    page = browser.get("/")
    data, headers = {"csrf": hidden(page, "csrf")}, {"Accept": "application/json"}

    assert job.id not in page.text
    assert problem(browser.get(f"/dashboard/jobs/{job.id}/content")) == (404, "not_found")
    for action in ("cancel", "retry"):
        answer = browser.post(f"/dashboard/jobs/{job.id}/{action}", data=data, headers=headers)
        assert problem(answer) == (404, "not_found")


def test_the_list_is_filtered_and_comes_in_pages(
    browser: httpx.Client, make_key: Callable[..., str], make_job: Callable[..., Job], database: Database
) -> None:
    jobs = sorted((make_job().id for _ in range(25)), reverse=True)
    failed = make_job(custom_id="<b>7</b>")
    with database.transaction() as session:
        claim(session, failed.id, worker="w", preset="tiny")
        fail(session, failed.id, attempt=1, code="audio_silent", message="There is <no> speech.")
    log_in(browser, make_key())

    def shown(page: httpx.Response) -> list[str]:
        return re.findall(r'<tr id="(job_\w+)"', page.text)

    first = browser.get("/?status=queued")
    older = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert older
    second = browser.get(older[1].replace("&amp;", "&"))
    only_failed = browser.get("/?status=failed")

    assert (shown(first) + shown(second), len(shown(first))) == (jobs, 20)
    assert 'rel="next"' not in second.text
    assert shown(only_failed) == [failed.id]
    assert "&lt;b&gt;7&lt;/b&gt;" in only_failed.text
    assert "There is &lt;no&gt; speech." in only_failed.text
    assert shown(browser.get(f"/?q={failed.id}")) == [failed.id]
    assert "No job passes this filter" in browser.get("/?q=nothing").text


def test_posters_and_videos_are_behind_the_session(
    api: RunningApi, browser: httpx.Client, database: Database, make_key: Callable[..., str],
    make_job: Callable[..., Job],
) -> None:  # fmt: skip
    job = make_job()
    finish(database, api, job)
    path = f"/dashboard/jobs/{job.id}/content"
    assert problem(browser.get(path)) == (401, "missing_api_key")
    log_in(browser, make_key())

    assert f'src="{path}?variant=poster"' in browser.get("/").text
    assert browser.get(f"{path}?variant=poster", follow_redirects=True).content == POSTER
    assert browser.get(path, follow_redirects=True).content == VIDEO


def test_one_stream_brings_changed_and_new_rows_of_this_tenant(
    browser: httpx.Client, stranger: httpx.Client, make_key: Callable[..., str], make_job: Callable[..., Job],
    database: Database,
) -> None:  # fmt: skip
    job = make_job()
    log_in(browser, make_key())
    with browser.stream("GET", "/dashboard/events", timeout=5) as answer:
        lines = answer.iter_lines()

        def event() -> dict[str, object]:
            data = next(line for line in lines if line.startswith("data: "))
            found = json.loads(data.removeprefix("data: "))
            assert isinstance(found, dict)
            return found

        first = event()
        stranger.post("/v1/jobs", json={"audio": "https://a.example/a", "image": "https://a.example/b"})
        with database.transaction() as session:
            claim(session, job.id, worker="w", preset="tiny")
            heartbeat(session, job.id, attempt=1, phase=Phase.RENDERING, blocks_done=3, blocks_total=9)
        running = event()
        new = make_job()
        created = event()

    assert [row["id"] for row in first["rows"]] == [job.id]  # type: ignore[attr-defined]
    assert [row["id"] for row in running["rows"]] == [job.id]  # type: ignore[attr-defined]
    assert 'max="9" value="3"' in running["rows"][0]["html"]  # type: ignore[index]
    assert running["counts"][JobStatus.RUNNING] == 1  # type: ignore[index]
    assert running["counts"][JobStatus.QUEUED] == 0  # type: ignore[index]
    assert [row["id"] for row in created["rows"]] == [new.id]  # type: ignore[attr-defined]


def test_pages_run_no_inline_script_and_are_framed_by_nobody(
    browser: httpx.Client, make_key: Callable[..., str], make_job: Callable[..., Job]
) -> None:
    log_in(browser, make_key())
    for path in ("/", "/docs", f"/dashboard/jobs/{make_job().id}"):
        page = browser.get(path)
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe-inline" not in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|javascript:", page.text)
        assert page.headers["x-content-type-options"] == "nosniff"
    assert browser.get("/static/live.js").headers["content-type"].startswith("text/javascript")
