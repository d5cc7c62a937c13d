"""The conformance suite on the Docker launcher, with a real engine and a quick Jupyter."""

from __future__ import annotations

from collections.abc import Iterator

import anyio.to_thread
import pytest

from binder_backends.docker import DockerLauncher
from binder_backends.jupyter import api_status
from binder_core.plugin import Launcher, LaunchRequest
from binder_core.testing import LauncherSuite
from engines import docker_servers
from engines.docker import DockerEngine


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


@pytest.mark.real
class TestDockerLauncher(LauncherSuite):
    limit = 60.0

    @pytest.fixture(autouse=True)
    def engine(self, docker_engine: DockerEngine, debian_python: str) -> Iterator[None]:
        self.docker = docker_engine
        self.slow: list[str] = []
        self.quick_image = docker_servers.quick(docker_engine)
        self.slow_image = docker_servers.slow(docker_engine)
        # What it prints is what a person is told: not the token.
        self.failing_image = docker_servers.saying(
            docker_engine, "failing", 'cat "$JUPYTER_TOKEN_FILE"; echo no such module; exit 1'
        )
        yield
        docker_servers.tidy(docker_engine)

    def make_launcher(self) -> Launcher:
        return DockerLauncher(docker_servers.settings(self.docker))

    def request_that_launches(self) -> LaunchRequest:
        return docker_servers.request(self.quick_image)

    def request_that_fails(self) -> LaunchRequest:
        return docker_servers.request(self.failing_image)

    def slow_request(self) -> LaunchRequest:
        request = docker_servers.request(self.slow_image)
        self.slow.append(request.name)
        return request

    async def release(self) -> None:
        for name in self.slow:
            await anyio.to_thread.run_sync(docker_servers.release, self.docker, name)

    async def answers(self, url: str, token: str) -> bool:
        host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
        return await api_status(host, int(port), token) == 200

    async def is_left(self, name: str) -> bool:
        return await anyio.to_thread.run_sync(docker_servers.left, self.docker, name)
