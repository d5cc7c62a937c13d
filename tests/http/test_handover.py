"""Streams that have left hypercorn, on real sockets: every way in which one can go on and end."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import httpx
import pytest
from hypercorn import Config
from hypercorn.asyncio import serve
from quart import Quart
from serving import SPEC, conf, until

from binder_http.accesslog import Logger
from binder_http.connection import Connection, EventStream
from binder_http.handover import Handover
from binder_http.server import running
from engines.certificates import Authority

pytestmark = pytest.mark.anyio

WIDE = 4_000_000
"""Bytes: more than the buffers of two sockets hold."""


@dataclass
class Served:
    """A server whose streams say what they are told to."""

    handover: Handover
    port: int = 0
    told: list[bytes | Exception | None] = field(default_factory=list)
    """What each stream says, one after the other; None is its end."""
    more: asyncio.Event = field(default_factory=asyncio.Event)
    said: int = 0
    closed: int = 0

    def say(self, *pieces: bytes | Exception | None) -> None:
        """Let each stream say more."""
        self.told += pieces
        more, self.more = self.more, asyncio.Event()
        more.set()

    async def stream(self) -> AsyncGenerator[bytes]:
        at = 0
        try:
            yield b"first"
            while True:
                while at == len(self.told):
                    await self.more.wait()
                piece = self.told[at]
                if piece is None:
                    return
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                at += 1
                self.said += 1
        finally:
            self.closed += 1

    async def raw(
        self, *, version: str = "1.1", path: str = "/stream", more: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask, and return both ends of the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/{version}\r\nhost: x\r\n\r\n".encode() + more)
        return reader, writer


@asynccontextmanager
async def served(
    *, tls: Path | None = None, take: bool = True, logged: bool = False
) -> AsyncGenerator[Served]:
    handover = Handover(logged=logged)
    one = Served(handover)
    app = Quart(__name__)
    made = partial(Connection, handover=handover if take else None)
    app.asgi_http_class = made  # type: ignore[assignment] # makes one

    @app.get("/stream")
    async def stream() -> EventStream:
        return EventStream(one.stream(), {"content-type": "text/event-stream"})

    @app.get("/page")
    async def page() -> str:
        return "page"

    stop = asyncio.Event()
    config = Config()
    config.errorlog = logging.getLogger("binder.hypercorn")
    if logged:
        config.logger_class = Logger
    if tls is not None:
        config.certfile, config.keyfile = str(tls / "cert.pem"), str(tls / "key.pem")
    with anyio.fail_after(20):
        ports = asyncio.Queue[int]()
        config.bind = ["127.0.0.1:0"]
        make_sockets = config.create_sockets

        def create_sockets() -> object:
            sockets = make_sockets()
            bound = sockets.secure_sockets or sockets.insecure_sockets
            ports.put_nowait(bound[0].getsockname()[1])
            return sockets

        config.create_sockets = create_sockets  # type: ignore[assignment] # tells the port
        serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
        one.port = await ports.get()
        try:
            yield one
        finally:
            stop.set()
            await serving
            await handover.ended()
    assert handover.open == 0


async def head(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode().lower()


async def chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    data = await reader.readexactly(size + 2)
    assert data.endswith(b"\r\n")
    return data[:-2]


def connections_of_hypercorn() -> int:
    """Return how many connections hypercorn has a task for."""
    return sum("_server_callback" in repr(task) for task in asyncio.all_tasks())


async def test_a_stream_is_chunks_to_its_end_and_then_nothing() -> None:
    async with served() as one:
        reader, writer = await one.raw()
        told = await head(reader)
        assert "transfer-encoding: chunked" in told
        assert "connection: close" in told
        assert await chunk(reader) == b"first"
        assert one.handover.open == 1
        await until(lambda: connections_of_hypercorn() == 0)
        for piece in (b"second", b"x" * 5000):
            one.say(piece)
            assert await chunk(reader) == piece
        one.say(None)
        assert await chunk(reader) == b""
        assert await reader.read() == b""
        assert one.closed == 1
        writer.close()


async def test_nothing_of_hypercorns_closes_it_when_it_is_forgotten() -> None:
    async with served() as one:
        reader, writer = await one.raw()
        await head(reader)
        assert await chunk(reader) == b"first"
        await until(lambda: connections_of_hypercorn() == 0)
        gc.collect()
        one.say(b"second")
        assert await chunk(reader) == b"second"
        writer.close()


async def test_a_client_of_others_reads_it() -> None:
    async with served() as one, httpx.AsyncClient() as client:
        one.say(b" second", b" " + b"x" * 5000, None)
        answer = await client.get(f"http://127.0.0.1:{one.port}/stream")
        assert answer.content == b"first second " + b"x" * 5000
        # Its connection is not used again, others are.
        for _ in range(2):
            assert (await client.get(f"http://127.0.0.1:{one.port}/page")).text == "page"


async def test_many_are_written_the_same_chunk() -> None:
    async with served() as one:
        piece = b"x" * 5000
        read = [await one.raw() for _ in range(5)]
        for reader, _ in read:
            await head(reader)
            assert await chunk(reader) == b"first"
        one.say(piece)
        for reader, _ in read:
            assert await chunk(reader) == piece
        assert one.handover._chunk(piece) is one.handover._chunk(piece)
        assert len(one.handover._chunks) == 1
        for _, writer in read:
            writer.close()


async def test_a_client_that_leaves_while_nothing_is_told() -> None:
    async with served() as one:
        reader, writer = await one.raw()
        await head(reader)
        writer.transport.abort()
        await until(lambda: one.closed == 1 and one.handover.open == 0)


async def test_a_client_that_says_that_it_sends_no_more_has_left() -> None:
    # So it is with hypercorn, whose tasks end with what they read.
    async with served() as one:
        reader, writer = await one.raw()
        assert await head(reader)
        assert await chunk(reader) == b"first"
        writer.write_eof()
        await until(lambda: one.closed == 1)
        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_leaves_at_once() -> None:
    async with served() as one:
        for _ in range(20):
            _, writer = await one.raw()
            writer.transport.abort()
        await until(lambda: one.handover.open == 0 and connections_of_hypercorn() == 0)


async def test_a_client_that_does_not_read_holds_its_stream() -> None:
    async with served() as one:
        reader, writer = await one.raw()
        await head(reader)
        transport = cast(asyncio.Transport, writer.transport)
        transport.pause_reading()
        piece = b"x" * 100_000
        one.say(*[piece] * (2 * WIDE // len(piece)), None)
        await until(lambda: one.said > 0)
        held = await _settled(one)
        assert held * len(piece) < WIDE * 2
        assert one.closed == 0
        transport.resume_reading()
        body = await reader.read()
        assert body.endswith(b"0\r\n\r\n")
        assert body.count(b"x") == 2 * WIDE
        writer.close()


async def _settled(one: Served) -> int:
    """Return how much was said when nothing more is."""
    before = -1
    while before != one.said:
        before = one.said
        for _ in range(100):
            await asyncio.sleep(0)
    return one.said


async def test_a_client_that_does_not_read_and_leaves() -> None:
    async with served() as one:
        reader, writer = await one.raw()
        await head(reader)
        transport = cast(asyncio.Transport, writer.transport)
        transport.pause_reading()
        one.say(b"x" * 4 * WIDE, b"never")
        assert await _settled(one) == 0
        writer.transport.abort()
        await until(lambda: one.closed == 1)


async def test_what_a_client_sends_behind_its_request_is_dropped() -> None:
    async with served() as one:
        reader, writer = await one.raw(more=b"GET /page HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
        assert await head(reader)
        assert await chunk(reader) == b"first"
        writer.write(b"GET /page HTTP/1.1\r\nhost: x\r\n\r\n" + b"y" * 4 * WIDE)
        (stream,) = one.handover._open
        await until(lambda: not stream.transport.is_reading())
        one.say(None)
        assert await chunk(reader) == b""
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert one.handover.open == 0
        writer.close()


async def test_a_stream_that_breaks_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as one:
        reader, writer = await one.raw()
        await head(reader)
        assert await chunk(reader) == b"first"
        one.say(RuntimeError("broken"))
        with suppress(ConnectionResetError):
            assert await reader.read() == b"", "not what ends a whole answer"
        await until(lambda: one.handover.open == 0)
        assert "broken" in caplog.text
        writer.close()


async def test_the_older_http_has_no_chunks_and_stays_with_hypercorn() -> None:
    async with served() as one:
        reader, writer = await one.raw(version="1.0")
        assert "chunked" not in await head(reader)
        assert await reader.readexactly(5) == b"first"
        assert (one.handover.open, connections_of_hypercorn()) == (0, 1)
        one.say(b"second", None)
        assert await reader.read() == b"second"
        writer.close()


async def test_without_a_handover_streams_stay_with_hypercorn() -> None:
    async with served(take=False) as one:
        reader, writer = await one.raw()
        assert "connection: close" not in await head(reader)
        assert await chunk(reader) == b"first"
        assert connections_of_hypercorn() == 1
        one.say(None)
        assert await chunk(reader) == b""
        writer.close()


@pytest.mark.parametrize("length", [6, 300_000])
async def test_encrypted(tmp_path: Path, length: int) -> None:
    authority = Authority()
    folder = authority.server(tmp_path / "server", "127.0.0.1")
    trusted = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    async with served(tls=folder) as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port, ssl=trusted)
        writer.write(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        await head(reader)
        assert await chunk(reader) == b"first"
        assert one.handover.open == 1
        one.say(b"x" * length)
        assert await chunk(reader) == b"x" * length
        one.say(None)
        assert await chunk(reader) == b""
        assert await reader.read() == b""
        writer.close()


async def test_it_is_logged_once_and_when_it_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "binder.access")
    async with served(logged=True) as one:
        reader, writer = await one.raw(path="/stream?token=s3cret")
        await head(reader)
        await until(lambda: connections_of_hypercorn() == 0)
        assert not caplog.messages
        one.say(None)
        await reader.read()
        writer.close()
        await until(lambda: one.handover.open == 0)
        (said,) = caplog.messages
        assert said.startswith('127.0.0.1 "GET /stream?token=***" 200 ')
        reader, writer = await one.raw(path="/page")
        await head(reader)
        writer.close()
        await until(lambda: len(caplog.messages) == 2)


async def test_a_stream_that_waits_keeps_little() -> None:
    many = 200
    head = f"GET /build/{SPEC} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n"

    def ask(url: httpx.URL) -> list[socket.socket]:
        asked = []
        for _ in range(many):
            one = socket.create_connection((url.host, url.port), timeout=20)
            one.sendall(head.encode())
            while b"\ndata: " not in one.recv(2**16):
                pass
            asked.append(one)
        return asked

    flags = {"builder.fake.lines": 1, "builder.fake.ends": False}
    async with running(conf(flags)) as server:
        url = httpx.URL(server.url)
        with ExitStack() as clients:
            # The first ones make what all share.
            for one in await asyncio.to_thread(ask, url):
                clients.enter_context(one)
            gc.collect()
            tracemalloc.start()
            try:
                for one in await asyncio.to_thread(ask, url):
                    clients.enter_context(one)
                await until(lambda: connections_of_hypercorn() == 0)
                gc.collect()
                kept, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    # 8 KB on Python 3.11, the client's end among it; hypercorn keeps 18 KiB beside that.
    assert kept / many < 10_000
