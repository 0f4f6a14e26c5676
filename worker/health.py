"""A small HTTP server by which supervisors and Prometheus ask a node how it is. Knows no job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REQUEST_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)


class PortTaken(Exception):
    """Something else listens there, or this process may not."""


class HealthServer:
    """`/healthz`: the process answers. `/readyz`: it can make a video now. `/metrics`."""

    def __init__(self, *, host: str, port: int, is_ready: Callable[[], bool], registry: CollectorRegistry) -> None:
        """Port 0: any free one. Raises `PortTaken`."""

        class Answer(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                match self.path:
                    case "/healthz":
                        self._reply(HTTPStatus.OK, b"ok\n")
                    case "/readyz" if is_ready():
                        self._reply(HTTPStatus.OK, b"ready\n")
                    case "/readyz":
                        self._reply(HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n")
                    case "/metrics":
                        self._reply(HTTPStatus.OK, generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
                    case _:
                        self._reply(HTTPStatus.NOT_FOUND, b"not found\n")

            def _reply(self, status: HTTPStatus, body: bytes, *, content_type: str = "text/plain") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name in http.server
                log.debug(format, *arguments)

        try:
            self._server = ThreadingHTTPServer((host, port), Answer)
        except OSError as error:
            raise PortTaken(f"cannot listen on {host}:{port} ({error.strerror}); set REALVIDEO_HEALTH_PORT") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    def start(self) -> None:
        self._thread.start()
        log.info("health at http://%s:%d", *self._server.server_address[:2])

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(timeout=STOP_TIMEOUT_S)
        self._server.server_close()
