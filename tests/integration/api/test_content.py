"""Finished outputs: the redirect to them, and reading them from the local directory as players do."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from api.local_urls import SignedUrls
from models.database import Database
from models.job import Job
from models.transitions import request_cancel
from tests.integration.api.outputs import POSTER, VIDEO, finish
from tests.integration.api.running import RunningApi, api_settings, problem, running_api


@pytest.fixture
def url(api: RunningApi, client: httpx.Client, database: Database, make_job: Callable[..., Job]) -> str:
    """A link to a finished video."""
    job = make_job()
    finish(database, api, job)
    return str(client.get(f"/v1/jobs/{job.id}/content").headers["location"])


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}, trust_env=False)


def test_each_variant_is_a_redirect_to_a_fresh_link(
    api: RunningApi, client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job(custom_id="Lektion 7/ä\r\n..")
    finish(database, api, job)

    video = client.get(f"/v1/jobs/{job.id}/content")
    poster = client.get(f"/v1/jobs/{job.id}/content", params={"variant": "poster"})

    assert (video.status_code, poster.status_code) == (302, 302)
    assert video.headers["cache-control"] == "private, no-store"
    shown = get(video.headers["location"])
    assert (shown.content, shown.headers["content-type"]) == (VIDEO, "video/mp4")
    assert shown.headers["content-disposition"] == (
        f"inline; filename=\"Lektion_7____..-{job.id}.mp4\"; filename*=UTF-8''Lektion_7_%C3%A4__..-{job.id}.mp4"
    )
    shown = get(poster.headers["location"])
    assert (shown.content, shown.headers["content-type"]) == (POSTER, "image/jpeg")
    assert problem(client.get(f"/v1/jobs/{job.id}/content", params={"variant": "preview"})) == (404, "variant_missing")
    assert problem(client.get(f"/v1/jobs/{job.id}/content", params={"variant": "raw"})) == (422, "invalid_request")


def test_a_job_without_an_output_says_so(
    client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    early = client.get(f"/v1/jobs/{job.id}/content")
    with database.transaction() as session:
        request_cancel(session, job.id, tenant_id=job.tenant_id)

    assert problem(early) == (409, "job_not_finished")
    assert problem(client.get(f"/v1/jobs/{job.id}/content")) == (409, "job_without_output")


def test_after_the_retention_the_output_is_gone(
    database_url: str, broker_url: str, tmp_path: Path, database: Database, make_job: Callable[..., Job],
    make_key: Callable[..., str],
) -> None:  # fmt: skip
    settings = api_settings(database_url, broker_url, tmp_path / "objects", output_retention_days=2)
    job = make_job()
    with running_api(settings) as api, api.client(make_key()) as client:
        finish(database, api, job)
        seen = client.get(f"/v1/jobs/{job.id}").json()
        kept = dt.datetime.fromisoformat(seen["expires_at"]) - dt.datetime.fromisoformat(seen["completed_at"])
        assert kept == dt.timedelta(days=2)
        assert client.get(f"/v1/jobs/{job.id}/content").status_code == 302

        _end_days_ago(database, job, days=3)

        assert problem(client.get(f"/v1/jobs/{job.id}/content")) == (410, "output_expired")


RANGES = [
    ("bytes=0-0", VIDEO[:1], "0-0"),
    ("bytes=100-199", VIDEO[100:200], "100-199"),
    ("bytes=10000-", VIDEO[10000:], f"10000-{len(VIDEO) - 1}"),
    ("bytes=-5", VIDEO[-5:], f"{len(VIDEO) - 5}-{len(VIDEO) - 1}"),
    ("bytes=-99999999", VIDEO, f"0-{len(VIDEO) - 1}"),
    ("bytes=10200-99999999", VIDEO[10200:], f"10200-{len(VIDEO) - 1}"),
]


def test_a_range_is_answered_with_that_part(url: str, subtests: pytest.Subtests) -> None:
    for header, part, told in RANGES:
        with subtests.test(header):
            answer = get(url, Range=header)

            assert (answer.status_code, answer.content) == (206, part)
            assert answer.headers["content-range"] == f"bytes {told}/{len(VIDEO)}"
            assert answer.headers["content-length"] == str(len(part))


def test_a_range_beyond_the_end_is_not_satisfiable(url: str, subtests: pytest.Subtests) -> None:
    for header in (f"bytes={len(VIDEO)}-", "bytes=99999999-", "bytes=-0"):
        with subtests.test(header):
            answer = get(url, Range=header)

            assert problem(answer) == (416, "range_not_satisfiable")
            assert answer.headers["content-range"] == f"bytes */{len(VIDEO)}"


def test_other_range_headers_get_the_whole(url: str, subtests: pytest.Subtests) -> None:
    for header in ("bytes=5-2", "bytes=a-b", "bytes=-", "items=0-1", "bytes=0-1,5-6", "bytes=" + "9" * 50 + "-"):
        with subtests.test(header):
            answer = get(url, Range=header)

            assert (answer.status_code, answer.content) == (200, VIDEO)


def test_a_known_version_is_not_sent_again(url: str) -> None:
    first = get(url)
    etag = first.headers["etag"]

    assert first.headers["accept-ranges"] == "bytes"
    for known in (etag, f'"x", W/{etag}', "*"):
        answer = get(url, If_None_Match=known)
        assert (answer.status_code, answer.content) == (304, b"")
    assert get(url, If_None_Match='"x"').status_code == 200
    assert get(url, Range="bytes=0-4", If_Range=etag).status_code == 206
    assert get(url, Range="bytes=0-4", If_Range='"x"').status_code == 200


def test_head_tells_the_size_without_the_body(url: str) -> None:
    answer = httpx.head(url, trust_env=False)

    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", str(len(VIDEO)))


def test_a_link_to_an_object_that_is_gone_is_not_found(api: RunningApi, url: str) -> None:
    assert api.settings.storage_directory is not None
    for video in api.settings.storage_directory.rglob("video.mp4"):
        video.unlink()

    assert problem(get(url)) == (404, "not_found")


def test_even_a_signed_key_does_not_lead_out_of_the_directory(
    api: RunningApi, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    directory = api.settings.storage_directory
    assert directory is not None
    assert api.settings.storage_secret is not None
    directory.mkdir(exist_ok=True)
    (tmp_path / "secret").write_text("outside")
    (directory / "link").symlink_to(tmp_path / "secret")
    (directory / ".incoming").mkdir()
    (directory / ".incoming" / "half").write_text("half")
    urls = SignedUrls(api.settings.storage_secret.get_secret_value().encode(), base_url=api.url)
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
    for key in ("../secret", "a/../../secret", "link", ".incoming/half", "/etc/passwd", "a//b", ".", "a\\b", "tenants"):
        with subtests.test(key):
            url = urls.get_url(key, disposition="inline", content_type="text/plain", expires_at=soon)

            assert get(url).status_code in (403, 404)
            assert "outside" not in get(url).text


def _end_days_ago(database: Database, job: Job, *, days: int) -> None:
    """By a clock that is set back: the row itself is guarded against changes after its end."""
    with database.transaction() as session:
        session.execute(text("ALTER TABLE jobs DISABLE TRIGGER jobs_guard"))
        session.execute(
            text("UPDATE jobs SET finished_at = finished_at - make_interval(days => :days) WHERE id = :id"),
            {"days": days, "id": job.id},
        )
        session.execute(text("ALTER TABLE jobs ENABLE TRIGGER jobs_guard"))
