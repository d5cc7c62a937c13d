"""Builds in pods that have nothing of their node: the engine is elsewhere."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from watched_builds import GUARD, Watching, building, eventually, off, secret_of_certificates

from binder_backends.kubernetes import KubernetesSettings
from binder_backends.kubernetes.settings import SOCKET
from binder_core.plugin import Phase
from engines.certificates import Authority
from engines.docker import DockerEngine
from engines.git_server import GitServer
from engines.kubernetes_builds import Place
from engines.processes import free_port
from engines.registry import Registry
from engines.wire import Wire

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.usefixtures("handshakes")]

BIG = 40 * 2**20
SLOW = 0.003
"""Seconds for each of its 640 pieces: some seconds in all."""
DOCKERFILE = f"""\
FROM busybox:test
RUN echo %s && dd if=/dev/urandom of=/big bs=1M count={BIG >> 20} 2>/dev/null
COPY told.txt /told.txt
"""
ENDLESS = """\
FROM busybox:test
RUN echo it has"" begun && while [ ! -e /never ]; do sleep 1; done
"""
REPO2DOCKER = ("jupyter-repo2docker",)
LOGIN = {"pusher": "pass-word-of-registry"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # kubernetes-asyncio knows no other


@pytest.fixture
def authority(engine_elsewhere: DockerEngine) -> Authority:
    assert engine_elsewhere.authority is not None
    return engine_elsewhere.authority


@pytest.fixture
def certificates(kubernetes_builds: Place, authority: Authority, tmp_path: Path) -> str:
    """Return the name of a secret with what the engine takes."""
    return secret_of_certificates(kubernetes_builds, authority.client(tmp_path / "client"))


@pytest.fixture
def repository(kubernetes_builds: Place, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Return the URL and the commit of a repository whose image is a large one."""
    with GitServer(tmp_path / "git", kubernetes_builds.cluster.outside) as server:
        # Of no other test: a layer that the registry has is not pushed.
        dockerfile = DOCKERFILE % secrets.token_hex(6)
        yield server.repository("demo", {"Dockerfile": dockerfile, "told.txt": "by it"})


@pytest.fixture
def guarded(kubernetes_builds: Place, make_registry: Callable[..., Registry]) -> Iterator[Place]:
    """Return the place with a registry that asks who comes, and takes its time."""
    host = kubernetes_builds.cluster.outside
    with make_registry(host=host, users=LOGIN, delay=SLOW) as registry:
        yield replace(kubernetes_builds, registry=registry)


@pytest.fixture
def slow(kubernetes_builds: Place, make_registry: Callable[..., Registry]) -> Iterator[Place]:
    """Return the place with a registry that takes its time: a push can be watched."""
    with make_registry(host=kubernetes_builds.cluster.outside, delay=SLOW) as registry:
        yield replace(kubernetes_builds, registry=registry)


def elsewhere(place: Place, host: str, certificates: str = "", **more: Any) -> KubernetesSettings:
    return place.settings(
        docker_host=host, docker_socket=SOCKET, docker_certs_secret=certificates, **more
    )


def with_login(place: Place) -> dict[str, Any]:
    """Return settings of registries for one that asks who comes."""
    [(user, password)] = LOGIN.items()
    address = place.registry.address
    logins = {address: {"user": user, "password": password}}
    return {"plain_http": [address], "logins": logins}


def expect_growth(watching: Watching) -> None:
    """Fail unless the bytes of layers grow, one of them large, and all are pushed in the end."""
    told = [line for _, line in sorted(watching.report.lines.items()) if line.progress]
    assert {line.phase for line in told} == {Phase.PUSHING}
    states = [dict(line.progress or {}) for line in told]
    moved: dict[str, list[int]] = {}
    totals = [0]
    for state in states:
        for layer, now in state.items():
            if not isinstance(now, str):
                moved.setdefault(layer, []).append(now.current)
                totals.append(now.total)
    assert max(totals) >= BIG
    assert all(counts == sorted(counts) for counts in moved.values())
    assert max(len(set(counts)) for counts in moved.values()) > 2
    assert set(states[-1].values()) <= {"Pushed", "Layer already exists"}


# -- It works ------------------------------------------------------------------------------------


async def test_repo2docker_builds_and_pushes_on_an_engine_elsewhere(
    guarded: Place,
    engine_elsewhere: DockerEngine,
    certificates: str,
    repository: tuple[str, str],
    tmp_path: Path,
) -> None:
    place, (url, commit) = guarded, repository
    request = place.request(url=url, ref=commit)
    settings = elsewhere(
        *(place, engine_elsewhere.tcp_host, certificates),
        repo2docker=list(REPO2DOCKER),
        registry=with_login(place),
    )
    async with building(settings) as start:
        watching = start(request)
        assert await watching.end() == "", watching.text[-5:]
        assert await start.builder.exists(request.image)
    expect_growth(watching)
    assert await off(engine_elsewhere.inspect, request.image), "it was built there"
    assert await off(place.engine.inspect, request.image) is None, "and not on the node"
    pod = await off(place.pod, request.name)
    assert not any("hostPath" in volume for volume in pod["spec"]["volumes"])
    key = (tmp_path / "client" / "key.pem").read_text().splitlines()[1]
    [container] = pod["status"]["containerStatuses"]
    seen = await off(place.engine.docker, "inspect", container["containerID"].rpartition("/")[2])
    told = json.dumps(pod) + seen + "".join(watching.text)
    assert key not in told
    assert LOGIN["pusher"] not in told
    config = json.loads(seen)[0]
    assert config["Config"]["User"].partition(":")[0] == "1000"
    # Whom the image does not know ssh does not work for.
    who = ("run", "--rm", "--user=1000:1000", place.image, "id", "-un")
    assert (await off(place.engine.docker, *who)).split() == ["builder"]
    assert not config["HostConfig"]["Privileged"]
    assert "ALL" in config["HostConfig"]["CapDrop"]
    assert not any("docker.sock" in mount["Source"] for mount in config["Mounts"])


async def test_an_engine_in_the_clear(
    slow: Place,
    engine_elsewhere: DockerEngine,
    repository: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    place, (url, commit) = slow, repository
    request = place.request(url=url, ref=commit)
    with Wire(str(engine_elsewhere.socket), host=place.cluster.outside) as wire:
        settings = elsewhere(place, f"tcp://{wire.address}", repo2docker=list(REPO2DOCKER))
        async with building(settings) as start:
            watching = start(request)
            assert await watching.end() == "", watching.text[-5:]
    assert "in the clear" in caplog.text
    expect_growth(watching)
    assert await off(place.pushed, request.image)


@pytest.fixture
def old_image(
    kubernetes_builds: Place, docker_engine: DockerEngine, old_repo2docker_image: str
) -> str:
    """Return the builder image with a repo2docker that used no buildx."""
    return kubernetes_builds.cluster.load(old_repo2docker_image, docker_engine)


async def test_an_old_repo2docker(
    slow: Place,
    old_image: str,
    engine_elsewhere: DockerEngine,
    certificates: str,
    repository: tuple[str, str],
) -> None:
    place, (url, commit) = slow, repository
    request = place.request(url=url, ref=commit)
    settings = elsewhere(
        *(place, engine_elsewhere.tcp_host, certificates),
        repo2docker=list(REPO2DOCKER),
        builder_image=old_image,
    )
    async with building(settings) as start:
        watching = start(request)
        assert await watching.end() == "", watching.text[-5:]
    expect_growth(watching)
    assert await off(place.pushed, request.image)


async def test_pods_of_the_images_own_user(
    kubernetes_builds: Place, engine_elsewhere: DockerEngine, certificates: str
) -> None:
    place = kubernetes_builds
    request = place.request()
    settings = elsewhere(place, engine_elsewhere.tcp_host, certificates, run_as_user=0)
    async with building(settings) as start:
        assert await start(request).end() == ""
    assert await off(place.pushed, request.image)


async def test_without_the_runner(
    guarded: Place,
    engine_elsewhere: DockerEngine,
    certificates: str,
    repository: tuple[str, str],
) -> None:
    place, (url, commit) = guarded, repository
    request = place.request(url=url, ref=commit)
    settings = elsewhere(
        *(place, engine_elsewhere.tcp_host, certificates),
        repo2docker=list(REPO2DOCKER),
        registry=with_login(place),
        runner=False,
    )
    async with building(settings) as start:
        watching = start(request)
        assert await watching.end() == "", watching.text[-5:]
        assert await start.builder.exists(request.image)


# -- It is away for a while ----------------------------------------------------------------------


async def test_an_engine_that_comes_late_is_waited_for(
    kubernetes_builds: Place, engine_elsewhere: DockerEngine, certificates: str
) -> None:
    place = kubernetes_builds
    request = place.request()
    there = engine_elsewhere.tcp_host.removeprefix("tcp://")
    with Wire(there, host=engine_elsewhere.address) as wire:
        wire.cut()
        async with building(elsewhere(place, f"tcp://{wire.address}", certificates)) as start:
            watching = start(request)
            await watching.until_line()
            assert "does not answer" in watching.text[0]
            wire.mend()
            assert await watching.end() == ""
    assert await off(place.pushed, request.image)


async def test_an_engine_that_goes_away_in_mid_build(
    kubernetes_builds: Place, engine_elsewhere: DockerEngine, certificates: str, tmp_path: Path
) -> None:
    place = kubernetes_builds
    there = engine_elsewhere.tcp_host.removeprefix("tcp://")
    with (
        Wire(there, host=engine_elsewhere.address) as wire,
        GitServer(tmp_path / "git", place.cluster.outside) as server,
    ):
        url, commit = server.repository("endless", {"Dockerfile": ENDLESS})
        settings = elsewhere(
            *(place, f"tcp://{wire.address}", certificates), repo2docker=list(REPO2DOCKER)
        )
        async with building(settings) as start:
            watching = start(place.request(url=url, ref=commit))

            async def begun() -> bool:
                return any("it has begun" in line for line in watching.text)

            await eventually(begun)
            wire.cut()
            failure = await watching.end()
    assert "connection to the Docker engine broke" in failure, failure


async def test_an_engine_that_goes_away_in_mid_push(
    kubernetes_builds: Place,
    engine_elsewhere: DockerEngine,
    certificates: str,
    repository: tuple[str, str],
    make_registry: Callable[..., Registry],
) -> None:
    url, commit = repository
    there = engine_elsewhere.tcp_host.removeprefix("tcp://")
    with (
        Wire(there, host=engine_elsewhere.address) as wire,
        make_registry(host=kubernetes_builds.cluster.outside, delay=0.02) as slow,
    ):
        place = replace(kubernetes_builds, registry=slow)
        request = place.request(url=url, ref=commit)
        settings = elsewhere(
            *(place, f"tcp://{wire.address}", certificates),
            repo2docker=list(REPO2DOCKER),
        )
        async with building(settings) as start:
            watching = start(request)

            async def pushes() -> bool:
                return any(line.progress for line in watching.report.lines.values())

            await eventually(pushes)
            wire.cut()

            async def told() -> bool:
                return any("engine does not answer" in line for line in watching.text)

            await eventually(told)
            wire.mend()
            assert await watching.end() == "", watching.text[-5:]
        assert await off(place.pushed, request.image)


# -- It never works ------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["the secret", "key.pem"])
async def test_certificates_that_are_not_there(
    kubernetes_builds: Place,
    engine_elsewhere: DockerEngine,
    authority: Authority,
    tmp_path: Path,
    missing: str,
) -> None:
    place, name = kubernetes_builds, "nobody-made-this"
    if missing != "the secret":
        folder = authority.client(tmp_path / "half")
        (folder / missing).unlink()
        name = secret_of_certificates(place, folder)
    async with building(elsewhere(place, engine_elsewhere.tcp_host, name)) as start:
        failure = await start(place.request()).end()
    assert "there is no" in failure
    assert "key.pem" in failure
    assert "docker_certs_secret" in failure


@pytest.mark.parametrize("wrong", ["ca.pem", "cert.pem"])
async def test_certificates_of_strangers(
    kubernetes_builds: Place,
    engine_elsewhere: DockerEngine,
    authority: Authority,
    tmp_path: Path,
    wrong: str,
) -> None:
    place = kubernetes_builds
    folder = Authority("strangers").client(tmp_path / "strangers")
    if wrong == "cert.pem":
        known = authority.client(tmp_path / "known")
        (folder / "ca.pem").write_bytes((known / "ca.pem").read_bytes())
    name = secret_of_certificates(place, folder)
    async with building(elsewhere(place, engine_elsewhere.tcp_host, name)) as start:
        failure = await start(place.request()).end()
    assert "certificate" in failure
    assert wrong in failure
    assert "docker_certs_secret" in failure


async def test_no_certificates_where_the_engine_wants_some(
    kubernetes_builds: Place, engine_elsewhere: DockerEngine
) -> None:
    place = kubernetes_builds
    async with building(elsewhere(place, engine_elsewhere.tcp_host)) as start:
        failure = await start(place.request()).end()
    assert "wants TLS" in failure
    assert "docker_certs_secret" in failure


async def test_no_engine(kubernetes_builds: Place) -> None:
    place = kubernetes_builds
    nobody = f"tcp://{place.cluster.outside}:{free_port(place.cluster.outside)}"
    async with building(elsewhere(place, nobody)) as start:
        watching = start(place.request())
        with anyio.fail_after(GUARD):
            failure = await watching.end()
    assert "has not answered for 60 s: Connection refused" in failure
    assert "docker_host" in failure
    assert nobody not in failure
