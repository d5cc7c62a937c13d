"""Real sockets: what no test client shows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import anyio
import httpx
import pytest
from serving import COMMIT, KEY, REPO, SPEC, STREAM, conf, events, socket_to, until

from binder_core.errors import ConfigError
from binder_http import server
from binder_http.server import Running, running

pytestmark = pytest.mark.anyio

BUILD = f"/build/{SPEC}"
NEVER = {"builder.fake.ends": False}
# More than the buffers of two sockets hold.
WIDE = {"builder.fake.log": [{"message": "x" * 4000 + "\n"}] * 4000, "builder.fake.ends": False}


async def read_event(reader: asyncio.StreamReader) -> None:
    """Return when the first event is there."""
    with anyio.fail_after(5):
        await reader.readuntil(b"\ndata: ")


async def read_some(reader: asyncio.StreamReader) -> None:
    """Return when the build is pouring; what is left of it is more than the sockets hold."""
    with anyio.fail_after(5):
        await reader.readexactly(1_000_000)


def watchers(one: Running) -> int:
    return sum(build.watchers for build in one.binder.builds)


async def test_a_request_over_a_socket() -> None:
    async with running(conf()) as one, httpx.AsyncClient(base_url=one.url) as client:
        answer = await client.get(BUILD, headers=STREAM)
        last = events(answer.text)[-1]
        assert last["binder_request"] == f"v2/git/{REPO}/{COMMIT}"
        assert last["binder_launch_host"] == one.url
        assert answer.headers["content-type"] == "text/event-stream"
        assert "server" not in answer.headers


async def test_base_url_over_a_socket() -> None:
    async with running(conf({"server.base_url": "/x"})) as one:
        assert one.url.endswith("/x/")
        async with httpx.AsyncClient(base_url=one.url) as client:
            answer = await client.get(f"build/{SPEC}", headers=STREAM)
    assert events(answer.text)[-1]["binder_launch_host"] == one.url


async def test_the_link_holds_the_token() -> None:
    flags = {"security.auth": "token", "security.token": "s3/cret"}
    async with running(conf(flags)) as one, httpx.AsyncClient() as client:
        assert one.link == f"{one.url}?token=s3%2Fcret"
        assert "s3/cret" not in repr(one)
        assert (await client.get(f"{one.url}health")).status_code == 403
        assert (await client.get(one.link.replace("?", "health?"))).status_code == 200


async def test_ten_kilobytes_of_path_are_answered() -> None:
    async with running(conf()) as one, httpx.AsyncClient(base_url=one.url) as client:
        answer = await client.get("/build/gh/" + "x" * 20_000, headers=STREAM)
        assert events(answer.text)[0]["status_code"] == 414
        answer = await client.get(BUILD, headers=STREAM | {"x-much": "x" * 20_000})
        assert events(answer.text)[0]["status_code"] == 431


async def test_a_client_that_leaves_a_silent_build_is_noticed() -> None:
    async with running(conf(NEVER)) as one:
        async with socket_to(one.url, BUILD) as (reader, writer):
            await read_event(reader)
            await until(lambda: watchers(one) == 1)
            writer.close()
            await until(lambda: watchers(one) == 0, within=1.0)
        assert one.binder.in_progress[0] == 1


async def test_many_that_leave_are_noticed_and_slow_nobody_down() -> None:
    async with running(conf(NEVER)) as one:
        async with AsyncExitStack() as stack:
            for _ in range(100):
                reader, _ = await stack.enter_async_context(socket_to(one.url, BUILD))
                await read_event(reader)
            assert watchers(one) == 100
        await until(lambda: watchers(one) == 0, within=2.0)
        async with httpx.AsyncClient(base_url=one.url) as client:
            assert (await client.get("/health")).status_code == 200


async def test_a_client_that_does_not_read_and_leaves_is_noticed() -> None:
    async with running(conf(WIDE)) as one:
        async with socket_to(one.url, BUILD, limit=1) as (reader, _):
            await read_some(reader)
            assert watchers(one) == 1
        await until(lambda: watchers(one) == 0, within=2.0)


async def test_silence_is_filled_with_heartbeats() -> None:
    flags = NEVER | {"limits.heartbeat": 0.1}
    async with running(conf(flags)) as one, socket_to(one.url, BUILD) as (reader, _):
        await read_event(reader)
        with anyio.fail_after(3):
            for _ in range(3):
                await reader.readuntil(b":heartbeat\n\n")


async def test_the_stream_stays_open_after_the_last_event() -> None:
    flags = {"server.linger": 30}
    async with running(conf(flags)) as one, socket_to(one.url, BUILD) as (reader, _):
        with anyio.fail_after(5):
            await reader.readuntil(b'"phase":"ready"')
        await until(lambda: watchers(one) == 0)
        with anyio.move_on_after(0.3) as waited:
            while await reader.read(1000):
                pass
        assert waited.cancelled_caught, "the server closed first"


# -- Stopping -------------------------------------------------------------------------------------


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return what still comes, up to the end."""
    with anyio.fail_after(5):
        return await reader.read()


async def test_open_streams_end_without_a_last_event_when_the_server_stops() -> None:
    async with AsyncExitStack() as clients:
        async with running(conf(NEVER)) as one:
            readers = []
            for _ in range(5):
                reader, _ = await clients.enter_async_context(socket_to(one.url, BUILD))
                await read_event(reader)
                readers.append(reader)
            began = time.monotonic()
        assert time.monotonic() - began < 2
        for reader in readers:
            said = await rest(reader)
            assert b"failed" not in said
            assert b"ready" not in said
            assert said.endswith(b"\r\n0\r\n\r\n"), "the body has no proper end"


async def test_nobody_lingers_when_the_server_stops() -> None:
    async with AsyncExitStack() as clients:
        async with running(conf({"server.linger": 3600})) as one:
            reader, _ = await clients.enter_async_context(socket_to(one.url, BUILD))
            with anyio.fail_after(5):
                await reader.readuntil(b'"phase":"ready"')
            began = time.monotonic()
        assert time.monotonic() - began < 2


async def test_a_client_that_does_not_read_is_cut_off_when_the_server_stops() -> None:
    async with AsyncExitStack() as clients:
        async with running(conf(WIDE | {"server.grace": 0.3})) as one:
            reader, _ = await clients.enter_async_context(socket_to(one.url, BUILD, limit=1))
            await read_some(reader)
            began = time.monotonic()
        assert time.monotonic() - began < 2


async def test_stopping_where_servers_wait_for_their_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Since Python 3.12 `wait_closed` waits for all connections to end; before, it did not.
    async def wait_closed(self: Any) -> None:
        await until(lambda: self._active_count == 0, within=30)

    if sys.version_info < (3, 12):
        monkeypatch.setattr(asyncio.base_events.Server, "wait_closed", wait_closed)
    async with AsyncExitStack() as clients:
        async with running(conf(WIDE | {"server.grace": 0.3})) as one:
            for path, limit in ((BUILD, 1), (BUILD, 2**16), ("/health", 2**16)):
                await clients.enter_async_context(socket_to(one.url, path, limit=limit))
            await until(lambda: watchers(one) == 2)
            began = time.monotonic()
        assert time.monotonic() - began < 3


async def test_while_it_stops_nothing_is_begun() -> None:
    async with running(conf(NEVER)) as one, httpx.AsyncClient(base_url=one.url) as client:
        one.api.drain()
        answer = await client.get(BUILD, headers=STREAM)
        assert (answer.status_code, answer.content) == (200, b"")
        assert one.binder.builds == []


async def test_builds_are_ended_on_request() -> None:
    async with running(conf(NEVER)) as one, socket_to(one.url, BUILD) as (reader, _):
        await read_event(reader)
        await until(lambda: one.binder.in_progress[0] == 1)
        await server._stop_builds(one, asyncio.Queue())
        assert one.binder.in_progress[0] == 0


async def test_somebody_impatient_does_not_wait_for_builds_to_end() -> None:
    async with running(conf(NEVER | {"limits.stop_grace": 3600})) as one:

        async def never(reason: str = "") -> None:
            await asyncio.Event().wait()

        one.binder.stop_builds = never  # type: ignore[method-assign] # one that hangs
        signals = asyncio.Queue[int]()
        signals.put_nowait(signal.SIGINT)
        with anyio.fail_after(2):
            await server._stop_builds(one, signals)


async def test_a_port_that_is_taken() -> None:
    async with running(conf()) as one:
        port = int(one.url.rsplit(":", 1)[1].rstrip("/"))
        with pytest.raises(ConfigError, match=rf"server\.port.*127\.0\.0\.1:{port}.*in use"):
            async with running(conf({"server.port": port})):
                pytest.fail("two servers on one port")


async def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"server\.host"):
        async with running(conf({"server.host": "203.0.113.1"})):
            pytest.fail("listening on somebody else's address")


# -- A process of its own -------------------------------------------------------------------------

SERVE = """
import asyncio, json, sys
from binder_http.config import load
from binder_http.server import serve
config = load(env={}, flags=json.load(sys.stdin))
asyncio.run(serve(config, started=lambda one: print(one.url, flush=True)))
"""


@contextmanager
def process(
    flags: dict[str, Any], stderr: IO[bytes]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    given = {"builder.kind": "fake", "security.key": KEY, "server.port": 0, **flags}
    command, pipe = [sys.executable, "-c", SERVE], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as one:
        try:
            assert one.stdin is not None
            assert one.stdout is not None
            with one.stdin:
                json.dump(given, one.stdin)
            yield one, one.stdout.readline().strip()
        finally:
            one.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_the_process_and_its_streams(number: int, tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    with path.open("wb") as stderr, process(NEVER, stderr) as (one, url):
        async with (
            socket_to(url, f"{BUILD}?token=s3cret") as (reader, _),
            socket_to(url, BUILD) as (other, _),
        ):
            await read_event(reader)
            await read_event(other)
            os.kill(one.pid, number)
            assert (await rest(reader)).endswith(b"\r\n0\r\n\r\n")
            assert (await rest(other)).endswith(b"\r\n0\r\n\r\n")
        assert await asyncio.to_thread(one.wait, 5) == 0
    log = path.read_text()
    assert f"{signal.Signals(number).name}: stopping" in log
    assert f'"GET {BUILD}?token=***" 200' in log
    assert "s3cret" not in log
    assert "Traceback" not in log


async def test_a_client_that_does_not_read_does_not_keep_the_process(tmp_path: Path) -> None:
    flags = WIDE | {"server.grace": 0.5}
    path = tmp_path / "stderr"
    with path.open("wb") as stderr, process(flags, stderr) as (one, url):
        async with socket_to(url, BUILD, limit=1) as (reader, _):
            await read_some(reader)
            one.terminate()
            assert await asyncio.to_thread(one.wait, 5) == 0
    log = path.read_text()
    assert "cutting the connections" in log
    assert "Traceback" not in log
