"""What the Docker builder makes of an engine's answers, given by a server in its place."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from binder_backends.docker import DockerBuilder, DockerSettings
from binder_backends.docker.engine import Engine, NotThere
from binder_core.plugin import BackendUnavailable, BuildRequest
from binder_core.testing import StrictReport

pytestmark = pytest.mark.anyio

REQUEST = BuildRequest("build-a", "a:b", "https://git.example/a", "1" * 40)
Answers = dict[str, tuple[int, object]]
Serve = Callable[[Answers], AbstractAsyncContextManager[str]]

GOOD: Answers = {
    "GET /version": (200, {"Version": "20.10.24", "ApiVersion": "1.41"}),
    "GET /images/binderkit-builder/json": (
        200,
        {"Config": {"Labels": {"io.binderkit.runner": "yes"}}},
    ),
    "GET /containers/json": (200, []),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def serving(answers: Answers) -> AsyncIterator[str]:
        async def answer(asked: web.Request) -> web.StreamResponse:
            # Each question has the version before it that the engine gave as its own.
            path = re.sub(r"^/v1\.\d+/", "/", asked.path)
            known = answers.get(f"{asked.method} {path}", (404, {"message": "no such thing"}))
            status, said = known
            if isinstance(said, bytes):
                return web.Response(status=status, body=said)
            return web.Response(
                status=status, text=json.dumps(said), content_type="application/json"
            )

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        path = str(tmp_path / "docker.sock")
        await web.UnixSite(runner, path).start()
        try:
            yield f"unix://{path}"
        finally:
            await runner.cleanup()

    return serving


@asynccontextmanager
async def entered(serve: Serve, answers: Answers) -> AsyncIterator[DockerBuilder]:
    async with serve(answers) as host, DockerBuilder(DockerSettings(host=host)) as builder:
        yield builder


async def test_an_engine_that_is_too_old(serve: Serve) -> None:
    old: Answers = {"GET /version": (200, {"Version": "19.03.15", "ApiVersion": "1.40"})}
    async with serve(old) as host:
        with pytest.raises(BackendUnavailable, match=r"19\.03\.15 .*too old.*Upgrade"):
            await DockerBuilder(DockerSettings(host=host)).__aenter__()


async def test_something_else_than_an_engine(serve: Serve) -> None:
    for reply in ((200, b"<html>hello"), (404, {"message": "x"}), (200, {"name": "x"})):
        async with serve({"GET /version": reply}) as host:
            with pytest.raises(BackendUnavailable):
                await DockerBuilder(DockerSettings(host=host)).__aenter__()


async def test_a_full_disk(serve: Serve) -> None:
    full = (500, {"message": "write /data/x: no space left on device"})
    async with entered(serve, {**GOOD, "POST /containers/create": full}) as builder:
        with pytest.raises(BackendUnavailable, match="disk of the Docker engine is full"):
            await builder.build(REQUEST, StrictReport())


async def test_an_engine_that_fails_is_no_failed_build(serve: Serve) -> None:
    for status in (400, 500, 503):
        broken = (status, {"message": "driver failed"})
        async with entered(serve, {**GOOD, "GET /containers/build-a/json": broken}) as builder:
            with pytest.raises(BackendUnavailable, match="driver failed"):
                await builder.build(REQUEST, StrictReport())
        async with entered(serve, {**GOOD, "GET /images/a:b/json": broken}) as builder:
            with pytest.raises(BackendUnavailable):
                await builder.exists("a:b")


async def test_an_engine_that_goes_away(serve: Serve) -> None:
    async with serve(GOOD) as host:
        builder = await DockerBuilder(DockerSettings(host=host)).__aenter__()
    try:
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            await builder.check()
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            await builder.exists("a:b")
    finally:
        await builder.__aexit__(None, None, None)


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


async def test_a_log_that_is_cut_off_is_not_one_that_ends(serve: Serve) -> None:
    whole = frame(1, b"one\n") + frame(1, b"two\n") + frame(2, b"three\n")
    path = "GET /containers/a/logs"
    async with (
        serve({**GOOD, path: (200, whole)}) as host,
        Engine(host) as engine,
        engine.log("a") as pieces,
    ):
        assert [piece async for piece in pieces] == [(1, b"one\ntwo\n"), (2, b"three\n")]
    async with (
        serve({**GOOD, path: (200, whole[:-2])}) as host,
        Engine(host) as engine,
        engine.log("a") as pieces,
    ):
        with pytest.raises(BackendUnavailable):
            [piece async for piece in pieces]
    for status in (404, 409):
        async with serve({**GOOD, path: (status, b"")}) as host, Engine(host) as engine:
            with pytest.raises(NotThere):
                async with engine.log("a"):
                    pass
