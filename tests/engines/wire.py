"""A wire between a client and a server: it can be slow, silent or cut."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024


class Wire:
    """Forwards TCP connections; a context that starts and stops it.

    Args:
        to: Host and port of the server, ``127.0.0.1:5000``, or the path of its socket.
        host: Where it listens itself, on a free port.
        delay: Seconds that each piece of data takes on its way to the server.
    """

    def __init__(self, to: str, *, host: str = "127.0.0.1", delay: float = 0.0) -> None:
        self.delay = delay
        name, _, port = to.rpartition(":")
        self._to = to if to.startswith("/") else (name, int(port))
        self._listener = socket.create_server((host, 0))
        self._listener.settimeout(0.1)
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        """Where clients reach the server over it."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._whole = True
        self._silent = False
        self._mended = threading.Event()
        self._mended.set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._mended.set()
        self._thread.join(timeout=30)
        self.cut()
        self._listener.close()

    def cut(self, *, silent: bool = False) -> None:
        """Cut the wire until `mend`.

        Args:
            silent: As if a plug was pulled on the way: nothing comes through, and nobody is told.
                Connections that are open, or opened meanwhile, stay so, and what was sent on them
                arrives when the plug is in again. Else they are reset, as by a server that ends.
        """
        with self._lock:
            self._whole, self._silent = False, silent
            if silent:
                self._mended.clear()
                return
            for each in self._open:
                _reset(each)

    def mend(self) -> None:
        """Make it whole again."""
        with self._lock:
            self._whole = True
            self._mended.set()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        family = socket.AF_UNIX if isinstance(self._to, str) else socket.AF_INET
        with client, socket.socket(family) as server:
            with self._lock:
                if not self._whole and not self._silent:
                    _reset(client)
                    return
                self._open |= {client, server}
            try:
                with suppress(OSError):
                    client.settimeout(None)
                    self._mended.wait()
                    server.connect(self._to)
                    self._forward(client, server)
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        # Each direction ends by itself: a request's end is not its reply's.
        other = {client: server, server: client}
        reading = [client, server]
        while reading:
            for each in select.select(reading, [], [])[0]:
                data = each.recv(_CHUNK)
                self._mended.wait()
                if data:
                    if each is client and self.delay:
                        time.sleep(self.delay)
                    other[each].sendall(data)
                else:
                    reading.remove(each)
                    other[each].shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
