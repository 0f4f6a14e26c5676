"""Who asks for a page, the form to log in, and what a page's buttons are answered with. Knows cookies and forms."""

import re
from collections.abc import Callable
from secrets import token_hex
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, Request
from fastapi.responses import RedirectResponse, Response

from api.dashboard.pages import login_page
from api.dashboard.session import Viewer, begin_login, check_csrf, read_form, viewer_of
from api.errors import ApiError, ErrorCode
from api.keys import Scope
from api.services import InjectedServices, Services

_OWN_PAGE = re.compile(r"/dashboard/[\w/]+", re.ASCII)


def _viewer_or_none(request: Request, services: InjectedServices) -> Viewer | None:
    return viewer_of(request, services)


def _viewer(viewer: Annotated[Viewer | None, Depends(_viewer_or_none)]) -> Viewer:
    if viewer is None:
        raise ApiError(ErrorCode.missing_api_key, "Log in first.", headers={"WWW-Authenticate": "Bearer"})
    return viewer


SomeViewer = Annotated[Viewer | None, Depends(_viewer_or_none)]
LoggedIn = Annotated[Viewer, Depends(_viewer)]
Form = Annotated[dict[str, str], Depends(read_form)]


def is_own_page(address: str) -> bool:
    """Whether a form may lead there. The list of jobs, which is at `/`, is not among them."""
    return _OWN_PAGE.fullmatch(address) is not None


def must_have(viewer: Viewer, scope: Scope) -> None:
    """Raises ApiError `scope_missing`."""
    if not viewer.principal.may(scope):
        raise ApiError(ErrorCode.scope_missing, f"The key has no scope {scope}.")


def show_login(services: Services, *, then: str = "/", error: str | None = None, status: int = 200) -> Response:
    """The form to log in, which goes on to the page `then`."""
    nonce = token_hex(16)
    response = login_page(services, nonce=nonce, error=error, then=then, status=status)
    begin_login(response, nonce, services)
    return response


def press(
    act: Callable[[], str | None], request: Request, viewer: Viewer, form: dict[str, str], *, scope: Scope
) -> Response:
    """Do what a button asks for. The page's script gets the problem document; a bare form a page with a notice.

    `act` may name the page that shows what came of it, for forms of a job's page; the list shows that by itself.
    """
    is_script = "application/json" in request.headers.get("accept", "")
    back = form.get("back", "/")
    place, query = (back, "") if is_own_page(back) else ("/", "")
    if back.startswith("/?"):
        query = back.removeprefix("/?")
    new_page = None
    try:
        check_csrf(viewer, form.get("csrf", ""))
        must_have(viewer, scope)
        new_page = act()
    except ApiError as error:
        if is_script:
            raise
        query = urlencode([*(pair for pair in parse_qsl(query) if pair[0] != "notice"), ("notice", error.code.name)])
    if is_script:
        return Response(status_code=204, headers={} if new_page is None else {"Location": new_page})
    if new_page is not None and place != "/":
        return RedirectResponse(new_page, status_code=303)
    return RedirectResponse(f"{place}?{query}" if query else place, status_code=303)


def title_of(notice: str | None) -> str | None:
    code = None if notice is None else ErrorCode.__members__.get(notice)
    return None if code is None else code.value.title
