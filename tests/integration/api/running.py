"""Runs the API's own server in a thread of the test process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from api.server import make_server
from api.settings import ApiSettings
from infra.local.process import free_port

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 10
BODY = {"audio": "https://example.com/voice.wav", "image": "https://example.com/portrait.png"}
"""The least that a job needs."""


@dataclass(frozen=True)
class RunningApi:
    url: str
    settings: ApiSettings

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # plain HTTP: loading the certificates would take longer than most requests
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, verify=False)


def api_settings(database_url: str, broker_url: str, storage: Path, **more: object) -> ApiSettings:
    port = free_port()
    return ApiSettings.model_validate(
        {
            "database_url": database_url,
            "broker_url": broker_url,
            "storage_directory": storage,
            "storage_secret": "only for the tests, 0123456789",
            "session_secret": "only for the tests, 9876543210",
            "public_url": f"http://127.0.0.1:{port}",
            "api_port": port,
            "s3_allowed_input_buckets": ["inputs"],
            "presets": ["tiny", "14b", "avatar"],
            **more,
        }
    )


@contextmanager
def running_api(settings: ApiSettings) -> Iterator[RunningApi]:
    server = make_server(settings)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server takes too long to start"
            time.sleep(0.01)
        yield RunningApi(url=f"http://127.0.0.1:{settings.api_port}", settings=settings)
    finally:
        server.should_exit = True
        thread.join(STOP_TIMEOUT_S)
        assert not thread.is_alive(), "the server takes too long to stop"


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and code of an error answer, after a look at its form."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["type"] == f"urn:realvideo:problem:{body['code']}"
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, body["code"]


def wrong_fields(answer: httpx.Response) -> dict[str, str]:
    """Field -> code of an error answer."""
    return {error["field"]: error["code"] for error in answer.json()["errors"]}
