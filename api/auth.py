"""Who may call what: the bearer key of a request, checked against the scope that an endpoint asks for."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from api.errors import ApiError, ErrorCode
from api.keys import Principal, Scope, authenticate, principal_of_key
from api.services import InjectedServices

_bearer = HTTPBearer(auto_error=False, scheme_name="api_key", description="An API key, `rv_<id>_<secret>`.")


def _principal(
    request: Request,
    services: InjectedServices,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    if credentials is None:
        raise ApiError(ErrorCode.missing_api_key, headers={"WWW-Authenticate": "Bearer"})
    with services.database.transaction() as session:
        principal = authenticate(session, credentials.credentials)
    if principal is None:
        raise ApiError(ErrorCode.invalid_api_key, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
    request.state.key_id = principal.key_id  # for the access log
    return principal


def check_still_valid(session: Session, principal: Principal) -> None:
    """For streams, which outlast a request. Raises ApiError `invalid_api_key`."""
    if principal_of_key(session, principal.key_id) is None:
        raise ApiError(ErrorCode.invalid_api_key)


def _require(scope: Scope) -> Callable[[Principal], Principal]:
    def check(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
        if not principal.may(scope):
            raise ApiError(ErrorCode.scope_missing, f"The key has no scope {scope}.")
        return principal

    return check


JobsReader = Annotated[Principal, Depends(_require(Scope.JOBS_READ))]
JobsWriter = Annotated[Principal, Depends(_require(Scope.JOBS_WRITE))]
WebhookKeeper = Annotated[Principal, Depends(_require(Scope.WEBHOOKS))]
WorkersReader = Annotated[Principal, Depends(_require(Scope.WORKERS))]
WorkersKeeper = Annotated[Principal, Depends(_require(Scope.DRAIN))]
