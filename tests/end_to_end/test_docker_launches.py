"""Real Jupyter servers on a real Docker engine."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest
from kernels import keep_busy, kernels, open_notebook

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


async def test_a_server_that_nobody_uses_ends_one_that_computes_goes_on(
    engine: DockerEngine, jupyter_base: str
) -> None:
    computes, idle = request(jupyter_base), request(jupyter_base)
    # Jupyter looks once a minute whether anybody is there.
    options = settings(engine, idle_timeout=10.0, keep_ended_for=0.0)
    async with DockerLauncher(options) as launcher:
        url = await launcher.launch(computes, LaunchLog())
        await keep_busy(url, computes.token)
        other = await launcher.launch(idle, LaunchLog())
        assert await open_notebook(other, idle.token, "print(6 * 7)") == "42\n"
        with anyio.fail_after(180):
            while await anyio.to_thread.run_sync(  # noqa: ASYNC110 - it is the engine that changes
                docker_servers.left, engine, idle.name
            ):
                await anyio.sleep(0.5)
        # That one had its minute before.
        assert await launcher.running(computes)
        assert await kernels(url, computes.token) == ["busy"]
        await launcher.stop(computes)
