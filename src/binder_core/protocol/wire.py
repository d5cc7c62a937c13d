"""One set of rules for both ends of the wire, so that they cannot disagree.

A client turns values into a request (`fill`) and the answer into a result (`interpret`); a server
finds what is asked for (`match`) and takes the values out again (`parse`).

Rules:

* In paths and queries a Number is written as in JSON, a Boolean as ``true`` or ``false``. Each
  segment is percent-encoded by itself: a ``/`` in a value separates nothing.
* The older command line sends every value as text. So ``"true"`` and ``"60"`` in a body are taken
  for what they say, where a Boolean or Number is declared.
* null and absent are the same. What is not declared is refused, not ignored.
* ``.`` and ``..`` are no part of a path: on the way to the server they would change it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode

import msgspec

from binder_core.protocol.declaration import (
    Endpoint,
    Fields,
    Items,
    Kind,
    Maybe,
    Param,
    Protocol,
    Shape,
)
from binder_core.protocol.failures import (
    BAD_RESPONSE,
    FALLBACKS,
    GENERIC,
    MALFORMED,
    NOTHING,
    declared,
    failure,
)

Value: TypeAlias = str | int | float | bool

WHOLE: Final = 2**53
"""No whole Number is farther from 0: beyond it JavaScript's, and JSON's, are not exact."""

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class Call:
    """A request, ready to be sent."""

    method: str
    target: str
    """Path and query, percent-encoded."""
    body: bytes | None
    """JSON, or None where the endpoint takes no body."""
    authorized: bool
    """Whether it needs an API key, as the whole ``Authorization`` header without a scheme."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a path asks for."""

    endpoint: Endpoint
    segments: Mapping[str, str]
    """The placeholders' texts, still percent-encoded."""


def fill(protocol: Protocol, endpoint: Endpoint, values: Mapping[str, Value | None]) -> Call:
    """Return the request for these values.

    Args:
        protocol: The endpoint's.
        endpoint: What to ask for.
        values: By the declared names, ``-`` included; None is as good as absent.

    Raises:
        Failure: ``malformedRequest``: a value is missing, is not declared or has the wrong type.
    """
    try:
        given = _checked(endpoint, values)
        segments: list[str] = []
        for part in endpoint.segments:
            if isinstance(part, str):
                segments.append(part)
            elif part.name in given:
                segments.append(quote(_segment(part, _text(given[part.name])), safe=""))
            else:
                segments.append("")
    except _Wrong as wrong:
        raise failure(protocol, endpoint, MALFORMED, values, detail=str(wrong)) from None
    query = [(each.name, _text(given[each.name])) for each in endpoint.query if each.name in given]
    target = "/" + "/".join(segments)
    if query:
        target += "?" + urlencode(query, quote_via=quote, safe="")
    body = None
    if endpoint.request.body:
        fields = {name: given[name] for name in endpoint.request.body if name in given}
        body = msgspec.json.encode(fields)
    return Call(endpoint.request.method, target, body, endpoint.request.authorized)


def match(protocol: Protocol, method: str, path: str) -> Match | None:
    """Return what a path asks for, or None where nothing has this path and method.

    Args:
        protocol: The API.
        method: In capitals.
        path: As it came, percent-encoded, without the query. An end without its ``/`` will do.
    """
    for tried in (path, path + "/"):
        for _, endpoint in protocol:
            if endpoint.request.method == method:
                segments = _fits(endpoint, tried)
                if segments is not None:
                    return Match(endpoint, segments)
    return None


def methods(protocol: Protocol, path: str) -> tuple[str, ...]:
    """Return the methods that a path takes, sorted; none where nothing is there."""
    known = {endpoint.request.method for _, endpoint in protocol}
    return tuple(sorted(method for method in known if match(protocol, method, path)))


def parse(
    protocol: Protocol, asked: Match, *, query: str = "", body: bytes = b""
) -> dict[str, Value]:
    """Return the values of a request by their declared names; what is absent is left out.

    Args:
        protocol: The API.
        asked: What `match` found.
        query: As it came, percent-encoded.
        body: As it came.

    Raises:
        Failure: ``malformedRequest``: a value is missing, is not declared or has the wrong type,
            or the body is no JSON object.
    """
    endpoint = asked.endpoint
    try:
        given: dict[str, object] = {}
        for part in endpoint.segments:
            if isinstance(part, Param) and part.name in asked.segments:
                text = _segment(part, _decoded(part.name, asked.segments[part.name]))
                given[part.name] = _read(part, text)
        given |= _queried(endpoint, query)
        given |= _embodied(endpoint, body)
        return _checked(endpoint, given)
    except _Wrong as wrong:
        raise failure(protocol, endpoint, MALFORMED, detail=str(wrong)) from None


def interpret(
    protocol: Protocol,
    endpoint: Endpoint,
    status: int,
    body: bytes,
    values: Mapping[str, object] = NOTHING,
) -> Any:
    """Return the result that an answer holds.

    Args:
        protocol: The API.
        endpoint: What was asked for.
        status: The answer's HTTP status.
        body: All of it.
        values: What was asked, and of whom; for the texts of errors.

    Raises:
        Failure: The declared error that the answer names; ``badResponse`` for an answer that is
            not JSON or lacks a declared field; ``generic`` for an error nobody declared.
    """
    nothing = not body.strip()
    try:
        told = None if nothing else msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told, parsed = None, False
    else:
        parsed = not nothing or endpoint.response.body is None
    if status == endpoint.response.success.status:
        wrong = "it is not JSON" if not parsed else _misshapen(endpoint, told)
        if wrong:
            raise failure(protocol, endpoint, BAD_RESPONSE, values, detail=wrong)
        return told
    kind = told.get("type") if isinstance(told, dict) else None
    if isinstance(told, dict) and isinstance(kind, str) and declared(protocol, endpoint, kind):
        said = told.get("error")
        message = said if isinstance(said, str) and said else None
        raise failure(protocol, endpoint, kind, values, message=message)
    for case in (*protocol.errors, *FALLBACKS):
        # A proxy may refuse a key or a request in its own words. No such guess beyond 499: there
        # is more than one reason for a 500.
        if case.status == status < 500:
            raise failure(protocol, endpoint, case.name, values)
    if not isinstance(told, dict):
        detail = f"status {status}, and it is no JSON object"
        raise failure(protocol, endpoint, BAD_RESPONSE, values, detail=detail)
    shown = msgspec.json.encode(told).decode()[:_SHOWN]
    told_error = {**values, "error": f"status {status}, {shown}"}
    raise failure(protocol, endpoint, GENERIC, told_error)


def read_value(param: Param, text: str) -> Value:
    """Return the value that a text stands for.

    Raises:
        ValueError: It stands for none of that type.
    """
    value = _read(param, text)
    _check_type(param, value)
    return value


class _Wrong(ValueError):
    """What is wrong with a request, in words that name the parameter."""


def _checked(endpoint: Endpoint, values: Mapping[str, object]) -> dict[str, Value]:
    """Return the values that are there, each of its type."""
    for name in values:
        if endpoint.param(name) is None:
            known = ", ".join(param.name for param in endpoint.params) or "none"
            raise _Wrong(f"there is no parameter {_shown(name)} (there are: {known})")
    good: dict[str, Value] = {}
    for param in endpoint.params:
        value = values.get(param.name)
        if value is not None:
            good[param.name] = _check_type(param, value)
        elif param.required:
            raise _Wrong(f"{param.name} is missing")
    return good


def _check_type(param: Param, value: object) -> Value:
    match param.type, value:
        case Kind.STRING, str():
            # No database and no command's argument can hold a NUL, and no wire half a surrogate.
            if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
                raise _Wrong(f"{param.name} holds a character that no text has")
            return value
        case Kind.BOOLEAN, bool():
            return value
        case Kind.NUMBER, bool():
            pass
        case Kind.NUMBER, int():
            if abs(value) > WHOLE:
                raise _Wrong(f"{param.name} is too large to be exact")
            return value
        case Kind.NUMBER, float():
            if not math.isfinite(value):
                raise _Wrong(f"{param.name} is not finite")
            return value
        case _:
            pass
    raise _Wrong(f"{param.name} is a {param.type}, not {_shown(value)}")


def _text(value: Value) -> str:
    """Return a value as paths and queries hold it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _read(param: Param, text: str) -> Value:
    """Return what a text of a path, a query or a command line stands for."""
    if param.type is Kind.STRING:
        return text
    if param.type is Kind.BOOLEAN and text in {"true", "false"}:
        return text == "true"
    if param.type is Kind.NUMBER and _NUMBER.fullmatch(text):
        # Digits alone are a whole number; Python's int() refuses thousands of them, float() does
        # not, and too many of them are too large anyway.
        whole = text.removeprefix("-").isdigit() and len(text) < 20
        return int(text) if whole else float(text)
    raise _Wrong(f"{param.name} is a {param.type}, not {_shown(text)}")


def _segment(param: Param, text: str) -> str:
    if text in {"", ".", ".."}:
        raise _Wrong(f"{param.name} is a part of the path, and cannot be {_shown(text)}")
    return text


def _fits(endpoint: Endpoint, path: str) -> dict[str, str] | None:
    given = path.removeprefix("/").split("/")
    if not path.startswith("/") or len(given) != len(endpoint.segments):
        return None
    found: dict[str, str] = {}
    for text, part in zip(given, endpoint.segments, strict=True):
        if isinstance(part, str):
            if text != part:
                return None
        elif text:
            found[part.name] = text
        elif part.required:
            return None
    return found


def _decoded(name: str, text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise _Wrong(f"{name} is not UTF-8") from None


def _queried(endpoint: Endpoint, query: str) -> dict[str, Value]:
    known = {param.name: param for param in endpoint.query}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise _Wrong("the query cannot be read") from None
    given: dict[str, Value] = {}
    for name, text in pairs:
        if name not in known or name in given:
            why = "is there twice" if name in given else "is not declared"
            raise _Wrong(f"{_shown(name)} in the query {why}")
        given[name] = _read(known[name], text)
    return given


def _embodied(endpoint: Endpoint, body: bytes) -> dict[str, object]:
    try:
        told = msgspec.json.decode(body) if body.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Wrong("the body is not JSON") from None
    if not isinstance(told, dict):
        raise _Wrong("the body is not a JSON object")
    given: dict[str, object] = {}
    for name, value in told.items():
        param = endpoint.param(name)
        if param is None or name not in endpoint.request.body:
            raise _Wrong(f"{_shown(name)} in the body is not declared")
        given[name] = _read(param, value) if isinstance(value, str) else value
    return given


def _misshapen(endpoint: Endpoint, told: object) -> str:
    """Return what is wrong with a result, or nothing."""
    shape = endpoint.response.body
    return "" if shape is None else _unlike(shape, told, "")


def _unlike(shape: Shape, told: object, where: str) -> str:
    match shape:
        case Maybe(of):
            return "" if told is None else _unlike(of, told, where)
        case Fields(fields):
            if not isinstance(told, dict):
                return f"{where or 'it'} is no object"
            for name, inner in fields:
                at = f"{where}.{name}" if where else name
                if name not in told:
                    return f"{at} is missing"
                if wrong := _unlike(inner, told[name], at):
                    return wrong
            return ""
        case Items(of):
            if not isinstance(told, list):
                return f"{where or 'it'} is no list"
            tried = (_unlike(of, item, f"{where}[{n}]") for n, item in enumerate(told))
            return next((wrong for wrong in tried if wrong), "")
        case Kind():
            return "" if _is(shape, told) else f"{where or 'it'} is no {shape}"


def _is(kind: Kind, told: object) -> bool:
    match kind:
        case Kind.STRING | Kind.DATE:
            return isinstance(told, str)
        case Kind.NUMBER:
            return isinstance(told, int | float) and not isinstance(told, bool)
        case Kind.BOOLEAN:
            return isinstance(told, bool)
        case Kind.OBJECT:
            return isinstance(told, dict)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
