"""A declared API, described for tools: OpenAPI 3.1."""

from __future__ import annotations

from typing import Any, Final

from apispec import APISpec

from binder_core.protocol import (
    Endpoint,
    ErrorCase,
    Fields,
    Items,
    Kind,
    Maybe,
    Param,
    Protocol,
    Shape,
    declared,
)

_KEY: Final = "apiKey"

_TYPES: Final[dict[Kind, dict[str, Any]]] = {
    Kind.STRING: {"type": "string"},
    Kind.NUMBER: {"type": "number"},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.DATE: {"type": "string", "format": "date-time"},
    Kind.OBJECT: {"type": "object"},
}

_EVERYWHERE: Final = ("malformedRequest",)
"""Which of the global errors a server answers to any request."""


def openapi(
    protocol: Protocol, *, title: str = "Binder, the older protocol", version: str = "1"
) -> dict[str, Any]:
    """Return the description.

    A path whose last part may be left out is described twice: OpenAPI knows no such paths.

    Args:
        protocol: The API.
        title: Its name.
        version: Of the API.
    """
    spec = APISpec(title=title, version=version, openapi_version="3.1.0")
    spec.components.security_scheme(
        _KEY, {"type": "apiKey", "in": "header", "name": "Authorization"}
    )
    for group, endpoint in protocol:
        name = f"{group.name}.{endpoint.name}"
        method = endpoint.request.method.lower()
        whole = _operation(protocol, endpoint, name)
        spec.path(endpoint.path, operations={method: whole})
        if endpoint.optional_end:
            short = endpoint.path.rpartition("/")[0] + "/"
            left_out = [each for each in whole.get("parameters", ()) if each["in"] != "path"]
            left_out += [
                _parameter(part, "path")
                for part in endpoint.segments[:-1]
                if isinstance(part, Param)
            ]
            bare = whole | {"operationId": f"{name}.any", "parameters": left_out}
            spec.path(short, operations={method: bare})
    made: dict[str, Any] = spec.to_dict()
    return made


def _operation(protocol: Protocol, endpoint: Endpoint, name: str) -> dict[str, Any]:
    in_path = [part for part in endpoint.segments if isinstance(part, Param)]
    made: dict[str, Any] = {
        "operationId": name,
        "tags": [name.partition(".")[0]],
        "summary": endpoint.description,
        "parameters": [
            *(_parameter(param, "path") for param in in_path),
            *(_parameter(param, "query") for param in endpoint.query),
        ],
        "responses": _responses(protocol, endpoint),
    }
    fields = [param for param in endpoint.params if param.name in endpoint.request.body]
    if fields:
        schema = {
            "type": "object",
            "properties": {
                param.name: _TYPES[param.type] | {"description": param.description}
                for param in fields
            },
            "required": [param.name for param in fields if param.required],
            "additionalProperties": False,
        }
        made["requestBody"] = {
            "required": any(param.required for param in fields),
            "content": {"application/json": {"schema": schema}},
        }
    if endpoint.request.authorized:
        made["security"] = [{_KEY: []}]
    return made


def _parameter(param: Param, where: str) -> dict[str, Any]:
    return {
        "name": param.name,
        "in": where,
        "required": param.required or where == "path",
        "description": param.description,
        "schema": _TYPES[param.type],
    }


def _responses(protocol: Protocol, endpoint: Endpoint) -> dict[str, Any]:
    shape = endpoint.response.body
    good: dict[str, Any] = {"description": endpoint.description}
    good["content"] = {"application/json": {"schema": {} if shape is None else _schema(shape)}}
    made: dict[str, Any] = {str(endpoint.response.success.status): good}
    common = [*_EVERYWHERE, *(["unauthorized"] if endpoint.request.authorized else [])]
    cases = [*endpoint.response.errors, *(declared(protocol, endpoint, name) for name in common)]
    by_status: dict[int, list[ErrorCase]] = {}
    for case in cases:
        if case is not None and case.status is not None:
            by_status.setdefault(case.status, []).append(case)
    for status, alike in sorted(by_status.items()):
        made[str(status)] = {
            "description": "\n".join(f"- `{case.name}`: {case.msg}" for case in alike),
            "content": {"application/json": {"schema": _error([case.name for case in alike])}},
        }
    return made


def _error(names: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": list(dict.fromkeys(names))},
            "error": {"type": "string"},
        },
        "required": ["type", "error"],
    }


def _schema(shape: Shape) -> dict[str, Any]:
    match shape:
        case Kind():
            return _TYPES[shape]
        case Maybe(kind):
            return _TYPES[kind] | {"type": [_TYPES[kind]["type"], "null"]}
        case Items(of):
            return {"type": "array", "items": _schema(of)}
        case Fields(fields):
            return {
                "type": "object",
                "properties": {name: _schema(each) for name, each in fields},
                "required": [name for name, _ in fields],
            }
