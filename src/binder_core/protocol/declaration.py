"""What a protocol is made of: immutable values that are right or cannot be made.

A `Protocol` has groups, a `Group` endpoints, an `Endpoint` a path, parameters, a request and the
answers to it. The rules, each checked where the value is made:

* Every placeholder of a path and every field of a body is a parameter. A parameter that is neither
  travels in the query.
* A placeholder is a whole segment of its path. Only the last one can be optional: left out, the
  path ends with its ``/``.
* No request fits two endpoints.
* Names differ in Python and on the command line too, where ``statusAll`` is ``status-all``.
* A text names only what there is to be filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from binder_core.errors import ConfigError
from binder_core.protocol.names import class_name, is_name, kebab_name

GLOBAL: Final = "global"
"""The key of what holds for all endpoints; no group can have it."""

GLOBAL_PARAMS: Final = ("api-key", "host", "port")
"""What says where a request goes and who asks. No parameter of an endpoint has such a name."""

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_BODILESS: Final = ("GET", "DELETE")

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_LITERAL: Final = re.compile(r"[A-Za-z0-9._~-]*", re.ASCII)


class DeclarationError(ConfigError):
    """A declaration that contradicts itself; the message names the place."""


class Kind(StrEnum):
    """The type of a parameter or of a field of an answer, as the declaration's JSON spells it."""

    STRING = "String"
    NUMBER = "Number"
    BOOLEAN = "Boolean"
    DATE = "Date"
    """A time as ISO 8601 text. Not for parameters."""
    OBJECT = "Object"
    """Any JSON object. Not for parameters."""


PARAM_KINDS: Final = (Kind.STRING, Kind.NUMBER, Kind.BOOLEAN)


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value of this type, or null."""

    of: Kind


@dataclass(frozen=True, slots=True)
class Fields:
    """An object with these fields, and perhaps more."""

    fields: tuple[tuple[str, Shape], ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A list of whatever length."""

    of: Shape


Shape: TypeAlias = Kind | Maybe | Fields | Items
"""What an answer looks like."""


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter."""

    name: str
    type: Kind
    description: str
    required: bool = True

    def __post_init__(self) -> None:
        _check(is_name(self.name), f"{self.name!r} is no name for a parameter")
        _check(
            self.type in PARAM_KINDS,
            f"parameter {self.name!r}: the type is {_listed(PARAM_KINDS)}, not {self.type}",
        )


@dataclass(frozen=True, slots=True)
class ErrorCase:
    """A way in which a request can go wrong."""

    name: str
    status: int | None
    """The HTTP status; None for what a client finds out by itself."""
    msg: str
    """For people, with ``{placeholders}``."""
    suggestions: tuple[str, ...] = ()
    """What the person who asked can try."""

    def __post_init__(self) -> None:
        _check(is_name(self.name), f"{self.name!r} is no name for an error")
        _check(
            self.status is None or 400 <= self.status <= 599,
            f"error {self.name!r}: the status is from 400 to 599, not {self.status}",
        )


@dataclass(frozen=True, slots=True)
class Request:
    """How an endpoint is asked."""

    method: str
    authorized: bool = False
    """Whether it takes an API key."""
    body: tuple[str, ...] = ()
    """The parameters that travel in the JSON body."""


@dataclass(frozen=True, slots=True)
class Success:
    """The one good outcome."""

    msg: str = "{results}"
    """For people, with ``{placeholders}``; ``{results}`` is the answer."""
    status: int = 200

    def __post_init__(self) -> None:
        _check(200 <= self.status <= 299, f"success: {self.status} is no status of success")


@dataclass(frozen=True, slots=True)
class Response:
    """What an endpoint answers."""

    body: Shape | None = None
    """None where the declaration does not say: any JSON or nothing."""
    errors: tuple[ErrorCase, ...] = ()
    success: Success = field(default_factory=Success)

    def __post_init__(self) -> None:
        _unique((error.name for error in self.errors), "error")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing that can be asked for.

    Raises:
        DeclarationError: It breaks a rule of this module.
    """

    name: str
    path: str
    description: str
    msg: str
    """Shown when the request is sent, with ``{placeholders}``."""
    request: Request
    response: Response
    params: tuple[Param, ...] = ()

    def __post_init__(self) -> None:
        try:
            self._check_names()
            self._check_path()
            self._check_body()
            self._check_texts()
        except DeclarationError as error:
            raise DeclarationError(f"{self.name}: {error}") from None

    @property
    def segments(self) -> tuple[str | Param, ...]:
        """The path between its slashes: literals as text, placeholders as their parameter."""
        return tuple(self._segments())

    @property
    def optional_end(self) -> bool:
        """Whether the path ends with a placeholder that may be left out."""
        last = self.segments[-1]
        return isinstance(last, Param) and not last.required

    @property
    def query(self) -> tuple[Param, ...]:
        """The parameters that travel in the query."""
        elsewhere = {part.name for part in self.segments if isinstance(part, Param)}
        elsewhere.update(self.request.body)
        return tuple(param for param in self.params if param.name not in elsewhere)

    def param(self, name: str) -> Param | None:
        """Return the parameter of that name, if there is one."""
        return next((param for param in self.params if param.name == name), None)

    def error(self, name: str) -> ErrorCase | None:
        """Return this endpoint's own error of that name, if there is one."""
        return next((error for error in self.response.errors if error.name == name), None)

    def _segments(self) -> Iterator[str | Param]:
        for segment in self.path.removeprefix("/").split("/"):
            found = _PLACEHOLDER.fullmatch(segment)
            if found is None:
                _check(
                    _LITERAL.fullmatch(segment) is not None and segment not in {".", ".."},
                    f"path {self.path!r}: {segment!r} is neither plain letters nor one placeholder",
                )
                yield segment
            else:
                param = self.param(found[1])
                if param is None:
                    raise DeclarationError(
                        f"path {self.path!r}: there is no parameter {found[1]!r}"
                    )
                yield param

    def _check_names(self) -> None:
        _check(is_name(self.name), "that is no name for an endpoint")
        names = [param.name for param in self.params]
        _unique((kebab_name(name) for name in names), "parameter")
        for name in names:
            _check(
                kebab_name(name) not in GLOBAL_PARAMS,
                f"parameter {name!r}: every request has one of that name already",
            )

    def _check_path(self) -> None:
        _check(self.path.startswith("/"), f"path {self.path!r}: it starts with a /")
        segments = self.segments
        placeholders = [part for part in segments if isinstance(part, Param)]
        _unique((param.name for param in placeholders), "placeholder")
        _check("" not in segments[:-1], f"path {self.path!r}: a segment is empty")
        for param in placeholders:
            _check(
                param.required or param is segments[-1],
                f"path {self.path!r}: {param.name!r} is optional, and not the end of the path",
            )

    def _check_body(self) -> None:
        method, body = self.request.method, self.request.body
        _check(method in METHODS, f"the method is {_listed(METHODS)}, not {method!r}")
        _check(not body or method not in _BODILESS, f"a {method} request has no body")
        _unique(body, "body field")
        in_path = {part.name for part in self.segments if isinstance(part, Param)}
        for name in body:
            _check(self.param(name) is not None, f"body: there is no parameter {name!r}")
            _check(name not in in_path, f"body: {name!r} is a part of the path already")

    def _check_texts(self) -> None:
        known = {*GLOBAL_PARAMS, *(param.name for param in self.params)}
        _fillable("msg", self.msg, known)
        _fillable("success", self.response.success.msg, known | {"results"})
        for error in self.response.errors:
            _check_error(error, known)


@dataclass(frozen=True, slots=True)
class Group:
    """Endpoints that belong together."""

    name: str
    endpoints: tuple[Endpoint, ...]

    def __post_init__(self) -> None:
        _check(is_name(self.name) and self.name != GLOBAL, f"{self.name!r} is no name for a group")
        _unique(
            (kebab_name(endpoint.name) for endpoint in self.endpoints),
            f"{self.name}: endpoint",
        )

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint of that name.

        Raises:
            KeyError: There is none.
        """
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Protocol:
    """A whole API.

    Raises:
        DeclarationError: It breaks a rule of this module.
    """

    groups: tuple[Group, ...]
    params: tuple[Param, ...] = ()
    """The global ones: what `GLOBAL_PARAMS` names, described."""
    errors: tuple[ErrorCase, ...] = ()
    """Those that every request can have."""

    def __post_init__(self) -> None:
        _unique((kebab_name(group.name) for group in self.groups), "group")
        _unique((param.name for param in self.params), "global parameter")
        for param in self.params:
            _check(
                param.name in GLOBAL_PARAMS,
                f"global parameters are {_listed(GLOBAL_PARAMS)}, not {param.name!r}",
            )
        _unique((error.name for error in self.errors), "global error")
        for error in self.errors:
            _check_error(error, set(GLOBAL_PARAMS))
        self._check_paths()
        self._check_error_names()

    def __iter__(self) -> Iterator[tuple[Group, Endpoint]]:
        """Iterate over all endpoints, each with its group."""
        return ((group, endpoint) for group in self.groups for endpoint in group.endpoints)

    def group(self, name: str) -> Group:
        """Return the group of that name.

        Raises:
            KeyError: There is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def endpoint(self, name: str) -> Endpoint:
        """Return the endpoint ``group.endpoint``.

        Raises:
            KeyError: There is none.
        """
        group, _, endpoint = name.partition(".")
        return self.group(group).endpoint(endpoint)

    def full_name(self, endpoint: Endpoint) -> str:
        """Return ``group.endpoint``.

        Raises:
            KeyError: It is none of ours.
        """
        for group, ours in self:
            if ours is endpoint or ours == endpoint:
                return f"{group.name}.{ours.name}"
        raise KeyError(endpoint.name)

    def _check_paths(self) -> None:
        known: list[tuple[str, Endpoint]] = []
        for group, endpoint in self:
            for name, other in known:
                _check(
                    not _overlap(endpoint, other),
                    f"a {endpoint.request.method} of {endpoint.path} could mean "
                    f"{group.name}.{endpoint.name} or {name}, {other.path}",
                )
            known.append((f"{group.name}.{endpoint.name}", endpoint))

    def _check_error_names(self) -> None:
        names = {error.name for error in self.errors}
        names |= {error.name for _, endpoint in self for error in endpoint.response.errors}
        _unique((class_name(name) for name in sorted(names)), "error")


def placeholders(text: str) -> list[str]:
    """Return the names of what is to be filled in."""
    return _PLACEHOLDER.findall(text)


def filled(text: str, values: Mapping[str, object]) -> str:
    """Return the text with its placeholders filled in; what has no value leaves nothing."""

    def fill_in(found: re.Match[str]) -> str:
        value = values.get(found[1])
        if isinstance(value, bool):  # as it is typed
            return str(value).lower()
        return "" if value is None else str(value)

    return _PLACEHOLDER.sub(fill_in, text)


def _overlap(one: Endpoint, other: Endpoint) -> bool:
    if one.request.method != other.request.method:
        return False
    first, second = one.segments, other.segments
    if len(first) != len(second):
        return False
    return all(_meet(left, right) for left, right in zip(first, second, strict=True))


def _meet(left: str | Param, right: str | Param) -> bool:
    """Return whether one text can fit both segments."""
    if isinstance(left, Param) and isinstance(right, Param):
        return True
    if isinstance(left, Param):
        return right != "" or not left.required
    if isinstance(right, Param):
        return left != "" or not right.required
    return left == right


def _check_error(error: ErrorCase, known: set[str]) -> None:
    for text in (error.msg, *error.suggestions):
        _fillable(f"error {error.name!r}", text, known | {"name", "error"})


def _fillable(where: str, text: str, known: set[str]) -> None:
    for name in placeholders(text):
        _check(name in known, f"{where}: nothing is there to fill in {{{name}}}")


def _unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        _check(name not in seen, f"{what} {name!r} is there twice")
        seen.add(name)


def _listed(names: Iterable[str]) -> str:
    return " or ".join(names)


def _check(good: bool, message: str) -> None:  # noqa: FBT001 - it is an assertion
    if not good:
        raise DeclarationError(message)
