"""What the Docker builder makes of an engine's answers, given by a server in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from play_engine import GOOD, Answers, frame, playing

from binder_backends.docker import DockerBuilder, DockerSettings
from binder_backends.docker import engine as docker_engine
from binder_backends.docker.engine import Engine, NotThere
from binder_core.plugin import BackendUnavailable, BuildRequest
from binder_core.testing import StrictReport

pytestmark = pytest.mark.anyio

REQUEST = BuildRequest("build-a", "a:b", "https://git.example/a", "1" * 40)
Serve = Callable[[Answers], AbstractAsyncContextManager[str]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def serving(answers: Answers) -> AsyncIterator[str]:
        async with playing(tmp_path / "docker.sock", answers) as engine:
            yield engine.host

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


async def test_a_log_that_does_not_begin(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_engine, "_OPEN_WITHIN", 0.05)
    silent: Answers = {**GOOD, "GET /containers/a/logs": (0, None)}
    async with serve(silent) as host, Engine(host) as engine:
        with pytest.raises(BackendUnavailable, match="did not answer in time"):
            async with engine.log("a"):
                pass


@pytest.mark.parametrize("said", ["<html>502 from a proxy", b"no JSON", [], None, 7, "x"])
async def test_an_answer_that_is_none(serve: Serve, said: object) -> None:
    odd: Answers = {
        **GOOD,
        "GET /containers/a/json": (200, said),
        "GET /images/a/json": (200, said),
    }
    async with serve(odd) as host, Engine(host) as engine:
        with pytest.raises(BackendUnavailable, match="cannot be read"):
            await engine.inspect("a")
        with pytest.raises(BackendUnavailable, match="cannot be read"):
            await engine.image("a")


async def test_a_builder_image_of_another_version(serve: Serve) -> None:
    def holding(**labels: str) -> Answers:
        said = {"Config": {"Labels": {f"io.binderkit.{name}": has for name, has in labels.items()}}}
        return {**GOOD, "GET /images/binderkit-builder/json": (200, said)}

    async with serve(holding(runner="yes", version="0.0.9")) as host:
        with pytest.raises(BackendUnavailable, match=r"0\.0\.9, and this is .*Make it again"):
            await DockerBuilder(DockerSettings(host=host)).__aenter__()
    async with entered(serve, holding(runner="yes", version=version("binderkit"))):
        pass


def test_the_builder_image_says_its_version() -> None:
    dockerfile = Path(__file__).parents[2] / "deploy/builder/Dockerfile"
    assert f"io.binderkit.version={version('binderkit')}\n" in dockerfile.read_text()
