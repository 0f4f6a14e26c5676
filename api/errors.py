"""Every error answer: RFC 9457 `application/problem+json` with a stable `code`. Knows HTTP; knows no resource.

`ErrorCode` is the whole list: its members are what clients may rely on, and what `docs/api.md` prints.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from api.patterns import DEMANDS

MEDIA_TYPE = "application/problem+json"
API_PATHS = ("/v1/", "/storage/", "/static/", "/openapi.json", "/metrics", "/healthz", "/readyz")
"""Those that programs ask for."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """An error's HTTP status, its short name, and what the client can do about it."""

    status: int
    title: str
    remedy: str


class ErrorCode(Enum):
    malformed_json = Kind(400, "The body is not JSON", "Send UTF-8 JSON.")
    malformed_request = Kind(400, "The request cannot be read", "See `detail`.")
    missing_api_key = Kind(401, "No API key", "Send `Authorization: Bearer rv_…`.")
    invalid_api_key = Kind(401, "Not a valid API key", "The key is unknown, revoked or expired: use another.")
    scope_missing = Kind(403, "The key may not do this", "Use a key with the scope that `detail` names.")
    invalid_signature = Kind(403, "The signed URL is not valid", "Use the URL exactly as it was given.")
    url_expired = Kind(403, "The signed URL has expired", "Read the job, or create the upload, again for a new URL.")
    invalid_csrf_token = Kind(403, "The form is not one of this session", "Load the page again.")
    not_found = Kind(404, "Not found", "Check the path and the id. Other tenants' ids are not found either.")
    variant_missing = Kind(404, "The job has no such variant", "Not every video has a preview.")
    method_not_allowed = Kind(405, "Method not allowed", "See the `Allow` header.")
    job_ended = Kind(409, "The job has ended already", "Only a queued or running job can be canceled.")
    job_not_retryable = Kind(409, "The job cannot be retried", "Only failed, canceled and expired jobs can.")
    job_not_finished = Kind(409, "The job has no output yet", "Wait for the status `succeeded`.")
    job_without_output = Kind(409, "The job ended without an output", "See its `error`; retry it.")
    custom_id_taken = Kind(409, "The batch has a job with this custom_id", "Choose another `custom_id`.")
    delivery_pending = Kind(409, "The delivery is on its way", "Only delivered and dead deliveries can be replayed.")
    endpoint_disabled = Kind(409, "The endpoint is disabled", "Enable it with PATCH first.")
    worker_ended = Kind(409, "The worker has ended already", "There is nothing to drain.")
    idempotency_in_flight = Kind(409, "The same request is being answered", "Repeat it after `Retry-After` seconds.")
    output_expired = Kind(410, "The output is kept no longer", "Retry the job to make it again.")
    body_too_large = Kind(413, "The body is too large", "`detail` names the limit.")
    range_not_satisfiable = Kind(416, "No such range", "`Content-Range` tells the object's size.")
    invalid_request = Kind(422, "The request is not valid", "`errors` names each field.")
    idempotency_mismatch = Kind(422, "The Idempotency-Key was used for another request", "Use a new key.")
    unknown_preset = Kind(422, "No such preset", "`errors` lists the presets.")
    size_out_of_limits = Kind(422, "The frame size is out of limits", "`errors` tells the limits.")
    fps_out_of_limits = Kind(422, "The frame rate is out of limits", "`errors` tells the limit.")
    duration_out_of_limits = Kind(422, "The duration is out of limits", "`errors` tells the limit.")
    deadline_passed = Kind(422, "The deadline is not in the future", "Choose a later `deadline`, or none.")
    upload_unknown = Kind(422, "No such upload", "Create it with `POST /v1/uploads`.")
    upload_missing = Kind(422, "The upload has no content yet", "PUT the file to the upload's URL first.")
    upload_empty = Kind(422, "The uploaded file is empty", "Upload the file again.")
    upload_too_large = Kind(422, "The uploaded file is too large", "`errors` tells the limit.")
    bucket_not_allowed = Kind(422, "The bucket is not allowed", "Ask the operator to allow it, or upload the file.")
    url_not_allowed = Kind(422, "The URL is not allowed", "`errors` says why.")
    unknown_batch = Kind(422, "No such batch", "Leave `batch_id` out, or name one of yours.")
    unknown_webhook_endpoint = Kind(422, "No such webhook endpoint", "Name one of yours that is not deleted.")
    internal_error = Kind(500, "Something failed on our side", "Report the `request_id`.")
    storage_unavailable = Kind(503, "The storage does not answer", "Repeat the request after `Retry-After` seconds.")
    database_unavailable = Kind(503, "The database does not answer", "Repeat the request after `Retry-After` seconds.")
    not_ready = Kind(503, "The service is not ready", "`errors` names what is down.")


class FieldProblem(BaseModel):
    field: str = Field(description="where it is wrong, such as `metadata.title`; empty: the whole body")
    code: str = Field(description="what is wrong with it")
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 lays it out."""

    type: str = Field(description="a URI that names the kind of problem: `urn:realvideo:problem:` and the code")
    title: str
    status: int
    code: str = Field(description="stable; for programs")
    detail: str = Field(description="for people; may change")
    request_id: str | None = Field(description="of the log lines of this request")
    errors: list[FieldProblem] = Field(description="the fields that are wrong, if any are")


class ApiError(HTTPException):
    """An error that a client is told; without a `detail` of its own, with what there is to do.

    It is an HTTPException so that the framework lets it through from anywhere.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str | None = None,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(code.value.status, detail or f"{code.value.title}. {code.value.remedy}", headers=headers)
        self.code = code
        self.errors = tuple(errors)


def field_error(code: ErrorCode, field: str, message: str) -> ApiError:
    """An error about one field of the body."""
    return ApiError(code, message, errors=[FieldProblem(field=field, code=code.name, message=message)])


ShowProblem = Callable[["Problem"], Response]


def install(app: FastAPI, *, show: ShowProblem) -> None:
    """Let every error that leaves an endpoint, and every one of the framework, become a problem document.

    People who opened an address in a browser are shown it by `show` instead. What nobody expected passes on, to the
    middleware that answers it.
    """
    app.state.show_problem = show
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(PoolTimeoutError, _database_error)


def respond(request: Request, error: ApiError) -> Response:
    """What a request is answered with that came to this error."""
    problem = Problem(
        type=f"urn:realvideo:problem:{error.code.name}",
        title=error.code.value.title,
        status=error.status_code,
        code=error.code.name,
        detail=str(error.detail),
        request_id=getattr(request.state, "request_id", None),
        errors=list(error.errors),
    )
    if _is_a_person(request):
        show: ShowProblem = request.app.state.show_problem
        response = show(problem)
    else:
        response = JSONResponse(problem.model_dump(), status_code=error.status_code, media_type=MEDIA_TYPE)
    response.headers.update(error.headers or {})
    return response


def _is_a_person(request: Request) -> bool:
    """In front of a browser, which asks for HTML by name when somebody follows a link to a page."""
    asks_for_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    return asks_for_page and not request.url.path.startswith(API_PATHS)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return respond(request, error if isinstance(error, ApiError) else _of_framework(request, error))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return respond(request, ApiError(ErrorCode.malformed_json))
    if any(item["loc"][0] == "path" for item in found):
        detail = "; ".join(f"{item['loc'][1]} {_message(item)}" for item in found if item["loc"][0] == "path")
        return respond(request, ApiError(ErrorCode.not_found, f"{detail}."))
    problems = [_field_problem(item) for item in found]
    detail = "; ".join(f"{problem.field or 'body'}: {problem.message}" for problem in problems[:3])
    return respond(request, ApiError(ErrorCode.invalid_request, detail, errors=problems))


async def _database_error(request: Request, error: Exception) -> Response:
    logger.error("database unavailable: %s", error)
    return respond(request, ApiError(ErrorCode.database_unavailable, headers={"Retry-After": "5"}))


def _of_framework(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == ErrorCode.not_found.value.status:
        return ApiError(ErrorCode.not_found, f"There is nothing at {request.url.path}.")
    if error.status_code == ErrorCode.method_not_allowed.value.status:
        allowed = ", ".join(sorted(_allowed_methods(request)))
        return ApiError(
            ErrorCode.method_not_allowed, f"{request.url.path} takes {allowed}.", headers={"Allow": allowed}
        )
    return ApiError(ErrorCode.malformed_request, str(error.detail))


def _allowed_methods(request: Request) -> set[str]:
    """Of every route with this path: the framework only names those of the first that it finds."""
    allowed: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        if context.path is None or not context.methods:
            continue
        pattern, _, _ = compile_path(context.path)
        if pattern.match(request.url.path):
            allowed |= context.methods
    return allowed


def _field_problem(item: dict[str, Any]) -> FieldProblem:
    path = [str(part) for part in item["loc"][1:]]
    return FieldProblem(field=".".join(path), code=str(item["type"]), message=_message(item))


def _message(item: dict[str, Any]) -> str:
    """The framework's words, but where they would show a regular expression or name no remedy."""
    if item["type"] == "string_pattern_mismatch":
        return DEMANDS.get(item["ctx"]["pattern"], str(item["msg"]))
    if tuple(item["loc"]) == ("body",) and item["type"] in ("missing", "model_attributes_type"):
        return "must be a JSON object, sent with `Content-Type: application/json`"
    return str(item["msg"]).removeprefix("Value error, ")
