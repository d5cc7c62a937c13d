"""Images that the engine pulls for servers, from real registries."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from binder_backends.docker import DockerLauncher, pulling
from binder_core.plugin import BackendUnavailable, LaunchFailed
from binder_core.testing import LaunchLog
from engines import docker_servers
from engines.docker import DockerEngine
from engines.docker_servers import request, settings
from engines.images import build
from engines.registry import Registry

pytestmark = [pytest.mark.anyio, pytest.mark.real]

USER, PASSWORD = "puller", "p4ssw0rd-of-puller"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[False, True], ids=["basic", "bearer"])
def registry(
    request: pytest.FixtureRequest,
    make_registry: Callable[..., Registry],
    docker_engine: DockerEngine,
) -> Iterator[Registry]:
    with make_registry(users={USER: PASSWORD}, tokens=request.param) as made:
        yield made


@pytest.fixture
def pushed(
    docker_engine: DockerEngine, busybox_image: str, registry: Registry, tmp_path: Path
) -> Iterator[str]:
    """Return an image that the registry has and the engine has not: 4 MB and no Jupyter."""
    image = f"{registry.address}/{docker_servers.PREFIX}pushed:one"
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox_image}\nCOPY random /random\n")
    (tmp_path / "random").write_bytes(os.urandom(4_000_000))
    login = ("login", "--username", USER, "--password-stdin", registry.address)
    build(docker_engine, image, tmp_path)
    docker_engine.docker(*login, given=PASSWORD.encode())
    docker_engine.docker("push", image)
    docker_engine.docker("logout", registry.address)
    docker_engine.docker("rmi", image)
    yield image
    if docker_engine.inspect(image):
        docker_engine.docker("rmi", "--force", image)


@asynccontextmanager
async def launcher(
    engine: DockerEngine, registry: Registry, password: str = PASSWORD, **options: Any
) -> AsyncIterator[DockerLauncher]:
    logins = {registry.address: {"user": USER, "password": password}}
    asked = {"logins": logins, "read_docker_config": False}
    with anyio.fail_after(180):
        made = settings(engine, **{"pull": True, "registry": asked, **options})
        async with DockerLauncher(made) as opened:
            yield opened


async def test_an_image_is_pulled_with_a_login(
    docker_engine: DockerEngine,
    registry: Registry,
    pushed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulling, "_TELL_EVERY", 0.0)
    log = LaunchLog()
    async with launcher(docker_engine, registry) as made:
        # It gets as far as to start it.
        with pytest.raises(LaunchFailed, match="There is no jupyter-lab"):
            await made.launch(request(pushed), log)
        assert log.messages[0] == f"Pulling image {pushed}"
        assert f"Pulling image {pushed}: 4.0 of 4.0 MB" in log.messages
        assert log.messages[-2:] == [
            f"Pulled image {pushed}",
            "Waiting for the notebook server to answer",
        ]
        assert not [message for message in log.messages if PASSWORD in message]
        await made.preload(pushed)


async def test_an_image_is_not_pulled_unless_the_operator_said_so(
    docker_engine: DockerEngine, registry: Registry, pushed: str
) -> None:
    async with launcher(docker_engine, registry, pull=False) as made:
        with pytest.raises(LaunchFailed, match="Set pull = true"):
            await made.launch(request(pushed), LaunchLog())
    assert docker_engine.inspect(pushed) is None


async def test_an_image_that_the_registry_lacks(
    docker_engine: DockerEngine, registry: Registry, pushed: str
) -> None:
    other = pushed.replace(":one", ":two")
    async with launcher(docker_engine, registry) as made:
        with pytest.raises(LaunchFailed, match="not in its registry any more"):
            await made.preload(other)


async def test_a_login_that_is_refused(
    docker_engine: DockerEngine, registry: Registry, pushed: str
) -> None:
    async with launcher(docker_engine, registry, "wrong-p4ssword") as made:
        with pytest.raises(BackendUnavailable, match="a login that may pull") as caught:
            await made.preload(pushed)
    assert "wrong-p4ssword" not in caught.value.message


async def test_a_registry_that_is_away(
    docker_engine: DockerEngine, registry: Registry, pushed: str
) -> None:
    async with launcher(docker_engine, registry) as made:
        registry.stop()
        with pytest.raises(BackendUnavailable, match="could not be pulled"):
            await made.preload(pushed)
        registry.start()
        await made.preload(pushed)
    assert docker_engine.inspect(pushed) is not None
