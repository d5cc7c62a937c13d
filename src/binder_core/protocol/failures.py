"""Declared errors as exceptions, each a class named after the declaration's.

``badDatabase`` is `BadDatabase` wherever it is declared, so that one ``except`` serves all
endpoints. The texts come from the declaration or from the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from binder_core.errors import BinderError
from binder_core.protocol.declaration import Endpoint, ErrorCase, Protocol, filled
from binder_core.protocol.names import class_name

UNAUTHORIZED: Final = "unauthorized"
MALFORMED: Final = "malformedRequest"
BAD_RESPONSE: Final = "badResponse"
TIMEOUT: Final = "timeout"
REFUSED: Final = "refused"
GENERIC: Final = "generic"

FALLBACKS: Final = (
    ErrorCase(UNAUTHORIZED, 403, "The API key is missing or wrong"),
    ErrorCase(MALFORMED, 422, "The request {name} is malformed"),
    ErrorCase(BAD_RESPONSE, 500, "The answer to {name} is not what was declared"),
    ErrorCase(TIMEOUT, None, "{host}:{port} did not answer in time"),
    ErrorCase(REFUSED, None, "No server takes connections at {host}:{port}"),
    ErrorCase(GENERIC, None, "The request failed: {error}"),
)
"""What every client can meet, for declarations without global errors of these names."""


NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


class Failure(BinderError):
    """A declared error that happened. The class of each is made by `failure_class`.

    Args:
        message: What went wrong.
        name: As declared: ``noDatabase``.
        status: The HTTP status; None for what a client finds out by itself.
        suggestions: What the person who asked can try.
        endpoint: What was asked for: ``build.start``.
    """

    def __init__(
        self,
        message: str,
        *,
        name: str,
        status: int | None = None,
        suggestions: tuple[str, ...] = (),
        endpoint: str = "",
    ) -> None:
        super().__init__(message, status=status)
        self.name = name
        self.suggestions = suggestions
        self.endpoint = endpoint

    def body(self) -> dict[str, str]:
        """Return what a server answers: ``{"type": <name>, "error": <message>}``."""
        return {"type": self.name, "error": self.message}


@cache
def failure_class(name: str) -> type[Failure]:
    """Return the class of the errors of that name, always the same one.

    Args:
        name: As declared: ``noDatabase`` gives ``NoDatabase``.
    """
    return type(class_name(name), (Failure,), {"__doc__": f"The declared error ``{name}``."})


def declared(protocol: Protocol, endpoint: Endpoint | None, name: str) -> ErrorCase | None:
    """Return the error of that name which counts for an endpoint, if there is one.

    That is the endpoint's own, else the global one, else that of `FALLBACKS`.
    """
    own = endpoint.response.errors if endpoint is not None else ()
    known = (*own, *protocol.errors, *FALLBACKS)
    return next((error for error in known if error.name == name), None)


def failure(
    protocol: Protocol,
    endpoint: Endpoint | None,
    name: str,
    values: Mapping[str, object] = NOTHING,
    *,
    detail: str = "",
    message: str | None = None,
) -> Failure:
    """Return the exception for a declared error.

    Args:
        protocol: Where it is declared.
        endpoint: What was asked for; None where that is unknown.
        name: As declared.
        values: For the placeholders of message and suggestions; ``name`` need not be among them.
        detail: What exactly is wrong, added to the declared message.
        message: What a server said, instead of the declared message.

    Raises:
        KeyError: There is no such error.
    """
    case = declared(protocol, endpoint, name)
    if case is None:
        raise KeyError(name)
    asked = protocol.full_name(endpoint) if endpoint is not None else ""
    given = {"name": asked, **values}
    text = filled(case.msg, given) if message is None else message
    return failure_class(name)(
        f"{text}: {detail}" if detail else text,
        name=name,
        status=case.status,
        suggestions=tuple(filled(each, given) for each in case.suggestions),
        endpoint=asked,
    )
