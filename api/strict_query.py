"""Refuses parameters that an operation does not have: a mistyped filter would list all. Knows the description."""

from __future__ import annotations

from fastapi import Depends, Request

from api.errors import ApiError, ErrorCode, FieldProblem


async def _known_query(request: Request) -> None:
    """Raises ApiError naming every unknown parameter."""
    if not request.query_params:
        return
    operation = request.app.openapi()["paths"][request.scope["route"].path_format][request.method.lower()]
    known = sorted(one["name"] for one in operation.get("parameters", ()) if one["in"] == "query")
    unknown = sorted(set(request.query_params) - set(known))
    if not unknown:
        return
    message = f"is no parameter here; there {'are ' + ', '.join(known) if known else 'is none'}"
    problems = [FieldProblem(field=name, code="unknown_parameter", message=message) for name in unknown]
    raise ApiError(ErrorCode.invalid_request, f"{', '.join(unknown)} {message}", errors=problems)


STRICT_QUERY = Depends(_known_query)
"""For routers whose operations are all described."""
