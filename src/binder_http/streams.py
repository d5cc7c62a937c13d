"""Event streams, taken out of the hands of Quart and hypercorn once their heads are sent.

What a stream needs then is a socket and a task that waits. For an answer under way Quart and
hypercorn keep 28 KiB of tasks, queues and parsers, and pass each write through a dozen calls. So
the body is written by a task of ours, and both of them believe that the answer has ended.

This needs plain HTTP/1.1 and a connection of our own `Listener`. Everywhere else (HTTP/2, another
server, somebody else's app) a stream is an ordinary answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from contextvars import Context
from typing import TYPE_CHECKING

from quart import Response
from quart.asgi import ASGIHTTPConnection
from quart.utils import encode_headers

from binder_http.listening import Connection

if TYPE_CHECKING:
    from hypercorn.typing import ASGISendCallable
    from quart.typing import ResponseTypes

_LAST_CHUNK = b"0\r\n\r\n"


class EventStream(Response):
    """An answer that goes on.

    Args:
        pieces: What to write, each piece at once.
        headers: Of the answer.
    """

    def __init__(self, pieces: AsyncGenerator[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(pieces, headers=dict(headers))
        self.pieces = pieces
        # Else Quart cuts every stream after RESPONSE_TIMEOUT.
        self.timeout = None


class Streams:
    """The streams that were taken over: each a socket and a task, which ends with its client.

    Args:
        connection: Finds the connection of a client.
    """

    def __init__(self, connection: Callable[[tuple[str, int]], Connection | None]) -> None:
        self._connection = connection
        self._open: dict[asyncio.Task[None], asyncio.Transport | None] = {}
        self._chunk = (b"", b"")

    def take(self, client: tuple[str, int] | None, pieces: AsyncGenerator[bytes]) -> bool:
        """Write `pieces` to that client's connection from now on; return whether this is possible.

        Args:
            client: Its address.
            pieces: What to write. Closed at the end, where this is possible.
        """
        connection = self._connection(client) if client else None
        taken = connection.take() if connection is not None else None
        if taken is None:
            return False
        # In this context are the request and all that Quart made for it.
        task = asyncio.create_task(self._write(taken, pieces), context=Context())
        self._open[task] = None
        task.add_done_callback(self._done)
        return True

    def cut(self) -> None:
        """Cut all connections off."""
        for transport in self._open.values():
            if transport is not None:
                transport.abort()

    async def ended(self) -> None:
        """Return when there is none left."""
        while self._open:
            await asyncio.wait(self._open)

    async def _write(self, connection: socket.socket, pieces: AsyncGenerator[bytes]) -> None:
        loop = asyncio.get_running_loop()
        transport, writer = await loop.connect_accepted_socket(_Writer, connection)
        task = asyncio.current_task()
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - that is what TCP has
        assert task is not None  # noqa: S101 - it is this one
        self._open[task], writer.task = transport, task
        if transport.is_closing():  # the client left meanwhile
            return
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    transport.write(self._chunked(piece))
                    if writer.full is not None:
                        await writer.full
            transport.write(_LAST_CHUNK)
        finally:
            transport.close()

    def _chunked(self, piece: bytes) -> bytes:
        # Who watch the same build are woken together and get the very same piece.
        if self._chunk[0] is not piece:
            self._chunk = (piece, b"%x\r\n%b\r\n" % (len(piece), piece))
        return self._chunk[1]

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "a stream broke", "exception": error})


class _Writer(asyncio.Protocol):
    """One connection: says when there is room, and ends the task when the client leaves."""

    __slots__ = ("full", "task")

    def __init__(self) -> None:
        self.full: asyncio.Future[None] | None = None
        """Done when there is room again; None while there is."""
        self.task: asyncio.Task[None] | None = None
        """Who writes."""

    def pause_writing(self) -> None:
        """Let the task wait: the client is slow."""
        self.full = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let the task go on."""
        full, self.full = self.full, None
        if full is not None and not full.done():
            full.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the task, wherever it waits."""
        del exc
        if self.task is not None:
            self.task.cancel()


def http_connection(streams: Streams) -> type[ASGIHTTPConnection]:
    """Return what makes a Quart app (``asgi_http_class``) let go of its streams."""

    class TakenOver(ASGIHTTPConnection):
        async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
            if not isinstance(response, EventStream) or self.scope["http_version"] != "1.1":
                await super()._send_response(send, response)
                return
            # hypercorn shall close its end at once, not wait for another request.
            response.headers["connection"] = "close"
            headers = encode_headers(response.headers)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if not streams.take(self.scope["client"], response.pieces):
                async with aclosing(response.pieces) as pieces:
                    async for piece in pieces:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return TakenOver
