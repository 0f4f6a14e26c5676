"""A webhook receiver as a customer would write one: verifies the signature, answers, and remembers what came.

Knows Standard Webhooks and HTTP. One thread, on a free port of 127.0.0.1.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 1_000_000


@dataclass(frozen=True)
class Received:
    """One delivery whose signature was right."""

    webhook_id: str
    type: str
    data: dict[str, Any]


class WebhookReceiver:
    """Listens while used as a context. It needs its secret before the first delivery: `secret` is called for each."""

    def __init__(self, *, secret: Callable[[], str]) -> None:
        self._secret = secret
        self._arrived = threading.Condition()
        self._received: list[Received] = []
        self._refused: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._request_handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhook-receiver", daemon=True)

    def __enter__(self) -> "WebhookReceiver":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/webhooks"

    @property
    def received(self) -> tuple[Received, ...]:
        with self._arrived:
            return tuple(self._received)

    @property
    def refused(self) -> tuple[str, ...]:
        """Why each delivery with a wrong signature was refused."""
        with self._arrived:
            return tuple(self._refused)

    def wait_for(self, job_id: str, *, timeout_s: float) -> Received:
        """The first verified delivery about a job. Raises TimeoutError."""

        def found() -> Received | None:
            return next((one for one in self._received if one.data.get("id") == job_id), None)

        with self._arrived:
            received = self._arrived.wait_for(found, timeout=timeout_s)
            if received is None:
                why = f"; refused: {', '.join(self._refused)}" if self._refused else ""
                raise TimeoutError(f"no webhook about {job_id} within {timeout_s:g} s{why}")
            return received

    def _take(self, body: bytes, headers: dict[str, str]) -> HTTPStatus:
        try:
            Webhook(self._secret()).verify(body, headers)
        except WebhookVerificationError as error:
            with self._arrived:
                self._refused.append(str(error))
            return HTTPStatus.UNAUTHORIZED
        event = json.loads(body)
        with self._arrived:
            self._received.append(Received(headers["webhook-id"], event["type"], event["data"]))
            self._arrived.notify_all()
        return HTTPStatus.NO_CONTENT

    def _request_handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Request(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                if length > MAX_BODY_BYTES:
                    self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(receiver._take(self.rfile.read(length), headers))
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base names it so
                """Nothing on the terminal, where the progress bar is."""

        return Request
