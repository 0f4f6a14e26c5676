"""Who looks at the dashboard: a signed cookie that names an API key, and tokens that tie forms to it. Knows HMAC.

The cookie holds no secret of the key. The key is looked up at every request, so revoking it ends the session.
"""

import base64
import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass, field
from secrets import token_hex
from urllib.parse import parse_qs

from fastapi import Request
from starlette.responses import Response

from api.errors import ApiError, ErrorCode
from api.keys import Principal, Scope, principal_of_key
from api.services import Services

SESSION_COOKIE = "realvideo_session"
LOGIN_COOKIE = "realvideo_login"
LOGIN_LIFETIME = dt.timedelta(hours=1)
MAX_FORM_FIELDS = 20


@dataclass(frozen=True)
class Viewer:
    """Somebody logged in. Forms carry `csrf_token`."""

    principal: Principal
    csrf_token: str = field(repr=False)

    @property
    def may_write(self) -> bool:
        return self.principal.may(Scope.JOBS_WRITE)

    @property
    def may_keep_webhooks(self) -> bool:
        return self.principal.may(Scope.WEBHOOKS)

    @property
    def may_see_workers(self) -> bool:
        return self.principal.may(Scope.WORKERS)

    @property
    def may_drain(self) -> bool:
        return self.principal.may(Scope.DRAIN)


def log_in(response: Response, key_id: str, services: Services) -> None:
    lifetime = dt.timedelta(seconds=services.settings.session_lifetime_s)
    value = _sign(SESSION_COOKIE, f"{key_id}.{_expiry(lifetime)}.{token_hex(16)}", services)
    _set_cookie(response, SESSION_COOKIE, value, lifetime, services)
    response.delete_cookie(LOGIN_COOKIE)


def log_out(response: Response) -> None:
    response.delete_cookie(SESSION_COOKIE)


def viewer_of(request: Request, services: Services) -> Viewer | None:
    """None: not logged in, logged in too long ago, or the key is no longer valid or may not read jobs."""
    cookie = request.cookies.get(SESSION_COOKIE, "")
    payload = _verified(SESSION_COOKIE, cookie, services)
    if payload is None:
        return None
    key_id, _, _ = payload.split(".")
    with services.database.transaction() as session:
        principal = principal_of_key(session, key_id)
    if principal is None or not principal.may(Scope.JOBS_READ):
        return None
    request.state.key_id = key_id
    return Viewer(principal=principal, csrf_token=_mac("csrf", cookie, services))


def begin_login(response: Response, nonce: str, services: Services) -> None:
    """Remember in the browser that it was shown the login form, so that no other site can log it in."""
    value = _sign(LOGIN_COOKIE, f"login.{_expiry(LOGIN_LIFETIME)}.{nonce}", services)
    _set_cookie(response, LOGIN_COOKIE, value, LOGIN_LIFETIME, services)


def check_login(request: Request, nonce: str, services: Services) -> bool:
    payload = _verified(LOGIN_COOKIE, request.cookies.get(LOGIN_COOKIE, ""), services)
    return payload is not None and hmac.compare_digest(payload.split(".")[2].encode(), nonce.encode())


def check_csrf(viewer: Viewer, token: str) -> None:
    """Raises ApiError `invalid_csrf_token`."""
    if not hmac.compare_digest(viewer.csrf_token.encode(), token.encode()):
        raise ApiError(ErrorCode.invalid_csrf_token)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form, each with its last value."""
    body = (await request.body()).decode("utf-8", errors="replace")
    try:
        fields = parse_qs(body, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError as error:
        raise ApiError(ErrorCode.malformed_request, "The form has too many fields.") from error
    return {name: values[-1] for name, values in fields.items()}


def _set_cookie(response: Response, name: str, value: str, lifetime: dt.timedelta, services: Services) -> None:
    response.set_cookie(
        name,
        value,
        max_age=int(lifetime.total_seconds()),
        path="/",
        httponly=True,
        samesite="lax",
        secure=services.settings.public_url.startswith("https://"),
    )


def _expiry(lifetime: dt.timedelta) -> int:
    return int((dt.datetime.now(dt.UTC) + lifetime).timestamp())


def _sign(name: str, payload: str, services: Services) -> str:
    return f"{payload}.{_mac(name, payload, services)}"


def _verified(name: str, cookie: str, services: Services) -> str | None:
    """The payload of a cookie that was made here and has not expired: a name, the expiry and a nonce."""
    payload, _, signature = cookie.rpartition(".")
    if not hmac.compare_digest(_mac(name, payload, services).encode(), signature.encode()):
        return None
    expires = int(payload.split(".")[1])
    return payload if dt.datetime.now(dt.UTC).timestamp() < expires else None


def _mac(purpose: str, text: str, services: Services) -> str:
    digest = hmac.new(services.session_key, f"{purpose}:{text}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
