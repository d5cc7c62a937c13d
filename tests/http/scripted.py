"""A server on a real socket that does what a test tells it to, good manners or not."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@dataclass
class Asked:
    """A request as it came."""

    target: str
    headers: dict[str, str]


@dataclass
class Reply:
    """What to send, and what to do then."""

    data: bytes
    then: str = "close"
    """``close``, ``reset``, or ``hang`` until the client goes."""
    size: int = 0
    """Send in pieces of so many bytes; 0: at once."""


Script: TypeAlias = Callable[[Asked, int], Reply]
"""Takes the request and how many came before it."""


@dataclass
class Scripted:
    """A running one."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a client left a reply that hangs."""


@contextmanager
def scripted(script: Script) -> Iterator[Scripted]:
    """Run a server until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        running = Scripted(f"http://127.0.0.1:{listener.getsockname()[1]}")
        connections: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                thread = threading.Thread(target=serve, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                asked = _read(connection)
                running.asked.append(asked)
                reply = script(asked, len(running.asked) - 1)
                size = reply.size or len(reply.data) or 1
                for at in range(0, len(reply.data), size):
                    connection.sendall(reply.data[at : at + size])
                if reply.then == "hang" and not connection.recv(1):
                    running.left.set()
                if reply.then == "reset":
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield running
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(5)
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)


def _read(connection: socket.socket) -> Asked:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionResetError
        head += piece
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return Asked(first.split()[1], {name.lower(): value.strip() for name, _, value in pairs})


def frame(data: str, event_id: str = "") -> bytes:
    """Return a frame of an event stream."""
    return (f"id: {event_id}\n" if event_id else "").encode() + f"data: {data}\n\n".encode()


def resuming(frames: list[tuple[str, bytes]], after: str) -> bytes:
    """Return what a server sends to a client that reconnects with the id `after`."""
    start = next((at + 1 for at, (name, _) in enumerate(frames) if name and name == after), 0)
    return b"".join(data for _, data in frames[start:])
