"""An HTTP server that answers whatever a test likes, and a clock that does not wait.

It listens on `SERVER`, an address that the asker may talk to. On this machine's loopback that is a
test network which is allowed on purpose. Where `test_asker_namespace` starts the tests again in a
network namespace of their own it is a public address, and nothing is allowed on purpose.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
from anyio.abc import SocketStream

from binder_backends.asker import AskerSettings, HttpGitAsker, Resolver

IN_NAMESPACE = "BINDER_TEST_NAMESPACE"
NAMESPACE = bool(os.environ.get(IN_NAMESPACE))

PUBLIC, METADATA = "93.184.216.34", "169.254.169.254"
SERVER = PUBLIC if NAMESPACE else "127.0.0.2"
PRIVATE = "127.0.0.1"
NETWORKS = () if NAMESPACE else (f"{SERVER}/32",)

Handler: TypeAlias = Callable[[SocketStream, "Request"], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]


def answer(status: int = 200, headers: dict[str, str] | None = None, body: bytes = b"") -> Handler:
    """Return a handler that answers properly."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]

    async def handle(stream: SocketStream, request: Request) -> None:
        await stream.send("\r\n".join([*lines, "", ""]).encode())
        if request.method != "HEAD":
            await stream.send(body)

    return handle


def raw(data: bytes) -> Handler:
    """Return a handler that says just this, and closes the connection."""

    async def handle(stream: SocketStream, _: Request) -> None:
        await stream.send(data)
        await stream.aclose()

    return handle


def in_turn(*handlers: Handler) -> Handler:
    """Return a handler that is another one each time; the last one for good."""
    left = list(handlers)

    async def handle(stream: SocketStream, request: Request) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(stream, request)

    return handle


@dataclass
class Server:
    """What a server does, and what it was asked."""

    port: int = 0
    routes: dict[str, Handler] = field(default_factory=lambda: defaultdict(lambda: answer(404)))
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str = "/", host: str = "host.test") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        # Whoever asks may hang up at any time.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            async with stream:
                while True:
                    request = await _read(stream)
                    self.requests.append(request)
                    await self.routes[request.path](stream, request)


async def _read(stream: SocketStream) -> Request:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    first, *lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = dict(line.split(": ", 1) for line in lines)
    return Request(method, path, {name.lower(): value for name, value in headers.items()})


@asynccontextmanager
async def served(address: str = SERVER, port: int = 0) -> AsyncIterator[Server]:
    """Run a server."""
    server = Server()
    async with await anyio.create_tcp_listener(local_host=address, local_port=port) as listener:
        server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, server.serve)
            yield server
            group.cancel_scope.cancel()


class FakeClock:
    """A clock that goes on when somebody sleeps, or a test says so."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await anyio.lowlevel.checkpoint()


async def everywhere(host: str, port: int) -> list[str]:
    """Resolve every name to the server, and addresses to themselves."""
    del port
    return [SERVER if host.endswith(".test") else host]


def make_asker(
    clock: FakeClock | None = None, resolver: Resolver = everywhere, **settings: Any
) -> HttpGitAsker:
    """Return an asker that may talk to the server."""
    settings = {"allow_networks": NETWORKS, "timeout": 10.0, "step_timeout": 5.0} | settings
    return HttpGitAsker(AskerSettings(**settings), clock=clock or FakeClock(), resolver=resolver)
