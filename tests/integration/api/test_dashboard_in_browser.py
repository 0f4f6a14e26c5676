"""The page for people in a real browser: it logs in, follows a job live, plays a video, cancels by keyboard."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect, sync_playwright
from sqlalchemy import func, update

from api import events
from api.keys import Scope
from api.settings import ApiSettings
from models.database import Database
from models.job import Job, Phase
from models.tenant import ApiKey
from models.transitions import claim, hand_back, heartbeat
from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEndpoint
from models.worker_node import NodeState, WorkerNode
from tests.integration.api.outputs import VIDEO, finish
from tests.integration.api.running import RunningApi, running_api

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, api: RunningApi, make_key: Callable[..., str]) -> Iterator[Page]:
    """Logged in, on a phone in the dark. Anything that the page reports as wrong fails the test."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    _log_in(page, api, make_key())
    yield page
    context.close()
    assert complaints == []


def test_a_job_is_followed_from_its_creation_to_its_video(
    page: Page, api: RunningApi, database: Database, make_job: Callable[..., Job]
) -> None:
    expect(page.locator("#empty")).to_be_visible()
    job = make_job(custom_id="lesson-7")
    row = page.locator(f"#{job.id}")
    expect(row.locator(".badge")).to_have_text("queued")
    expect(page.locator("#empty")).to_be_hidden()
    with database.transaction() as session:
        claim(session, job.id, worker="w", preset="tiny")
        heartbeat(session, job.id, attempt=1, phase=Phase.RENDERING, blocks_done=4, blocks_total=8)
    expect(row.get_by_role("progressbar")).to_have_js_property("position", 0.5)
    with database.transaction() as session:
        heartbeat(session, job.id, attempt=1, phase=Phase.RENDERING, blocks_done=6, blocks_total=8)
    expect(row.get_by_role("progressbar")).to_have_js_property("position", 0.75)
    with database.transaction() as session:
        hand_back(session, job.id, attempt=1)
    expect(row.locator(".badge")).to_have_text("queued")

    finish(database, api, job)
    _put_a_real_video_there(api)
    expect(row.locator(".badge")).to_have_text("succeeded")
    expect(page.locator("[data-count=succeeded]")).to_have_text("1")
    row.get_by_role("link", name="Play the video of lesson-7").focus()
    page.keyboard.press("Enter")
    video = page.locator("video")
    expect(video).to_be_focused()
    expect(video).to_have_js_property("videoWidth", 96)
    page.wait_for_function("document.querySelector('video').currentTime > 0")
    page.keyboard.press("Escape")
    expect(video).to_have_count(0)
    expect(row.get_by_role("link", name="Play")).to_be_focused()


def test_a_job_is_canceled_and_retried_by_keyboard(page: Page, make_job: Callable[..., Job]) -> None:
    job = make_job(custom_id="lesson-8")
    row = page.locator(f"#{job.id}")

    row.get_by_role("button", name="Cancel lesson-8").focus()
    page.keyboard.press("Enter")
    expect(row.locator(".badge")).to_have_text("canceled")
    expect(row.get_by_role("button", name="Retry lesson-8")).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.locator("#rows tr")).to_have_count(2)
    expect(page.locator("#rows tr").first).to_contain_text(f"retry of {job.id}")


def test_a_jobs_own_page_is_live_and_its_video_plays_on(
    page: Page, api: RunningApi, database: Database, make_job: Callable[..., Job],
    make_endpoint: Callable[..., WebhookEndpoint], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.5)  # so often it looks for deliveries
    endpoint = make_endpoint(url="https://example.com/" + "x" * 200)
    job = make_job(custom_id="lesson-7", prompt="word " * 300, labels={"long": "y" * 300})
    page.locator(f"#{job.id}").get_by_role("link", name="lesson-7").click()
    expect(page.get_by_role("heading", name="lesson-7")).to_be_visible()
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#attempts")).to_contain_text("No worker has begun it yet")
    with database.transaction() as session:
        claim(session, job.id, worker="gpu-1", preset="tiny")
    expect(page.locator("#attempts")).to_contain_text("under way")
    with database.transaction() as session:
        hand_back(session, job.id, attempt=1)
    expect(page.locator("#attempts")).to_contain_text("drained")
    finish(database, api, job)
    _put_a_real_video_there(api)
    video = page.locator("video")
    expect(video).to_be_visible()
    expect(page.locator("#deliveries")).to_contain_text("job.succeeded")
    video.evaluate("video => { video.loop = true; return video.play() }")
    with database.transaction() as session:
        session.execute(update(WebhookDelivery).values(status=DeliveryStatus.DELIVERED, ended_at=func.now()))
    expect(page.locator("#deliveries")).to_contain_text("delivered")
    assert endpoint.id in (page.locator("#deliveries a").get_attribute("href") or "")
    assert video.evaluate("video => !video.paused && video.currentTime > 0")
    expect(page.locator("#live")).to_have_text("ended")
    expect(page.locator("#live")).to_have_text("ended")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_retry_leads_to_the_new_jobs_page(page: Page, make_job: Callable[..., Job]) -> None:
    job = make_job(custom_id="lesson-8")
    page.locator(f"#{job.id}").get_by_role("link", name="lesson-8").click()
    page.get_by_role("button", name="Cancel lesson-8").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Retry lesson-8")).to_be_focused()
    page.keyboard.press("Enter")
    old = page.get_by_role("link", name=job.id)
    expect(old).to_have_attribute("href", f"/dashboard/jobs/{job.id}")
    expect(page.locator("#state .badge")).to_have_text("queued")


def test_workers_come_and_are_drained_while_one_looks(
    browser: Browser, api: RunningApi, database: Database, make_key: Callable[..., str]
) -> None:
    now = func.now()
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        _log_in(page, api, make_key(Scope.JOBS_READ, Scope.WORKERS, Scope.DRAIN))
        page.get_by_role("link", name="Workers").click()
        expect(page.get_by_text("No worker has reported yet")).to_be_visible()
        devices = [{"name": "x" * 200, "memory_total_bytes": 9, "memory_used_bytes": 3}]
        with database.transaction() as session:
            node = WorkerNode(name="gpu-1", state=NodeState.READY, preset="14b", ranks=1, devices=devices, version="1")
            node.last_seen_at = now
            session.add(node)
        expect(page.get_by_text("gpu-1", exact=True)).to_be_visible(timeout=15_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name="Drain gpu-1").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text("asked to end")).to_be_visible()
        expect(page.get_by_role("button", name="Drain gpu-1")).to_have_count(0)
        expect(page.locator("#main")).to_be_focused()


def test_a_video_is_downloaded_from_a_storage_of_another_origin(
    browser: Browser, settings: ApiSettings, database: Database, make_key: Callable[..., str],
    make_job: Callable[..., Job],
) -> None:  # fmt: skip
    elsewhere = settings.model_copy(update={"public_url": f"http://localhost:{settings.api_port}"})
    with running_api(elsewhere) as api, browser.new_context() as context:
        job = make_job(custom_id="lesson-9")
        finish(database, api, job)
        page = context.new_page()
        _log_in(page, api, make_key())
        with page.expect_download() as begun:
            page.locator(f"#{job.id}").get_by_role("link", name="Download").click()
        assert begun.value.suggested_filename == f"lesson-9-{job.id}.mp4"
        assert Path(begun.value.path()).read_bytes() == VIDEO
        assert page.url == f"{api.url}/"
        context.close()  # before the server, which would wait for its connections


def test_filters_work_and_nothing_is_wider_than_the_phone(
    page: Page, make_job: Callable[..., Job], make_key: Callable[..., str]
) -> None:
    make_job(prompt="x" * 300, custom_id="y" * 120)
    expect(page.locator("#rows tr")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 19, 24)"

    page.get_by_role("checkbox", name="failed").check()

    expect(page).to_have_url(f"{page.url.partition('?')[0]}?status=failed&q=")
    expect(page.locator("#empty")).to_contain_text("No job passes this filter")
    page.get_by_role("link", name="Clear").click()
    expect(page.locator("#rows tr")).to_have_count(1)


def test_a_row_leaves_the_list_when_it_passes_the_filter_no_more(
    page: Page, database: Database, make_job: Callable[..., Job]
) -> None:
    first, second = make_job(custom_id="lesson-1"), make_job(custom_id="lesson-2")
    page.get_by_role("checkbox", name="queued").check()
    expect(page.locator("#rows tr")).to_have_count(2)
    expect(page.get_by_role("status")).to_have_text("live")

    with database.transaction() as session:
        claim(session, first.id, worker="w", preset="tiny")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.get_by_role("button", name="Cancel lesson-2").focus()
    page.keyboard.press("Enter")

    expect(page.locator(f"#{second.id}")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#main")).to_be_focused()
    with database.transaction() as session:
        hand_back(session, first.id, attempt=1)
    expect(page.locator(f"#{first.id} .badge")).to_have_text("queued")


def test_deliveries_use_the_whole_width_of_the_phone(
    page: Page, make_endpoint: Callable[..., WebhookEndpoint], make_job: Callable[..., Job]
) -> None:
    make_endpoint(url="https://example.com/" + "x" * 200)
    job = make_job()
    expect(page.locator(f"#{job.id}")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(f"#{job.id} .badge")).to_have_text("canceled")
    assert _box(page.get_by_role("button", name="Log out"))["height"] < 30

    page.get_by_role("link", name="Webhooks").click()

    row = page.locator("tbody tr")
    expect(row).to_contain_text("job.canceled")
    assert _box(row.locator(".name"))["x"] - _box(row)["x"] < 20
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_is_live_again_after_the_server_was_away(
    browser: Browser, settings: ApiSettings, make_key: Callable[..., str], make_job: Callable[..., Job]
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        with running_api(settings) as api:
            _log_in(page, api, make_key())
        expect(page.get_by_role("status")).to_have_text("connecting…")
        job = make_job()
        with running_api(settings):
            expect(page.locator(f"#{job.id}")).to_be_visible(timeout=15_000)
            expect(page.get_by_role("status")).to_have_text("live")
            context.close()  # before the server, which would wait for its connections


def test_whose_key_is_revoked_sees_the_form_to_log_in_again(
    browser: Browser, api: RunningApi, database: Database, make_key: Callable[..., str], make_job: Callable[..., Job]
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        _log_in(page, api, make_key())
        with database.transaction() as session:
            session.execute(update(ApiKey).values(revoked_at=func.now()))
        make_job()  # the page hears of it, and of the key
        expect(page.get_by_label("API key")).to_be_visible(timeout=15_000)


def _box(element: Locator) -> FloatRect:
    """Where it is on the page, in pixels."""
    box = element.bounding_box()
    assert box is not None
    return box


def _log_in(page: Page, api: RunningApi, key: str) -> None:
    page.set_default_timeout(10_000)
    page.goto(api.url)
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("live", timeout=10_000)


def _put_a_real_video_there(api: RunningApi) -> None:
    directory = api.settings.storage_directory
    assert directory is not None
    (video,) = directory.rglob("video.mp4")
    _ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x128:rate=16:duration=2", "-pix_fmt", "yuv420p", to=video)
    _ffmpeg("-i", str(video), "-frames:v", "1", to=video.with_name("poster.jpg"))


def _ffmpeg(*arguments: str, to: Path) -> None:
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, "-y", "-loglevel", "error", *arguments, str(to)], check=True, timeout=60)
