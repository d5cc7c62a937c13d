"""What the end-to-end tests share: servers of their own, repositories, the browser's client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker_host import PREFIX, DockerHost
from real_server import RealServer
from repositories import GitDaemon, Repositories

from engines.docker import DockerEngine
from engines.jupyterhub import HubSoftware, JupyterHub

HUB_CONFIG = Path(__file__).parents[2] / "deploy" / "jupyterhub" / "jupyterhub_config.py"


@pytest.fixture
def anyio_backend() -> str:
    """Run on what httpx and websockets are used with here."""
    return "asyncio"


@pytest.fixture
def repositories(tmp_path: Path) -> Repositories:
    """Return where a test makes its repositories."""
    return Repositories(tmp_path / "repositories")


@pytest.fixture
def make_server(package_index: None, tmp_path: Path) -> Iterator[Callable[..., RealServer]]:
    """Return what starts a server; at the end it is stopped, and nothing of it may run."""
    made: list[RealServer] = []

    def make(**settings: object) -> RealServer:
        server = RealServer(tmp_path / f"server-{len(made)}", settings)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()
        assert server.left_behind() == []


@pytest.fixture
def git_daemon(
    require: Callable[..., str], repositories: Repositories, tmp_path: Path
) -> Iterator[GitDaemon]:
    """Return a git server for the test's repositories."""
    require("git", "apt-get install git")
    with GitDaemon(repositories.folder, tmp_path / "git-daemon.log") as daemon:
        yield daemon


@pytest.fixture
def docker_host(
    docker_engine: DockerEngine, busybox_image: str, repo2docker_image: str, tmp_path: Path
) -> Iterator[DockerHost]:
    """Return a host for servers that build in containers; at the end all they made is removed."""
    host = DockerHost(docker_engine, repo2docker_image, tmp_path)
    yield host
    host.close()


@pytest.fixture(scope="session")
def docker_hub(
    hub_software: HubSoftware, docker_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JupyterHub]:
    """Return a hub as deploy/ configures it, which starts the images of `docker_host`."""
    env = {"DOCKER_HOST": docker_engine.host}
    folder = tmp_path_factory.mktemp("docker-hub")
    # Registries come and go, each on a port of its own.
    pattern = rf"127\.0\.0\.1:\d+/{PREFIX}[a-z0-9-]*-[0-9a-f]{{6}}:\w+"
    with JupyterHub(folder, hub_software, HUB_CONFIG, env, images=pattern) as hub:
        yield hub
