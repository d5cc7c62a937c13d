"""The engines as fixtures: each is started when the first test asks for it, and stopped at the end.

Tests share them, and whatever they make there they remove, or name as nobody else does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines import builders, images
from engines.certificates import Authority
from engines.docker import DockerEngine
from engines.jupyterhub import HubSoftware, JupyterHub
from engines.processes import cache_folder, one_of
from engines.registry import Registry

Require = Callable[..., str]

_SESSIONS = 8
"""How many test sessions may run on one machine at a time."""


@pytest.fixture(scope="session")
def docker_engine(require: Require) -> Iterator[DockerEngine]:
    """Return a running Docker engine."""
    with _an_engine(require) as engine:
        yield engine


@pytest.fixture(scope="session")
def engine_elsewhere(require: Require) -> Iterator[DockerEngine]:
    """Return another one, which listens with TLS for those whom its authority vouches for."""
    require("busybox", "apt-get install busybox-static")
    with _an_engine(require, Authority()) as engine:
        images.busybox(engine)
        yield engine


@pytest.fixture(scope="module")
def small_engine(
    require: Require,
    docker_engine: DockerEngine,
    repo2docker_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DockerEngine]:
    """Return an engine with our image for builds and busybox, on a disk with 64 MB left."""
    require("mount", "apt-get install mount")
    disk = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8g", "tmpfs", disk], check=True)
    try:
        with _an_engine(require, disk=disk) as engine:
            images.busybox(engine)
            saved = disk / "image"
            docker_engine.docker("save", "--output", str(saved), repo2docker_image)
            engine.docker("load", "--input", str(saved))
            saved.unlink()
            used = shutil.disk_usage(disk).used + 64 * 2**20
            subprocess.run(["mount", "-o", f"remount,size={used}", disk], check=True)
            yield engine
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def _an_engine(
    require: Require, authority: Authority | None = None, disk: Path | None = None
) -> Iterator[DockerEngine]:
    require("dockerd", "apt-get install docker.io")
    require("docker", "apt-get install docker.io")
    require("iptables", "apt-get install iptables")
    require("ip", "apt-get install iproute2")
    require("a Docker engine of its own", "run as root", there=os.geteuid() == 0)
    folders = [cache_folder() / f"docker-{number}" for number in range(_SESSIONS)]
    with one_of(folders) as folder:
        number = folders.index(folder)
        with DockerEngine(disk or folder, number=number, authority=authority) as engine:
            yield engine


@pytest.fixture(scope="session")
def make_registry(
    require: Require, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Registry]:
    """Return what makes a `Registry` with a folder of its own; it is started as a context."""
    require("docker-registry", "apt-get install docker-registry")

    def make(**options: object) -> Registry:
        folder = tmp_path_factory.mktemp("registry")
        return Registry(folder, **options)  # type: ignore[arg-type] # those of Registry

    return make


@pytest.fixture(scope="session")
def image_registry(make_registry: Callable[..., Registry]) -> Iterator[Registry]:
    """Return a running registry that asks for no login."""
    with make_registry() as registry:
        yield registry


@pytest.fixture(scope="session")
def busybox_image(require: Require, docker_engine: DockerEngine) -> str:
    """Return the name of an image with a shell: the engine has it."""
    require("busybox", "apt-get install busybox-static")
    return images.busybox(docker_engine)


@pytest.fixture(scope="session")
def debian_python(require: Require, docker_engine: DockerEngine) -> str:
    """Return the name of an image with Python and git."""
    require("debootstrap", "apt-get install debootstrap")
    return images.debian_python(docker_engine, cache_folder())


@pytest.fixture(scope="session")
def jupyter_base(debian_python: str, docker_engine: DockerEngine) -> str:
    """Return the name of an image with Jupyter's servers."""
    return images.jupyter_base(docker_engine)


@pytest.fixture(scope="session")
def builder_base(require: Require, debian_python: str, docker_engine: DockerEngine) -> str:
    """Return the name of an image with what the builder's Dockerfile installs else."""
    require("dpkg-deb", "run on Debian")
    return builders.builder_base(docker_engine, cache_folder())


@pytest.fixture(scope="session")
def repo2docker_image(builder_base: str, docker_engine: DockerEngine) -> str:
    """Return the name of our image for builds: the runner and current repo2docker."""
    return builders.repo2docker(docker_engine)


@pytest.fixture(scope="session")
def old_repo2docker_image(builder_base: str, docker_engine: DockerEngine) -> str:
    """Return the name of one with the runner and repo2docker 2024.7, which used no buildx."""
    return builders.old_repo2docker(docker_engine)


@pytest.fixture(scope="session")
def old_stock_repo2docker_image(debian_python: str, docker_engine: DockerEngine) -> str:
    """Return the name of one with repo2docker 2024.7 and no runner."""
    return builders.old_stock_repo2docker(docker_engine)


@pytest.fixture(scope="session")
def stock_repo2docker_image(builder_base: str, docker_engine: DockerEngine) -> str:
    """Return the name of one with current repo2docker and no runner."""
    return builders.stock_repo2docker(docker_engine)


@pytest.fixture(scope="session")
def hub_software(require: Require) -> HubSoftware:
    """Return the programs of JupyterHub and its proxy."""
    require("node", "apt-get install nodejs")
    require("npm", "apt-get install npm")
    return HubSoftware(cache_folder())


@pytest.fixture(scope="session")
def jupyterhub(
    hub_software: HubSoftware, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JupyterHub]:
    """Return a running JupyterHub whose servers are small processes."""
    with JupyterHub(tmp_path_factory.mktemp("jupyterhub"), hub_software) as hub:
        yield hub
