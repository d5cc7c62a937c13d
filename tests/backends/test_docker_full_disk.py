"""The Docker builder on an engine whose disk gets full: a real one, on a small disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from binder_backends.docker import DockerBuilder, DockerSettings
from binder_core.plugin import BackendUnavailable, BuildFailed, BuildRequest
from binder_core.testing import StrictReport
from engines.builders import REPO2DOCKER
from engines.docker import DockerEngine
from engines.docker_builds import request, settings, tidy
from engines.git_server import GitServer

pytestmark = [pytest.mark.real, pytest.mark.anyio]

TOO_BIG = "FROM busybox:test\nRUN dd if=/dev/zero of=/big bs=1M count=1000\n"
# The page of the log that is begun still takes a few lines, the outcome would be one of them.
FILLS = "echo it begins; cat /dev/zero > /fill; seq 1 5000; exit 3"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


@pytest.fixture
def engine(small_engine: DockerEngine) -> Iterator[DockerEngine]:
    yield small_engine
    tidy(small_engine)


async def failure(chosen: DockerSettings, wanted: BuildRequest) -> str:
    """Build, and return why it failed."""
    report = StrictReport()
    async with DockerBuilder(chosen) as made:
        with anyio.fail_after(240), pytest.raises(BuildFailed) as failed:
            await made.build(wanted, report)
    assert report.faults == []
    return failed.value.message


async def test_a_step_that_fills_the_disk(engine: DockerEngine, tmp_path: Path) -> None:
    with GitServer(tmp_path / "git", engine.address) as git:
        url, commit = git.repository("demo", {"Dockerfile": TOO_BIG})
        said = await failure(settings(engine, REPO2DOCKER), request(url, ref=commit))
    assert "disk of the Docker engine is full" in said or "disk of the Docker engine full" in said
    assert "docker builder prune" in said


async def test_the_outcome_that_no_disk_takes(engine: DockerEngine) -> None:
    chosen = settings(engine, REPO2DOCKER, repo2docker=["sh", "-c", FILLS, "script"])
    said = await failure(chosen, request())
    assert "its log was cut. Is the disk of the Docker engine full" in said
    assert "docker builder prune" in said


async def test_a_disk_that_was_full_before(engine: DockerEngine) -> None:
    filler = engine.folder / "filler"
    async with DockerBuilder(settings(engine, REPO2DOCKER)) as made:
        try:
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
                while True:
                    file.write(bytes(2**20))
            with anyio.fail_after(60), pytest.raises(BackendUnavailable) as refused:
                await made.build(request(), StrictReport())
        finally:
            filler.unlink()
    assert "disk of the Docker engine is full" in refused.value.message
    assert "docker builder prune" in refused.value.message
