"""The OpenAPI description: the problem answers of each endpoint, and this installation's limits. Knows no resource."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import MEDIA_TYPE, ErrorCode, Problem
from api.schemas import JobCreate
from api.settings import ApiSettings

_KEYED = (
    ErrorCode.missing_api_key,
    ErrorCode.invalid_api_key,
    ErrorCode.scope_missing,
    ErrorCode.internal_error,
    ErrorCode.database_unavailable,
)
JSON_BODY = (
    ErrorCode.malformed_json,
    ErrorCode.malformed_request,
    ErrorCode.body_too_large,
    ErrorCode.invalid_request,
)
IDEMPOTENT = (ErrorCode.idempotency_in_flight, ErrorCode.idempotency_mismatch)
DESCRIPTION = """Turns dubbed sound and a portrait into lip-synced videos.

Upload the inputs (`POST /v1/uploads`, then PUT), create a job, follow it by its events or a webhook, fetch its output.
Every error is an RFC 9457 problem document with a stable `code`. Every creating POST takes an `Idempotency-Key`.
Ids of other tenants are not found."""


def problems(*codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    """The error answers of an endpoint that takes an API key, for its `responses`."""
    return open_problems(*_KEYED, *codes)


def open_problems(*codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    """The error answers of an endpoint that needs no key."""
    return {status: _answer(of_status) for status, of_status in sorted(_by_status(codes).items())}


def describe(app: FastAPI, settings: ApiSettings) -> None:
    """Make `app.openapi()` say what this installation does."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
            schemas = schema["components"]["schemas"]
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(problem.pop("$defs"), Problem=problem)
            _forget_generated_422(schema)
            _tell_limits(schemas[JobCreate.__name__]["properties"], settings)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the documented way to change it


def _forget_generated_422(schema: dict[str, Any]) -> None:
    """The framework's own shape of an invalid request is never sent: a path that fits no id is not found."""
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for item in schema["paths"].values():
        for operation in item.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]


def _by_status(codes: Iterable[ErrorCode]) -> dict[int, list[ErrorCode]]:
    by_status: dict[int, list[ErrorCode]] = {}
    for code in codes:
        by_status.setdefault(code.value.status, []).append(code)
    return by_status


def _answer(codes: list[ErrorCode]) -> dict[str, Any]:
    lines = [f"`{code.name}`: {code.value.title}. {code.value.remedy}" for code in codes]
    return {
        "description": "\n\n".join(lines),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _tell_limits(properties: dict[str, Any], settings: ApiSettings) -> None:
    """Defaults and limits that an operator can set. Each field is a choice of its type and null."""
    told: dict[str, dict[str, Any]] = {
        "fps": {"maximum": settings.max_fps},
        "width": {"minimum": settings.min_side, "maximum": settings.max_side},
        "height": {"minimum": settings.min_side, "maximum": settings.max_side},
        "duration": {"maximum": settings.max_duration_s},
        "preset": {"enum": list(settings.presets)},
    }
    for name, limits in told.items():
        properties[name]["anyOf"][0].update(limits)
    for name in ("fps", "width", "height", "denoising_steps", "seed", "prompt", "preset"):
        properties[name]["default"] = getattr(settings, f"default_{name}")
