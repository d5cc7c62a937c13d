"""Event streams that go on without Quart's part: every way in which one can end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from hypercorn.typing import (
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    HTTPScope,
)
from quart import Quart

from binder_http.connection import Connection, EventStream

pytestmark = pytest.mark.anyio


@dataclass
class Client:
    """What the server sees of one."""

    says: asyncio.Queue[ASGIReceiveEvent] = field(default_factory=asyncio.Queue)
    hears: list[ASGISendEvent] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets the stream go on behind its first piece."""
    at: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the stream waits for that."""

    @property
    def body(self) -> bytes:
        return b"".join(one["body"] for one in self.hears if one["type"] == "http.response.body")

    @property
    def complete(self) -> bool:
        last = self.hears[-1]
        return last["type"] == "http.response.body" and not last["more_body"]

    async def stream(self) -> AsyncGenerator[bytes]:
        try:
            yield b"one "
            self.at.set()
            await self.go.wait()
            yield b"two"
        finally:
            self.closed.append("closed")

    async def answered(self) -> None:
        app = Quart(__name__)

        @app.get("/stream")
        async def stream() -> EventStream:
            return EventStream(self.stream(), {"content-type": "text/event-stream"})

        @app.get("/page")
        async def page() -> str:
            return "page"

        async def send(message: ASGISendEvent) -> None:
            self.hears.append(message)

        await Connection(app, self.scope)(self.says.get, send)

    path: str = "/stream"

    @property
    def scope(self) -> HTTPScope:
        return {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"x")],
            "client": None,
            "server": None,
            "state": ConnectionState({}),
            "extensions": {},
        }

    def asks(self) -> None:
        self.says.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    def leaves(self) -> None:
        self.says.put_nowait({"type": "http.disconnect"})


@pytest.fixture
async def client() -> Client:
    made = Client()
    made.asks()
    return made


async def test_a_stream_to_its_end(client: Client) -> None:
    client.go.set()
    await client.answered()
    start = client.hears[0]
    assert start["type"] == "http.response.start"
    assert (b"content-type", b"text/event-stream") in start["headers"]
    assert (start["status"], client.body, client.complete) == (200, b"one two", True)
    assert client.closed == ["closed"]


async def test_other_answers_are_quarts(client: Client) -> None:
    client.path = "/page"
    await client.answered()
    assert (client.body, client.complete) == (b"page", True)


async def test_a_client_that_leaves_while_nothing_is_told(client: Client) -> None:
    answering = asyncio.create_task(client.answered())
    await client.at.wait()
    client.leaves()
    await answering
    assert not answering.cancelled()
    assert (client.body, client.complete, client.closed) == (b"one ", False, ["closed"])


async def test_a_client_that_leaves_at_once(client: Client) -> None:
    client.leaves()
    client.go.set()
    await client.answered()
    assert not client.hears or not client.complete


async def test_a_server_that_stops(client: Client) -> None:
    answering = asyncio.create_task(client.answered())
    await client.at.wait()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert client.closed == ["closed"]


async def test_a_server_that_stops_while_the_client_leaves(client: Client) -> None:
    answering = asyncio.create_task(client.answered())
    await client.at.wait()
    client.leaves()
    await asyncio.sleep(0)  # the leaving is heard, the stream not ended yet
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert client.closed == ["closed"]


async def test_nothing_is_left_running(client: Client) -> None:
    before = asyncio.all_tasks()
    client.go.set()
    await client.answered()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_what_breaks_is_the_servers_to_tell(client: Client) -> None:
    async def broken() -> AsyncGenerator[bytes]:
        yield b"one "
        raise RuntimeError("broken")

    client.stream = broken  # type: ignore[method-assign] # of this one
    with pytest.raises(RuntimeError, match="broken"):
        await client.answered()
    assert not client.complete
