"""A declaration as a JSON document, in the form of the older protocol's own README.

The keys are groups, and ``global``. Types are written as their names, ``"String"``, and a field
that may be null, for which the README has no word, as ``"String?"``. What `dumps` writes `loads`
reads, and gets an equal declaration.
"""

from __future__ import annotations

from typing import Any

import msgspec

from binder_core.protocol.declaration import (
    GLOBAL,
    DeclarationError,
    Endpoint,
    ErrorCase,
    Fields,
    Group,
    Items,
    Kind,
    Maybe,
    Param,
    Protocol,
    Request,
    Response,
    Shape,
    Success,
)
from binder_core.protocol.names import is_name


def dump(protocol: Protocol) -> dict[str, Any]:
    """Return the declaration as plain data."""
    made: dict[str, Any] = {
        GLOBAL: {
            "params": _params(protocol.params),
            "response": {"error": _errors(protocol.errors)},
        }
    }
    for group in protocol.groups:
        made[group.name] = {endpoint.name: _endpoint(endpoint) for endpoint in group.endpoints}
    return made


def dumps(protocol: Protocol) -> bytes:
    """Return the declaration as a JSON document."""
    return msgspec.json.format(msgspec.json.encode(dump(protocol)), indent=2) + b"\n"


def load(data: object) -> Protocol:
    """Return the declaration that plain data holds.

    Raises:
        DeclarationError: Something is missing, unknown or contradicts itself; the message names
            the place.
    """
    if not isinstance(data, dict):
        raise DeclarationError("A declaration is an object whose keys are groups.")
    everywhere: _Global = _converted(data.get(GLOBAL, {}), _Global, GLOBAL)
    groups = []
    for name, endpoints in data.items():
        if name == GLOBAL:
            continue
        read = _converted(endpoints, dict[str, _Endpoint], name)
        try:
            groups.append(Group(name, tuple(_read_endpoint(*each) for each in read.items())))
        except DeclarationError as error:
            raise DeclarationError(f"{name}.{error}") from None
    return Protocol(
        groups=tuple(groups),
        params=_read_params(everywhere.params),
        errors=_read_errors(everywhere.response.error),
    )


def loads(text: bytes | str) -> Protocol:
    """Return the declaration that a JSON document holds.

    Raises:
        DeclarationError: It is not JSON; or as `load`.
    """
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DeclarationError(f"The declaration is not JSON: {error}") from None
    return load(data)


class _Param(msgspec.Struct, forbid_unknown_fields=True):
    type: Kind
    description: str = ""
    required: bool = True


class _Error(msgspec.Struct, forbid_unknown_fields=True):
    msg: str
    status: int | None = None
    suggestions: list[str] = []


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    method: str
    authorized: bool = False
    body: list[str] = []


class _Success(msgspec.Struct, forbid_unknown_fields=True):
    status: int = 200
    msg: str = "{results}"


class _Response(msgspec.Struct, forbid_unknown_fields=True):
    body: Any = None
    error: dict[str, _Error] = {}
    success: _Success = msgspec.field(default_factory=_Success)


class _Endpoint(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    request: _Request
    description: str = ""
    msg: str = ""
    params: dict[str, _Param] = {}
    response: _Response = msgspec.field(default_factory=_Response)


class _GlobalResponse(msgspec.Struct, forbid_unknown_fields=True):
    error: dict[str, _Error] = {}


class _Global(msgspec.Struct, forbid_unknown_fields=True):
    params: dict[str, _Param] = {}
    response: _GlobalResponse = msgspec.field(default_factory=_GlobalResponse)


def _converted(data: object, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise DeclarationError(f"{where}: {error}") from None


def _read_endpoint(name: str, read: _Endpoint) -> Endpoint:
    try:
        return Endpoint(
            name=name,
            path=read.path,
            description=read.description,
            msg=read.msg,
            params=_read_params(read.params),
            request=Request(read.request.method, read.request.authorized, tuple(read.request.body)),
            response=Response(
                body=None if read.response.body is None else _read_shape(read.response.body),
                errors=_read_errors(read.response.error),
                success=Success(read.response.success.msg, read.response.success.status),
            ),
        )
    except DeclarationError as error:
        # What `Endpoint` itself finds is told with its name already.
        told = str(error)
        raise DeclarationError(told if told.startswith(name) else f"{name}: {told}") from None


def _read_params(read: dict[str, _Param]) -> tuple[Param, ...]:
    return tuple(
        Param(name, each.type, each.description, each.required) for name, each in read.items()
    )


def _read_errors(read: dict[str, _Error]) -> tuple[ErrorCase, ...]:
    return tuple(
        ErrorCase(name, each.status, each.msg, tuple(each.suggestions))
        for name, each in read.items()
    )


def _read_shape(read: object) -> Shape:
    match read:
        case str() if read in set(Kind):
            return Kind(read)
        case str() if read.removesuffix("?") in set(Kind):
            return Maybe(Kind(read.removesuffix("?")))
        case [inner]:
            return Items(_read_shape(inner))
        case dict():
            for name in read:
                if not is_name(name):
                    raise DeclarationError(f"response body: {name!r} is no name for a field")
            return Fields(tuple((name, _read_shape(inner)) for name, inner in read.items()))
        case _:
            raise DeclarationError(
                f"response body: {read!r} is none of {', '.join(Kind)}, an object or a list of one"
            )


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    request: dict[str, Any] = {
        "method": endpoint.request.method,
        "authorized": endpoint.request.authorized,
    }
    if endpoint.request.body:
        request["body"] = list(endpoint.request.body)
    response: dict[str, Any] = {
        "error": _errors(endpoint.response.errors),
        "success": {
            "status": endpoint.response.success.status,
            "msg": endpoint.response.success.msg,
        },
    }
    if endpoint.response.body is not None:
        response["body"] = _shape(endpoint.response.body)
    return {
        "path": endpoint.path,
        "params": _params(endpoint.params),
        "description": endpoint.description,
        "msg": endpoint.msg,
        "request": request,
        "response": response,
    }


def _params(params: tuple[Param, ...]) -> dict[str, Any]:
    return {
        param.name: {
            "type": str(param.type),
            "description": param.description,
            "required": param.required,
        }
        for param in params
    }


def _errors(errors: tuple[ErrorCase, ...]) -> dict[str, Any]:
    return {
        error.name: ({} if error.status is None else {"status": error.status})
        | {"msg": error.msg, "suggestions": list(error.suggestions)}
        for error in errors
    }


def _shape(shape: Shape) -> Any:
    match shape:
        case Kind():
            return str(shape)
        case Maybe(kind):
            return f"{kind}?"
        case Items(of):
            return [_shape(of)]
        case Fields(fields):
            return {name: _shape(inner) for name, inner in fields}
