"""The listening socket: it knows its connections, and lets one be taken over."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from binder_core.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_BACKLOG: Final = 1024
_REACHED_AT: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound to here


class Connection(socket.socket):
    """An accepted connection, which can be taken from whoever serves it.

    That one notices nothing: what it sends from then on is dropped, it reads the end, and closes
    but its own handle.
    """

    _taken = False
    _behind = False

    def take(self) -> socket.socket | None:
        """Return the connection; None where bytes still wait to be sent, or it is gone."""
        if self._taken or self._behind or self.fileno() < 0:
            return None
        taken = socket.socket(self.family, self.type, self.proto, fileno=os.dup(self.fileno()))
        taken.setblocking(False)
        self._taken = True
        return taken

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Send, and note whether all of it went."""
        size = memoryview(data).nbytes
        if self._taken:
            return size
        self._behind = True  # unless all of it goes
        sent = super().send(data, flags)
        self._behind = sent < size
        return sent

    def sendmsg(self, buffers: Iterable[ReadableBuffer], /, *arguments: Any) -> int:
        """Send what waited: whether it was all is not known."""
        if self._taken:
            return sum(memoryview(data).nbytes for data in buffers)
        self._behind = True
        return super().sendmsg(buffers, *arguments)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive."""
        return b"" if self._taken else super().recv(size, flags)

    def shutdown(self, how: int, /) -> None:
        """Shut the connection down."""
        if not self._taken:
            super().shutdown(how)


class Listener(socket.socket):
    """A listening socket that knows the connections it accepted.

    A client that is connected and does not read keeps its connection open for ever: closing it
    waits until all is sent. Only the socket itself can be cut off.
    """

    _accepted: weakref.WeakValueDictionary[tuple[str, int], Connection]

    @classmethod
    def bound(cls, host: str, port: int) -> Self:
        """Return one that listens.

        Raises:
            ConfigError: That is not possible there.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            made = cls(family, kind, protocol)
            made._accepted = weakref.WeakValueDictionary()
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(address)
                # Whoever connects from now on is served, if only in a moment.
                made.listen(_BACKLOG)
                made.setblocking(False)
            except OSError:
                made.close()
                raise
        except OSError as error:
            raise ConfigError(
                f"server.host, server.port: cannot listen on {host}:{port}: "
                f"{error.strerror or error}"
            ) from error
        return made

    @property
    def url(self) -> str:
        """Return where it listens, as a client on this machine sees it, without a last ``/``."""
        host, port = self.getsockname()[:2]
        reached = _REACHED_AT.get(host, host)
        return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and remember it."""
        accepted, address = super().accept()
        connection = Connection(
            accepted.family, accepted.type, accepted.proto, fileno=accepted.detach()
        )
        self._accepted[address[0], address[1]] = connection
        return connection, address

    def connection(self, client: tuple[str, int]) -> Connection | None:
        """Return the connection of a client, if it is one of these."""
        return self._accepted.get(client)

    def cut(self) -> None:
        """Cut all connections off."""
        for connection in list(self._accepted.values()):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
