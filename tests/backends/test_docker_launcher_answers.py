"""What the Docker launcher makes of what an engine, and a notebook server, answer: both played."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from played_engine import PlayedEngine, archive, passwd

from binder_backends.docker import DockerLauncher, DockerLaunchSettings
from binder_backends.docker.engine import Engine
from binder_core.plugin import LaunchFailed, LaunchRequest
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


async def failure(engine: PlayedEngine, **options: Any) -> str:
    """Return why a launch failed."""
    options = {"start_timeout": 0.1, **options}
    async with DockerLauncher(DockerLaunchSettings(host=engine.host, **options)) as launcher:
        with pytest.raises(LaunchFailed) as caught:
            await launcher.launch(REQUEST, LaunchLog())
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
