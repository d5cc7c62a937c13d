"""The conformance suite on the Docker builder, with a real engine and a quick repo2docker."""

from __future__ import annotations

from collections.abc import Iterator

import anyio.to_thread
import pytest

from binder_backends.docker import DockerBuilder
from binder_core.plugin import Builder, BuildRequest
from binder_core.testing import BuilderSuite
from engines.docker import DockerEngine
from engines.docker_builds import containers, quick, release, request, tidy


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


@pytest.mark.real
class TestDockerBuilder(BuilderSuite):
    limit = 60.0
    runner = True

    @pytest.fixture(autouse=True)
    def engine(
        self, docker_engine: DockerEngine, repo2docker_image: str, busybox_image: str
    ) -> Iterator[None]:
        self.docker, self.image = docker_engine, repo2docker_image
        self.slow: list[BuildRequest] = []
        yield
        tidy(docker_engine)

    def make_builder(self) -> Builder:
        return DockerBuilder(quick(self.docker, self.image, runner=self.runner))

    def request_that_builds(self) -> BuildRequest:
        return request()

    def request_that_fails(self) -> BuildRequest:
        return request("https://example.org/fails")

    def slow_request(self) -> BuildRequest:
        self.slow.append(request("https://example.org/slow/TOKEN"))
        return self.slow[-1]

    async def release(self) -> None:
        for slow in self.slow:
            await anyio.to_thread.run_sync(release, self.docker, slow)

    async def image_is_there(self, image: str) -> bool:
        return await anyio.to_thread.run_sync(self.docker.inspect, image) is not None

    async def runs_started(self, name: str) -> int:
        return len(await anyio.to_thread.run_sync(containers, self.docker, name))


class TestDockerBuilderWithoutRunner(TestDockerBuilder):
    runner = False
