"""Real Jupyter servers on a real Docker engine."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest
from kernels import open_notebook

from binder_backends.docker import DockerLauncher
from binder_core.testing import LaunchLog
from engines import docker_servers
from engines.docker import DockerEngine
from engines.docker_servers import request, settings

pytestmark = [pytest.mark.anyio, pytest.mark.real]


@pytest.fixture
def engine(docker_engine: DockerEngine) -> Iterator[DockerEngine]:
    yield docker_engine
    docker_servers.tidy(docker_engine)


async def test_a_cell_runs_before_and_after_a_restart_of_server_and_engine(
    engine: DockerEngine, jupyter_base: str
) -> None:
    asked = request(jupyter_base)
    options = settings(engine, cpu_limit=1.0, memory_limit="1G")
    async with DockerLauncher(options) as launcher:
        url = await launcher.launch(asked, LaunchLog())
        write = "print(open('mine', 'w').write('6 * 7'))"
        assert await open_notebook(url, asked.token, write) == "5\n"
    await anyio.to_thread.run_sync(engine.restart)
    async with DockerLauncher(options) as launcher:
        assert await launcher.launch(asked, LaunchLog()) == url
        read = "print(eval(open('mine').read()))"
        assert await open_notebook(url, asked.token, read) == "42\n"
        assert await launcher.running(asked)
        await launcher.stop(asked)
        assert not await launcher.running(asked)
    assert not docker_servers.left(engine, asked.name)
