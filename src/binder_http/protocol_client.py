"""Clients of the older Binder protocol, made from its declaration.

::

    with BlockingClient(host="localhost", port=8585, api_key=key) as client:
        client.build.start(repository="https://github.com/binder-examples/requirements")

    async with Client() as client:
        await client.build.status(host="localhost", port=8585, image_name=name)

Each function takes its parameters by name, and ``host``, ``port`` and ``api_key``, which the client
can be told once. A declared error is the exception of that name, `NoDatabase` for ``noDatabase``,
all of them `Failure`, with ``suggestions``.

For an API that somebody else declared there are `load` and `ProtocolClient`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx

from binder_core.protocol import BINDER, Failure, Protocol, class_name, failure_class, loads
from binder_http.protocol_calls import (
    DEFAULT_TIMEOUT,
    BlockingProtocolClient,
    ProtocolClient,
    error_names,
)

_ERRORS = {class_name(name): failure_class(name) for name in error_names(BINDER)}

__all__ = [  # noqa: PLE0604 - names, as the stub shows
    "BlockingClient",
    "BlockingProtocolClient",
    "Client",
    "Failure",
    "ProtocolClient",
    "load",
    *_ERRORS,
]


class Client(ProtocolClient):
    """Asks a server of the older Binder protocol; see `ProtocolClient` for the arguments."""

    def __init__(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(BINDER, host=host, port=port, api_key=api_key, timeout=timeout, http=http)


class BlockingClient(BlockingProtocolClient):
    """`Client` for code without an event loop: same arguments, results and errors."""

    def __init__(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        http: httpx.Client | None = None,
    ) -> None:
        super().__init__(BINDER, host=host, port=port, api_key=api_key, timeout=timeout, http=http)


def load(path: str | os.PathLike[str]) -> Protocol:
    """Return the declaration that a JSON file holds.

    Raises:
        DeclarationError: It is none, or contradicts itself; the message names the place.
        OSError: The file cannot be read.
    """
    return loads(Path(path).read_bytes())


def __getattr__(name: str) -> Any:
    """Return a declared error."""
    if name in _ERRORS:
        return _ERRORS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
