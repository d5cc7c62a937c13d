"""The load: clients that read event streams, and what they saw."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Final
from urllib.parse import quote

from benchmarks.processes import Server

COMMIT: Final = "a" * 40
"""A commit is itself: nobody has to be asked."""

ENDS: Final = (b'"phase":"ready"', b'"phase":"failed"')
SETTLED: Final = 0.15
"""Seconds after which all who connected are parked, and the feeder is ready."""

_TAIL: Final = 2000
_LINE: Final = re.compile(rb"line (\d+) at (\d+) ")
_LEFT_OUT: Final = re.compile("… (\\d+) lines? left out …".encode())


def path_of(serial: str, lines: int, rate: float = 0.0, which: int = 0) -> str:
    """Return the path that watches a build of the feeder, see `benchmarks.feeder`."""
    repo = quote(f"https://bench.example/{serial}/{lines}/{rate:g}/{which}", safe="")
    return f"/build/git/{repo}/{COMMIT}?build_only=true"


class Watcher(asyncio.Protocol):
    """A client of one stream: keeps what came and when, and looks at it afterwards.

    Args:
        path: What it asks for.
        ends: One of these is in the last event.
    """

    def __init__(self, path: str, ends: tuple[bytes, ...] = ENDS) -> None:
        self._ends = ends
        loop = asyncio.get_running_loop()
        self.pieces: list[tuple[int, bytes]] = []
        self.begun: asyncio.Future[None] = loop.create_future()
        """Done when the first event is there."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when the last event is there, or the connection is gone."""
        self.transport: asyncio.Transport
        self._tail = b""
        self._request = (
            f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n"
        ).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic_ns(), data))
        self._tail = (self._tail + data)[-_TAIL:] if len(data) < _TAIL else data[-_TAIL:]
        if not self.begun.done() and b"data: " in self._tail:
            self.begun.set_result(None)
        if not self.ended.done() and any(end in self._tail for end in self._ends):
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.begun, self.ended):
            if not future.done():
                future.set_result(None)

    @property
    def last_at(self) -> int:
        """Return when the last piece came, in nanoseconds."""
        return self.pieces[-1][0]

    def body(self) -> bytes:
        """Return the body of the answer."""
        head, _, body = b"".join(data for _, data in self.pieces).partition(b"\r\n\r\n")
        return _unchunked(body) if b"chunked" in head.lower() else body

    def lines(self) -> list[int]:
        """Return the numbers of the lines that came, in this order."""
        return [int(n) for n, _ in _LINE.findall(self.body())]

    def left_out(self) -> int:
        """Return how many lines it was told were left out."""
        return sum(int(n) for n in _LEFT_OUT.findall(self.body()))

    def delays(self) -> list[float]:
        """Return the seconds from each line's making to its coming here."""
        # A line that is in two pieces came with the second one.
        found, rest = [], b""
        for now, data in self.pieces:
            text = rest + data
            end = 0
            for match in _LINE.finditer(text):
                found.append((now - int(match[2])) / 1e9)
                end = match.end()
            rest = text[max(end, len(text) - 200) :]
        return found


def _unchunked(body: bytes) -> bytes:
    parts, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:end], 16)
        if not size:
            break
        parts.append(body[end + 2 : end + 2 + size])
        at = end + size + 4
    return b"".join(parts)


async def watch(
    server: Server,
    paths: Iterable[str],
    *,
    at_once: int = 50,
    ends: tuple[bytes, ...] = ENDS,
) -> list[Watcher]:
    """Return watchers of these paths, once each of them has got its first event.

    Args:
        server: Whom to ask.
        paths: For what.
        at_once: How many connect at a time.
        ends: What is in the last event.
    """
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(at_once)

    async def one(path: str) -> Watcher:
        async with room:
            watcher = Watcher(path, ends)
            await loop.create_connection(lambda: watcher, "127.0.0.1", server.port)
            await watcher.begun
            return watcher

    return list(await asyncio.gather(*(one(path) for path in paths)))


async def all_ended(watchers: Iterable[Watcher], within: float) -> None:
    """Return when each has got its last event.

    Raises:
        TimeoutError: One of them has not.
    """
    async with asyncio.timeout(within):
        for watcher in watchers:
            await watcher.ended


async def closed(watchers: Iterable[Watcher]) -> None:
    """Close all, and let the server notice."""
    for watcher in watchers:
        watcher.transport.abort()
    await asyncio.sleep(0.2)


def wrong(watchers: Iterable[Watcher], lines: int) -> int:
    """Return how many lines were lost, came again or came out of order."""
    expected = list(range(1, lines + 1))
    return sum(_wrong(watcher.lines(), expected) for watcher in watchers)


def _wrong(came: list[int], expected: list[int]) -> int:
    if came == expected:
        return 0
    missing = len(set(expected) - set(came))
    again = len(came) - len(set(came))
    disorder = sum(b < a for a, b in pairwise(came))
    return max(1, missing + again + disorder)
