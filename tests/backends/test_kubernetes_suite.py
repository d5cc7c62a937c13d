"""The conformance suite on the Kubernetes builder, with a real cluster and a quick repo2docker."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import pytest
from watched_builds import secret_of_certificates

from binder_backends.kubernetes import KubernetesBuilder, KubernetesSettings
from binder_backends.kubernetes.settings import SOCKET
from binder_core.plugin import Builder, BuildRequest
from binder_core.testing import BuilderSuite
from engines.docker import DockerEngine
from engines.kubernetes_builds import Builds, Place


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # kubernetes-asyncio knows no other


@pytest.mark.real
class TestKubernetesBuilder(BuilderSuite):
    limit = 120.0
    runner = True

    @pytest.fixture(autouse=True)
    def place_of_builds(self, given_builds: Builds) -> None:
        self.place: Builds = given_builds
        self.slow: list[BuildRequest] = []

    def make_builder(self) -> Builder:
        return KubernetesBuilder(self.settings())

    def settings(self) -> KubernetesSettings:
        return self.place.settings(runner=self.runner)

    def request_that_builds(self) -> BuildRequest:
        return self.place.request()

    def request_that_fails(self) -> BuildRequest:
        return self.place.request("fails")

    def slow_request(self) -> BuildRequest:
        self.slow.append(self.place.request("slow"))
        return self.slow[-1]

    async def release(self) -> None:
        for slow in self.slow:
            await anyio.to_thread.run_sync(self.place.release, slow)

    async def image_is_there(self, image: str) -> bool:
        return await anyio.to_thread.run_sync(self.place.pushed, image)

    async def runs_started(self, name: str) -> int:
        return await anyio.to_thread.run_sync(self.place.runs, name)


class TestKubernetesBuilderWithoutTheRunner(TestKubernetesBuilder):
    runner = False


class TestKubernetesBuilderWithAnEngineElsewhere(TestKubernetesBuilder):
    @pytest.fixture(autouse=True)
    def place_of_builds(
        self, kubernetes_builds: Place, engine_elsewhere: DockerEngine, tmp_path: Path
    ) -> None:
        # Pods of a cluster that was given may not reach the engine.
        self.place = kubernetes_builds
        self.slow = []
        assert engine_elsewhere.authority is not None
        folder = engine_elsewhere.authority.client(tmp_path / "client")
        self.certificates = secret_of_certificates(kubernetes_builds, folder)
        self.engine = engine_elsewhere

    def settings(self) -> KubernetesSettings:
        return self.place.settings(
            docker_host=self.engine.tcp_host,
            docker_socket=SOCKET,
            docker_certs_secret=self.certificates,
        )
