"""What operators need: health, metrics, the queue's absence, stopping in good order, the reference page."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

from infra.local.valkey import EmbeddedValkey
from models.database import Database
from models.job import Job
from models.transitions import claim
from tests.integration.api.outputs import finish
from tests.integration.api.running import BODY, RunningApi, api_settings, problem, running_api
from tests.waiting import wait_for


def test_health_and_readiness_need_no_key(api: RunningApi) -> None:
    with api.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ok"}


def test_monitors_may_ask_for_the_head_of_health_and_readiness_only(api: RunningApi) -> None:
    with api.client() as client:
        for path in ("/healthz", "/readyz"):
            answer = client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("state", ["down", "half open"])
def test_jobs_are_accepted_at_once_without_a_broker(
    own_valkey: EmbeddedValkey, database_url: str, tmp_path: Path, make_key: Callable[..., str], state: str
) -> None:
    """And their messages follow when it is back: by the next accepted job here, by the scheduler otherwise."""
    with running_api(api_settings(database_url, own_valkey.url, tmp_path)) as api, api.client(make_key()) as client:
        client.post("/v1/jobs", json=BODY)
        with redis.Redis.from_url(own_valkey.url, socket_timeout=5) as broker:
            wait_for(lambda: broker.llen("render:render.tiny.normal") == 1)
        if state == "down":
            own_valkey.kill()
        else:
            os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            for _ in range(5):
                started = time.monotonic()
                answer = client.post("/v1/jobs", json=BODY)
                assert answer.status_code == 201
                assert time.monotonic() - started < 2
            ready = client.get("/readyz")
            assert problem(ready) == (503, "not_ready")
            assert [error["field"] for error in ready.json()["errors"]] == ["broker"]
        finally:
            if state == "down":
                own_valkey.start()
            else:
                os.kill(own_valkey.pid, signal.SIGCONT)
        lost = 1 if state == "down" else 0  # it keeps nothing over a restart

        def published() -> bool:
            client.post("/v1/jobs", json=BODY)
            with redis.Redis.from_url(own_valkey.url, socket_timeout=5) as broker:
                return int(broker.llen("render:render.tiny.normal")) >= 7 - lost

        wait_for(published, timeout_s=30)


def test_metrics_count_jobs_workers_and_requests(
    api: RunningApi, client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    finish(database, api, make_job())
    make_job(priority="high")
    running = make_job()
    with database.transaction() as session:
        claim(session, running.id, worker="gpu-1", preset="tiny")
    client.get("/v1/jobs/job_01ARZ3NDEKTSV4RRFFQ69G5FAV")

    lines = client.get("/metrics").text.splitlines()

    for line in (
        'realvideo_jobs{status="queued"} 1.0',
        'realvideo_jobs{status="running"} 1.0',
        'realvideo_jobs{status="succeeded"} 1.0',
        'realvideo_jobs{status="failed"} 0.0',
        'realvideo_queue_depth{priority="high"} 1.0',
        'realvideo_queue_depth{priority="low"} 0.0',
        "realvideo_recent_succeeded_jobs 1.0",
        "realvideo_recent_block_milliseconds 310.0",
        'realvideo_workers{state="ready"} 0.0',
        'realvideo_http_request_seconds_count{method="GET",route="/v1/jobs/{job_id}",status="404"} 1.0',
    ):
        assert line in lines, line
    age = next(line for line in lines if line.startswith('realvideo_queue_oldest_age_seconds{priority="high"}'))
    assert 0 < float(age.split()[1]) < 60
    assert any(line.startswith('realvideo_recent_run_seconds{quantile="0.95"}') for line in lines)


def test_unknown_paths_do_not_grow_the_metrics(client: httpx.Client) -> None:
    for number in range(3):
        client.get(f"/scan/{number}")

    lines = client.get("/metrics").text.splitlines()

    assert not any("/scan/" in line for line in lines)
    assert 'realvideo_http_request_seconds_count{method="GET",route="(none)",status="404"} 3.0' in lines


def test_the_reference_page_shows_every_operation_and_loads_nothing_from_elsewhere(api: RunningApi) -> None:
    with api.client() as client:
        page = client.get("/docs")
        operations = [
            (method.upper(), path)
            for path, item in client.get("/openapi.json").json()["paths"].items()
            for method in item
        ]

    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "https://" not in page.text.replace("https://example.com", "")
    for method, path in operations:
        assert f"<b>{method}</b> <code>{path}</code>" in page.text


def test_the_process_stops_promptly_with_open_streams(
    database_url: str, broker_url: str, tmp_path: Path, make_key: Callable[..., str], make_job: Callable[..., Job]
) -> None:
    settings = api_settings(database_url, broker_url, tmp_path)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "BROKER_URL": broker_url,
        "REALVIDEO_STORAGE_DIRECTORY": str(tmp_path),
        "REALVIDEO_STORAGE_SECRET": "0123456789abcdef",
        "REALVIDEO_API_PORT": str(settings.api_port),
        "REALVIDEO_PUBLIC_URL": settings.public_url,
    }
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "api.server"], env=environment, stderr=file)
    try:
        with RunningApi(url=settings.public_url, settings=settings).client(make_key()) as client:
            wait_for(lambda: _answers(client), timeout_s=30)
            with client.stream("GET", f"/v1/jobs/{make_job().id}/events") as stream:
                lines = stream.iter_lines()
                next(lines)
                started = time.monotonic()
                process.send_signal(signal.SIGTERM)
                list(lines)
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - started < 4
    finally:
        process.kill()
        process.wait()
    logged = log.read_text().splitlines()
    assert any('"path": "/healthz"' in line and '"status": 200' in line for line in logged)
    assert not any("Traceback" in line or '"level": "error"' in line for line in logged), log.read_text()
    with psycopg.connect(database_url) as connection:
        left = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE 'realvideo-api%' AND datname = current_database()"
        )
        wait_for(lambda: connection.execute(left).fetchone() == (0,))


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
