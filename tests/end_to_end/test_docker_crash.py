"""Real servers on one Docker engine: killed while they build and push, and two at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import anyio
import httpx
import pytest
from real_server import Heard, RealServer, ask_again, hear, listening, log_lines

from engines.docker import DockerEngine
from engines.docker_builds import tidy
from engines.git_server import GitServer
from engines.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

CLIENTS = 50


@pytest.fixture
def git(docker_engine: DockerEngine, busybox_image: str, tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "git", docker_engine.address) as server:
        yield server
    tidy(docker_engine)


@pytest.fixture
def start(
    docker_engine: DockerEngine, repo2docker_image: str, git: GitServer, tmp_path: Path
) -> Iterator[Callable[[Registry], RealServer]]:
    """Return what starts a server that builds on the engine and pushes."""
    made: list[RealServer] = []

    def make(registry: Registry) -> RealServer:
        given = {
            "builder.kind": "docker",
            "builder.image_prefix": f"{registry.address}/docker-builds/",
            "builder.docker.host": docker_engine.host,
            "builder.docker.builder_image": repo2docker_image,
            "builder.docker.push": True,
            "launcher.kind": "none",
            "security.auth": "token",
            "security.key": "k" * 32,
            "asker.allow_networks": ["127.0.0.0/8", f"{docker_engine.address}/32"],
            "providers.git.schemes": ["http"],
        }
        server = RealServer(tmp_path / f"server-{len(made)}", given)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()


def spec_of(git: GitServer, registry: Registry, *, waits: bool) -> str:
    """Return the spec of a repository whose build waits for `go`, where it shall."""
    until = f"until wget -q -O /dev/null http://{git.host}/go; do sleep 0.2; done" if waits else ":"
    # An image of its own for each registry, or nothing would be pushed.
    url, commit = git.repository(
        "demo",
        {
            "Dockerfile": "FROM busybox:test\n"
            f"RUN echo {registry.address}; for i in $(seq 100); do echo early $i; done\n"
            "RUN dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null\n"
            f"RUN {until}; for i in $(seq 100); do echo late $i; done\n"
        },
    )
    return f"git/{quote(url, safe='')}/{commit}"


async def hear_words(client: httpx.AsyncClient, spec: str, words: str) -> list[Heard]:
    """Return what comes, up to a message with these words: buildx writes the time before them."""
    heard = []
    with anyio.fail_after(120):
        async with listening(client, spec, build_only=True) as events:
            async for one in events:
                heard.append(one)
                if f"{words}\n" in one.message:
                    return heard
    raise AssertionError(f"no {words!r} in {[one.data for one in heard[-5:]]}")


def go(git: GitServer, tmp_path: Path) -> None:
    (tmp_path / "git" / "go").touch()


def expect_whole(heard: list[Heard]) -> None:
    """Fail the test unless this is a whole stream, each line of it once and in order."""
    told = [one for one in heard if one.id and one.phase != "ready"]
    runs, numbers = zip(*(one.id.split(".") for one in told), strict=True)
    assert len(set(runs)) == 1
    assert [int(n) for n in numbers] == list(range(1, len(told) + 1))
    phases = [one.phase for one in heard]
    order = [phase for n, phase in enumerate(phases) if n == 0 or phases[n - 1] != phase]
    assert order == ["waiting", "fetching", "building", "pushing", "built", "ready"]
    text = "".join(one.message for one in heard)
    for word in ("early", "late"):
        places = [text.index(f"{word} {n}\n") for n in range(1, 101)]
        assert places == sorted(places)


@pytest.mark.parametrize("phase", ["building", "pushing"])
async def test_a_build_outlives_the_server(  # noqa: PLR0917 - fixtures
    docker_engine: DockerEngine,
    make_registry: Callable[..., Registry],
    git: GitServer,
    start: Callable[[Registry], RealServer],
    tmp_path: Path,
    phase: str,
) -> None:
    # The push takes a while: longer than the server is away.
    with make_registry(delay=0.05) as registry:
        server = start(registry)
        spec = spec_of(git, registry, waits=phase == "building")
        async with server.client() as client:
            if phase == "building":
                before = await hear_words(client, spec, "early 100")
            else:
                before = await hear(client, spec, build_only=True, until="pushing", within=120)
        server.kill()
        go(git, tmp_path)
        server.start()
        async with server.client() as client:
            last_id = before[-1].id
            after = await hear(client, spec, build_only=True, last_id=last_id, within=120)
            expect_whole(before + after)
            assert await ask_again(client, spec, after[-1].id) == 204
        runs = docker_engine.docker("ps", "-aq", "--filter", "label=io.binderkit.build").split()
        assert len(runs) == 1


async def test_two_servers_and_a_hundred_clients(
    docker_engine: DockerEngine,
    make_registry: Callable[..., Registry],
    git: GitServer,
    start: Callable[[Registry], RealServer],
    tmp_path: Path,
) -> None:
    with make_registry() as registry:
        servers = [start(registry), start(registry)]
        spec = spec_of(git, registry, waits=True)
        stories: list[list[Heard]] = []

        async def listen(server: RealServer) -> None:
            async with server.client() as client:
                stories.append(await hear(client, spec, build_only=True, within=180))

        async with anyio.create_task_group() as tasks:
            for server in servers:
                for _ in range(CLIENTS):
                    tasks.start_soon(listen, server)
            async with servers[1].client() as client:
                await hear_words(client, spec, "early 100")
            go(git, tmp_path)
        assert len(stories) == 2 * CLIENTS
        expect_whole(stories[0])
        assert {tuple(log_lines(heard)) for heard in stories} == {tuple(log_lines(stories[0]))}
        assert len({tuple(one.id for one in heard if one.id) for heard in stories}) == 1
        runs = docker_engine.docker("ps", "-aq", "--filter", "label=io.binderkit.build").split()
        assert len(runs) == 1
        # Found: the builder is not asked to build.
        async with servers[0].client() as client:
            again = await hear(client, spec, build_only=True)
        assert [one.phase for one in again] == ["built", "ready"]
