"""Event streams that have left hypercorn: a transport, and one task that writes to it.

For an answer under way hypercorn keeps three tasks, h11's state, a queue and the stream reader:
18 KiB, and 30 to 40 µs of every write. A stream needs none of it once its head is sent: what is
left of HTTP is to write chunks, and to hear that the client has left. `Handover` takes it over by
what asyncio has for this, `Transport.set_protocol`, as WebSockets and TLS do.

It finds the transport behind hypercorn's `send`; where that is not the one it knows (another
server, another version, HTTP/2, a middleware in between), it takes nothing, and the stream goes on
as any answer does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextvars import Context
from typing import Any, Final, cast

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ASGISendCallable, HTTPScope

from binder_http import accesslog

log = logging.getLogger("binder.http")

_END: Final = b"0\r\n\r\n"
_UNASKED: Final = 64 * 2**10
"""Bytes that a client may send behind its request, and nobody reads."""
_SHARED: Final = 4
"""How many pieces are held as chunks for others who are written the same."""
_SMALL: Final = 2**10
"""Bytes: making it again costs less than looking it up."""


class Handover:
    """Takes event streams over from hypercorn, and knows which have not ended.

    Args:
        logged: Whether each is logged when it has ended, as `accesslog.Logger` does of others.
    """

    def __init__(self, *, logged: bool = False) -> None:
        self._logged = logged
        self._open: set[_Stream] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        # Watchers are woken together and mostly get the very same bytes.
        self._chunks: deque[tuple[bytes, bytes]] = deque(maxlen=_SHARED)

    @property
    def open(self) -> int:
        """Return how many streams have not ended, or are not written to their end."""
        return len(self._open)

    async def ended(self) -> None:
        """Return when all streams have ended."""
        await self._none_open.wait()

    def take(
        self, scope: HTTPScope, send: ASGISendCallable, body: AsyncGenerator[bytes], status: int
    ) -> bool:
        """Go on with a stream whose head was sent; return whether that is possible.

        If so, whoever was asked for the stream is done with it, and so is hypercorn.

        Args:
            scope: Of the request.
            send: What the head was sent with.
            body: What to write, each piece at once.
            status: Of the answer, for the log.
        """
        server = _server(send)
        if server is None or scope["http_version"] != "1.1":
            return False
        transport = cast(asyncio.Transport, server.writer.transport)
        if transport.is_closing() or server.reader.at_eof():
            return False
        entry = accesslog.Entry.of(scope, status) if self._logged else None
        stream = _Stream(self, transport, entry)
        self._open.add(stream)
        self._none_open.clear()
        transport.set_protocol(stream)
        transport.resume_reading()
        # As if the client had left: hypercorn ends all that it keeps of the connection.
        server.writer._transport = _GONE  # type: ignore[attr-defined] # noqa: SLF001 - see there
        if cast(object, server.writer.transport) is not _GONE:
            stream.kept = server.writer
        server.writer = _GONE  # type: ignore[assignment] # all that is called of one
        server.reader.feed_eof()
        scope["extensions"][accesslog.ELSEWHERE] = {}
        # Not in this task's context: it holds the request.
        stream.task = asyncio.create_task(self._write(stream, body), context=Context())
        return True

    async def _write(self, stream: _Stream, body: AsyncGenerator[bytes]) -> None:
        """Write a stream to its end, or until the client leaves."""
        try:
            async for piece in body:
                stream.transport.write(self._chunk(piece))
                if stream.full is not None:
                    await stream.full.wait()
            stream.transport.write(_END)
        except Exception:
            # Cut off, so that the client comes again.
            log.exception("an event stream broke")
            stream.transport.abort()
        finally:
            stream.transport.close()
            await body.aclose()

    def _chunk(self, piece: bytes) -> bytes:
        if len(piece) < _SMALL:
            return b"%x\r\n%b\r\n" % (len(piece), piece)
        for made_of, chunk in self._chunks:
            if made_of is piece:
                return chunk
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
        self._chunks.append((piece, chunk))
        return chunk

    def _lost(self, stream: _Stream) -> None:
        self._open.discard(stream)
        if not self._open:
            self._none_open.set()
            self._chunks.clear()


class _Stream(asyncio.Protocol):
    """The rest of a connection: one stream, and nothing after it.

    Args:
        handover: Knows of it until the connection is gone.
        transport: What to write to.
        entry: For the log.
    """

    __slots__ = ("_began", "_entry", "_handover", "_unasked", "full", "kept", "task", "transport")

    def __init__(
        self, handover: Handover, transport: asyncio.Transport, entry: accesslog.Entry | None
    ) -> None:
        self.transport = transport
        self.task: asyncio.Task[None]
        self.full: asyncio.Event | None = None
        """Set when there is room again; None where there is."""
        self.kept: object = None
        """What must not be forgotten before the connection is gone."""
        self._handover = handover
        self._entry = entry
        self._began = time.monotonic()
        self._unasked = 0

    def data_received(self, data: bytes) -> None:
        """Hear what nobody asked for: there is no second request behind a stream."""
        self._unasked += len(data)
        if self._unasked > _UNASKED:
            # That it leaves shows when it is written to.
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """Hear that the client is slow."""
        self.full = asyncio.Event()

    def resume_writing(self) -> None:
        """Hear that it has read."""
        full, self.full = self.full, None
        if full is not None:
            full.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - either way
        """Hear that the connection is gone."""
        self.task.cancel()
        self._handover._lost(self)  # noqa: SLF001 - one thing in two parts
        if self._entry is not None:
            self._entry.log(time.monotonic() - self._began)


class _Gone:
    """A connection that hypercorn has let go of: its writer, and what that writes to.

    A `StreamWriter` that is forgotten closes its transport, unless that closes already. So it is
    given another one, or kept where it takes no other.
    """

    def is_closing(self) -> bool:
        """Return that nothing is left to close."""
        return True

    def write(self, data: bytes) -> None:
        """Write nothing."""

    def write_eof(self) -> None:
        """End nothing."""

    def close(self) -> None:
        """Close nothing."""

    async def drain(self) -> None:
        """Return at once."""

    async def wait_closed(self) -> None:
        """Return at once."""


_GONE: Final = _Gone()


def _server(send: Any) -> TCPServer | None:
    """Return what hypercorn has of the connection behind an app's `send`, if that is its own."""
    for part in (HTTPStream, H11Protocol):
        owner = getattr(send, "__self__", None)
        if not isinstance(owner, part):
            return None
        send = getattr(owner, "send", None)
    owner = getattr(send, "__self__", None)
    return owner if isinstance(owner, TCPServer) else None
