"""The types of the older protocol's clients, made from its declaration.

The clients themselves get their functions at run time; tools that read code see this instead::

    python -m binder_http.protocol_stub > src/binder_http/protocol_client.pyi
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from binder_core.protocol import (
    BINDER,
    Endpoint,
    Fields,
    Group,
    Items,
    Kind,
    Maybe,
    Protocol,
    Shape,
    class_name,
    python_name,
)
from binder_http.protocol_calls import error_names

_HEAD: Final = """\
# Made by binder_http.protocol_stub from the declaration; a test compares. Do not edit.
# ruff: noqa: A002, UP013 - the names are the declaration's
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypedDict

import httpx

from binder_core.protocol import Failure, Protocol
from binder_http.protocol_calls import BlockingProtocolClient, Errors, ProtocolClient

__all__ = [
{names}
]

def load(path: str | os.PathLike[str]) -> Protocol: ...
"""

_NAMES: Final = ("BlockingClient", "BlockingProtocolClient", "Client", "Failure", "ProtocolClient")

_CLIENT: Final = """\
class {name}:
    protocol: Protocol
    errors: Errors
{groups}
    def __init__(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        timeout: float = ...,
        http: httpx.{http} | None = None,
    ) -> None: ...
    def function(self, name: str) -> Callable[..., Any]: ...
    {word}def __{a}enter__(self) -> Self: ...
    {word}def __{a}exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    {word}def {a}close(self) -> None: ...
"""

_TYPES: Final = {
    Kind.STRING: "str",
    Kind.NUMBER: "float",
    Kind.BOOLEAN: "bool",
    Kind.DATE: "str",
    Kind.OBJECT: "dict[str, Any]",
}


def stub(protocol: Protocol) -> str:
    """Return the stub of `binder_http.protocol_client` for a declaration."""
    results: dict[str, str] = {}
    groups = [
        "\n".join(_group(group, results, blocking=blocking)) + "\n"
        for group in protocol.groups
        for blocking in (False, True)
    ]
    typed = [f'{name} = TypedDict(\n    "{name}",\n{fields})\n' for fields, name in results.items()]
    errors = [f"class {class_name(name)}(Failure): ..." for name in error_names(protocol)]
    clients = [
        _CLIENT.format(
            name="BlockingClient" if blocking else "Client",
            groups="\n".join(
                f"    {python_name(group.name)}: {_class(group, blocking=blocking)}"
                for group in protocol.groups
            ),
            http="Client" if blocking else "AsyncClient",
            word="" if blocking else "async ",
            a="" if blocking else "a",
        )
        for blocking in (False, True)
    ]
    names = sorted([*_NAMES, "load", *(class_name(name) for name in error_names(protocol))])
    head = _HEAD.format(names="\n".join(f'    "{name}",' for name in names))
    return "\n".join([head, "\n".join(errors) + "\n", *typed, *groups, *clients])


def _class(group: Group, *, blocking: bool) -> str:
    return f"_{class_name(group.name)}{'Blocking' if blocking else ''}Calls"


def _group(group: Group, results: dict[str, str], *, blocking: bool) -> Iterator[str]:
    yield f"class {_class(group, blocking=blocking)}:"
    for endpoint in group.endpoints:
        name = "_" + class_name(group.name) + class_name(endpoint.name.removeprefix("_"))
        result = _type(endpoint.response.body, results, name)
        yield f"    {'' if blocking else 'async '}def {python_name(endpoint.name)}("
        yield "        self,"
        yield "        *,"
        yield from _parameters(endpoint)
        yield "        host: str | None = None,"
        yield "        port: int | None = None,"
        yield "        api_key: str | None = None,"
        yield f"    ) -> {result}: ..."


def _parameters(endpoint: Endpoint) -> Iterator[str]:
    for param in endpoint.params:
        kind = _TYPES[param.type]
        kind += "" if param.required else " | None = None"
        yield f"        {python_name(param.name)}: {kind},"


def _type(shape: Shape | None, results: dict[str, str], name: str) -> str:
    """Return the type of a result; an object's is added to `results`, by its fields.

    Args:
        shape: The result's.
        results: The names of such types, by their text.
        name: What to call the type if it is a new one.
    """
    match shape:
        case None:
            return "Any"
        case Kind():
            return _TYPES[shape]
        case Maybe(kind):
            return f"{_TYPES[kind]} | None"
        case Items(of):
            return f"list[{_type(of, results, name)}]"
        case Fields(fields):
            inner = "".join(
                f'        "{field}": {_type(each, results, name + class_name(field))},\n'
                for field, each in fields
            )
            return results.setdefault(f"    {{\n{inner}    }},\n", name)


if __name__ == "__main__":
    sys.stdout.write(stub(BINDER))
