"""`realvideo jobs`, `show`, `watch` and `retry` against a real API."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.keys import Scope, create_key
from cli.errors import ExitCode
from cli.main import main
from models.database import Database
from models.job import Job, JobStatus
from models.output import OutputWarning
from models.tenant import Tenant
from tests.factories import OUTPUT
from tests.integration.api.outputs import VIDEO, finish
from tests.integration.api.running import RunningApi, api_settings, running_api
from tests.integration.api.tries import begin_again


@pytest.fixture
def service(
    database: Database, database_url: str, broker_url: str, tenant: Tenant, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RunningApi]:  # fmt: skip
    """Which the commands find, with a key that may read jobs."""
    with database.transaction() as session:
        key = create_key(session, tenant_id=tenant.id, name="test", scopes=[Scope.JOBS_READ]).token
    with running_api(api_settings(database_url, broker_url, tmp_path / "storage")) as api:
        monkeypatch.setenv("REALVIDEO_URL", api.url)
        monkeypatch.setenv("REALVIDEO_API_KEY", f"{key}\n")  # as a mounted secret ends
        yield api


def test_a_video_that_cannot_be_written_is_a_sentence_with_the_way_to_it(
    service: RunningApi, database: Database, make_job: Callable[..., Job],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    job = make_job()
    finish(database, service, job)

    assert _run(monkeypatch, "watch", job.id, "-o", str(tmp_path / f"{'x' * 300}.mp4")) == ExitCode.FAILED
    said = capsys.readouterr().err.replace("\n", " ")
    assert "cannot be written: File name too long." in said
    assert f"`realvideo watch {job.id} -o …` saves it" in said

    assert _run(monkeypatch, "watch", job.id, "-o", str(tmp_path / "out.mp4")) == ExitCode.OK
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO


@pytest.mark.usefixtures("service")
def test_what_may_not_be_expected_of_a_video_is_told_by_watch_and_show(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warned = OUTPUT.model_copy(update={"warnings": (OutputWarning(code="picture_not_drawn", message="No likeness."),)})
    job = make_job(status=JobStatus.SUCCEEDED, output=warned.model_dump(mode="json"))

    assert _run(monkeypatch, "watch", job.id) == ExitCode.OK
    assert "No likeness. [picture_not_drawn]" in capsys.readouterr().err
    assert _run(monkeypatch, "show", job.id) == ExitCode.OK
    assert "No likeness. [picture_not_drawn]" in capsys.readouterr().out

    silent = make_job(status=JobStatus.SUCCEEDED)
    assert _run(monkeypatch, "watch", silent.id) == ExitCode.OK
    assert "[" not in capsys.readouterr().err


@pytest.mark.usefixtures("service")
def test_the_next_page_is_asked_for_with_the_same_filters(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other, second = make_job(custom_id="a"), make_job(custom_id="b"), make_job(custom_id="a")
    command = ["jobs", "--custom-id", "a", "--limit", "1"]

    assert _run(monkeypatch, *command) == ExitCode.OK
    said = capsys.readouterr().out.splitlines()
    assert second.id in said[-2]
    assert said[-1] == f"more: the same command with --after {second.id}"

    assert _run(monkeypatch, *command, *said[-1].split()[-2:]) == ExitCode.OK
    said = capsys.readouterr().out.splitlines()
    assert first.id in said[-1]
    assert other.id not in said[-1]


@pytest.mark.usefixtures("service")
def test_show_tells_of_every_try(
    database: Database, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    job = make_job(custom_id="[red]7:smile:", labels={"show": "7"})
    begin_again(database, job.id, times=2)

    assert _run(monkeypatch, "show", job.id) == ExitCode.OK
    said = capsys.readouterr().out
    for told in ("running, preparing", "[red]7:smile:", job.prompt, "no answer 1 [storage_down]", "under way"):
        assert told in said

    assert _run(monkeypatch, "show", job.id, "--json") == ExitCode.OK
    whole = json.loads(capsys.readouterr().out)
    assert (whole["id"], [one["attempt"] for one in whole["attempts"]]) == (job.id, [3, 2, 1])
    assert _run(monkeypatch, "show", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV") == ExitCode.REFUSED


def test_retry_prints_the_new_job(
    service: RunningApi, database: Database, tenant: Tenant, make_job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    job = make_job()
    assert _run(monkeypatch, "retry", job.id) == ExitCode.REFUSED
    assert "no scope jobs:write" in capsys.readouterr().err
    with database.transaction() as session:
        key = create_key(session, tenant_id=tenant.id, name="test", scopes=[Scope.JOBS_READ, Scope.JOBS_WRITE]).token
    monkeypatch.setenv("REALVIDEO_API_KEY", key)
    assert _run(monkeypatch, "retry", job.id) == ExitCode.REFUSED
    assert "[job_not_retryable]" in capsys.readouterr().err

    assert _run(monkeypatch, "cancel", job.id) == ExitCode.OK
    capsys.readouterr()
    assert _run(monkeypatch, "retry", job.id) == ExitCode.OK
    new_id = capsys.readouterr().out.strip()
    with database.transaction() as session:
        assert session.get_one(Job, new_id).retry_of == job.id


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["realvideo", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
