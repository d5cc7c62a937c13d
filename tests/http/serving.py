"""A server of ours in front of the fake backend, and clients of several manners."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx

from binder_core.engine import Binder
from binder_http.app import create_app, make_metrics
from binder_http.assembly import make_asker, open_binder
from binder_http.config import Config, load

COMMIT = "a" * 40
REPO = "https%3A%2F%2Fexample.org%2Fa%2Frepo"
SPEC = f"git/{REPO}/{COMMIT}"
"""Needs nobody to be asked: a commit is itself."""

STREAM = {"accept": "text/event-stream"}
KEY = "0123456789abcdef0123456789abcdef"


def conf(flags: Mapping[str, Any] | None = None) -> Config:
    """Return a configuration with the fake backend."""
    given = {
        "builder.kind": "fake",
        "security.key": KEY,
        "server.linger": 0.0,
        "server.port": 0,
        "server.access_log": False,
    }
    return load(env={}, flags=given | dict(flags or {}))


@asynccontextmanager
async def asking(
    flags: Mapping[str, Any] | None = None, *, base: str = ""
) -> AsyncGenerator[tuple[httpx.AsyncClient, Binder]]:
    """Return a client of an app without a socket: answers come when they are whole."""
    config = conf(flags)
    asker = make_asker(config)
    metrics = make_metrics(config, asker)
    async with open_binder(config, observer=metrics, asker=asker) as binder:
        app = create_app(config, binder=binder, metrics=metrics)
        async with client_of(app, base) as client:
            yield client, binder


def client_of(app: Any, base: str = "") -> httpx.AsyncClient:
    """Return a client of an ASGI app."""
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url=f"http://localhost{base}")


def events(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream."""
    lines = text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def ids(text: str) -> list[str]:
    """Return the ids of a stream's events."""
    return [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]


def only(text: str) -> dict[str, Any]:
    """Return the one event there is."""
    (event,) = events(text)
    return event


@asynccontextmanager
async def socket_to(
    url: str, path: str, headers: Mapping[str, str] | None = None, *, limit: int = 2**16
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send a request over a real socket and return both of its ends; the answer is not read."""
    where = urlsplit(url)
    given = {"host": where.netloc, **STREAM, **(headers or {})}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=limit)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await writer.drain()
        yield reader, writer
    finally:
        writer.transport.abort()


async def until(condition: Callable[[], bool], *, within: float = 5.0) -> None:
    """Return when a condition holds.

    Raises:
        TimeoutError: It does not in time.
    """
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - it is somebody else's, and tells nobody
            await anyio.sleep(0.005)
