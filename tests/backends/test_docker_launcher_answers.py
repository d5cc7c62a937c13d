"""What the Docker launcher makes of what an engine, and a notebook server, answer: both played."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from played_engine import PlayedEngine, archive, passwd

from binder_backends.docker import DockerLauncher, DockerLaunchSettings, launcher
from binder_backends.docker.engine import Engine
from binder_backends.docker.servers import SERVER_LABEL
from binder_core.plugin import BackendUnavailable, LaunchFailed, LaunchRequest
from binder_core.testing import LaunchLog

pytestmark = pytest.mark.anyio

REQUEST = LaunchRequest("launch-a", "a:b", token="t0ken-of-launch-a")
TOKEN_FILE = "etc/binderkit/token"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[PlayedEngine]:
    engine = PlayedEngine(tmp_path / "docker.sock")
    async with engine.serving():
        yield engine


class Jupyter:
    """A notebook server, or what a repository has made of it."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        """What who has the token is answered."""
        self.others = 403
        """What everybody else is answered."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/api/status", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()

    async def _answer(self, asked: web.Request) -> web.Response:
        known = asked.headers.get("authorization") == f"token {REQUEST.token}"
        status = self.status if known else self.others
        return web.json_response({"started": "now"} if status == 200 else {}, status=status)


@pytest.fixture
async def jupyter(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Jupyter]:
    """Return what answers at the port of each container."""
    jupyter = Jupyter()
    async with jupyter.serving():
        monkeypatch.setattr(launcher, "_free_port", lambda _: jupyter.port)
        yield jupyter


@asynccontextmanager
async def launching(engine: PlayedEngine, **options: Any) -> AsyncIterator[DockerLauncher]:
    settings = DockerLaunchSettings(host=engine.host, **options)
    with anyio.fail_after(30):
        async with DockerLauncher(settings) as made:
            yield made


async def failure(engine: PlayedEngine, **options: Any) -> str:
    """Return why a launch failed."""
    options = {"start_timeout": 0.1, **options}
    async with launching(engine, **options) as made:
        with pytest.raises(LaunchFailed) as caught:
            await made.launch(REQUEST, LaunchLog())
    assert engine.containers == {}
    return caught.value.message


# -- Whose the token is ------------------------------------------------------------------------


async def test_no_more_is_read_of_a_file_than_it_may_have(engine: PlayedEngine) -> None:
    engine.add("a", {"HostConfig": {}})
    member = tarfile.TarInfo("passwd")
    member.size = 20 * 2**30
    engine.passwd, engine.huge = member.tobuf(), True
    async with Engine(engine.host) as connected:
        with anyio.fail_after(30):
            assert await connected.read_file("a", "/etc/passwd") is None
    assert engine.sent_bytes < 32 * 2**20


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
async def test_only_what_is_a_file_is_read(engine: PlayedEngine, kind: bytes) -> None:
    engine.add("a", {"HostConfig": {}})
    member = tarfile.TarInfo("passwd")
    member.type, member.linkname = kind, "/nowhere"
    engine.passwd = archive(member)
    async with Engine(engine.host) as connected:
        assert await connected.read_file("a", "/etc/passwd") is None
        engine.passwd = passwd("text")
        assert await connected.read_file("a", "/etc/passwd") == b"text"
        engine.passwd = b"no archive"
        assert await connected.read_file("a", "/etc/passwd") is None


@pytest.mark.parametrize(
    ("user", "there", "owner", "mode"),
    [
        ("jovyan", True, 1000, 0o400),
        # Whose it is cannot be told: whoever runs there reads it.
        ("jovyan", False, 0, 0o444),
        ("root", False, 0, 0o400),
    ],
)
async def test_whoever_runs_in_the_container_can_read_the_token(
    engine: PlayedEngine, user: str, owner: int, mode: int, *, there: bool
) -> None:
    engine.user = user
    if not there:
        engine.passwd = b""
    assert "did not answer" in await failure(engine)
    given = {each.name: each for each in engine.given}
    assert (given[TOKEN_FILE].uid, given[TOKEN_FILE].mode) == (owner, mode)
    folder = given["etc/binderkit"]
    assert (folder.uid, folder.mode) == (owner, 0o755 if mode == 0o444 else 0o700)


@pytest.mark.parametrize("user", ["", "1000", "1000:100"])
async def test_no_file_is_read_for_a_number(engine: PlayedEngine, user: str) -> None:
    engine.user = user
    await failure(engine)
    assert not [each for each in engine.asked if each.startswith("GET") and "archive" in each]


# -- Whether it answers ------------------------------------------------------------------------


async def test_a_server_that_asks_for_its_token_is_ready(
    engine: PlayedEngine, jupyter: Jupyter
) -> None:
    async with launching(engine) as made:
        url = await made.launch(REQUEST, LaunchLog())
    assert url == f"http://127.0.0.1:{jupyter.port}/"
    assert engine.containers["launch-a"]["HostConfig"]["RestartPolicy"]["Name"] == "on-failure"


async def test_a_server_that_takes_everybody_is_none(
    engine: PlayedEngine, jupyter: Jupyter
) -> None:
    jupyter.others = 200
    assert "the image turns that off" in await failure(engine, start_timeout=20)


async def test_that_it_is_waited_for_is_told_once(engine: PlayedEngine, jupyter: Jupyter) -> None:
    told = "Waiting for the notebook server to answer"
    log = LaunchLog()
    async with launching(engine) as made:
        for _ in range(3):
            # It was started, and then the engine breaks.
            engine.faults = [("POST /containers/id-of-launch-a/update", 500, "driver failed")]
            with pytest.raises(BackendUnavailable, match="driver failed"):
                await made.launch(REQUEST, log)
        await made.launch(REQUEST, log)
        assert log.messages == [told]
        await made.launch(REQUEST, log)
        assert log.messages == [told, told], "another launch, which found it"


async def test_a_full_disk_is_nothing_of_the_images(engine: PlayedEngine) -> None:
    said = "OCI runtime create failed: mkdir /data/x: no space left on device: unknown"
    engine.faults = [("POST /containers/id-of-launch-a/start", 500, said)]
    async with launching(engine) as made:
        with pytest.raises(BackendUnavailable, match="disk of the Docker engine is full"):
            await made.launch(REQUEST, LaunchLog())


# -- What is left ------------------------------------------------------------------------------


async def test_what_nobody_can_want_any_more_is_removed(engine: PlayedEngine) -> None:
    def add(name: str, age: float, *, answered: bool = False, state: str = "running") -> None:
        began = datetime.now(UTC) - timedelta(seconds=age)
        policy = {"Name": "on-failure" if answered else "no"}
        config = {"Labels": {SERVER_LABEL: name}, "HostConfig": {"RestartPolicy": policy}}
        engine.add(name, config, state=state, began=began.isoformat())

    add("never-answered", 700)
    add("may-answer", 500)
    add("answered", 10**6, answered=True)
    add("held-by-the-operator", 700, state="paused")
    add("never-started", 700, state="created")
    kept = {"may-answer", "answered", "held-by-the-operator"}
    async with launching(engine) as made:
        await made.sweep()
        assert engine.containers.keys() == kept
        engine.asked.clear()
        await made.sweep()
        asked = [each for each in engine.asked if each.endswith("/json")]
        assert asked == ["GET /containers/json", "GET /containers/id-of-may-answer/json"]
    add("slow", 700)
    async with launching(engine, start_timeout=400) as made:
        await made.sweep()
        assert engine.containers.keys() == {*kept, "slow"}


async def test_a_label_alone_makes_no_server_of_ours(engine: PlayedEngine) -> None:
    config = {"Labels": {SERVER_LABEL: "launch-a"}, "HostConfig": {}}
    engine.add("somebody-elses", config, state="created", began="2020-01-01T00:00:00.0Z")
    async with launching(engine) as made:
        await made.sweep()
    assert engine.containers.keys() == {"somebody-elses"}
