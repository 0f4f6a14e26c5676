"""`/docs`: the OpenAPI description as a page, rendered here so that it needs nothing from other servers."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from api.dashboard.pages import render
from api.services import InjectedServices

METHODS = ("get", "post", "put", "patch", "delete")

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Field:
    """A parameter, or a field of a body."""

    name: str
    kind: str
    is_required: bool
    text: str


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    title: str
    text: str
    parameters: tuple[Field, ...]
    body: tuple[Field, ...]
    answers: tuple[tuple[str, str], ...]
    result: tuple[Field, ...]


@router.get("/docs")
def reference(request: Request, services: InjectedServices) -> HTMLResponse:
    """Every operation, with its parameters, body, answer and errors."""
    document = request.app.openapi()
    by_tag: dict[str, list[Operation]] = {}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                operation = _operation(document, method, path, item[method])
                by_tag.setdefault(item[method]["tags"][0], []).append(operation)
    shapes = {name: _fields_of(shape) for name, shape in document["components"]["schemas"].items()}
    return render("reference.html", services, info=document["info"], tags=by_tag, shapes=shapes)


def _operation(document: dict[str, Any], method: str, path: str, described: dict[str, Any]) -> Operation:
    body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    success = next(answer for status, answer in described["responses"].items() if status[0] in "23")
    result = success.get("content", {}).get("application/json", {}).get("schema")
    return Operation(
        method=method.upper(),
        path=path,
        title=described["summary"],
        text=described.get("description", ""),
        parameters=tuple(
            Field(
                name=parameter["name"],
                kind=f"{parameter['in']}, {_kind(parameter['schema'])}",
                is_required=parameter.get("required", False),
                text=parameter.get("description", ""),
            )
            for parameter in described.get("parameters", [])
        ),
        body=_fields(document, body),
        answers=tuple((status, answer["description"]) for status, answer in described["responses"].items()),
        result=_fields(document, result),
    )


def _fields(document: dict[str, Any], schema: dict[str, Any] | None) -> tuple[Field, ...]:
    if schema is None or "$ref" not in schema:
        return ()
    return _fields_of(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])


def _fields_of(shape: dict[str, Any]) -> tuple[Field, ...]:
    """Of an object; of an enumeration its values."""
    required = shape.get("required", [])
    values = [Field(name=str(value), kind="", is_required=False, text="") for value in shape.get("enum", [])]
    fields = [
        Field(name=name, kind=_kind(field), is_required=name in required, text=_text(field))
        for name, field in shape.get("properties", {}).items()
    ]
    return (*values, *fields)


def _text(field: dict[str, Any]) -> str:
    parts = [field.get("description", "")]
    if field.get("default") is not None:
        parts.append(f"Default: {field['default']}.")
    return " ".join(part for part in parts if part)


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words, such as `integer (1–60) or null`."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " | ".join(str(choice) for choice in schema["enum"])
    kind = schema.get("format") or schema.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is not None or high is not None:
        return f"{kind} ({'' if low is None else low}–{'' if high is None else high})"
    return str(kind)
