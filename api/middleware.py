"""Around every request: its id and log line, the limit of its body, headers for browsers. Knows ASGI only."""

import logging
import re
import time
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, ErrorCode, respond
from api.http_metrics import HttpMetrics
from api.local_urls import PATH as STORAGE_PATH

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNKNOWN_ROUTE = "(none)"  # one label for every path that is no route, so that scanners cannot make metrics grow

access_log = logging.getLogger("api.access")
error_log = logging.getLogger(__name__)


class Observe:
    """Gives each request an id, and one line in the log when its answer has been sent. Keys and queries stay out."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.monotonic()
        status = 500

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
                seconds = time.monotonic() - started
                self._metrics.observe(method=_method(scope), route=_route(scope), status=status, seconds=seconds)
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            access_log.info(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round((time.monotonic() - started) * 1000, 1),
                    "request_id": request_id,
                    "key_id": scope["state"].get("key_id"),
                    "client": scope["client"][0] if scope.get("client") else None,
                },
            )


class AnswerUnexpected:
    """Turns an error that nobody expected into an answer that tells nothing of it, and one log line that tells all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watched_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception:
            if has_begun or scope["type"] != "http":
                raise  # the server breaks the connection off, so that no part passes for the whole
            request_id = scope["state"]["request_id"]
            error_log.exception("unexpected error in %s %s (%s)", scope["method"], scope["path"], request_id)
            await respond(Request(scope), ApiError(ErrorCode.internal_error))(scope, receive, send)


class LimitBody:
    """Refuses bodies above the limit: at once if they announce it, else when they pass it. Files have their own."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(STORAGE_PATH):
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            await respond(Request(scope), self._too_large())(scope, receive, send)
            return
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_bytes:
                    raise self._too_large()
            return message

        await self._app(scope, counted_receive, send)

    def _too_large(self) -> ApiError:
        return ApiError(
            ErrorCode.body_too_large, f"At most {self._max_bytes} bytes are taken.", headers={"Connection": "close"}
        )


class SecureHeaders:
    """What browsers shall not do with any answer; pages add their own Content-Security-Policy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("X-Frame-Options", "DENY")
                headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
            await send(message)

        await self._app(scope, receive, guarded_send)


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or _UNKNOWN_ROUTE
