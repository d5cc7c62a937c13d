"""From a link to a cell that runs: real repo2docker, engine, registry and hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import anyio
import httpx
import pytest
from docker_host import (
    HELD,
    PREFIX,
    DockerHost,
    expect_growth,
    expect_whole_log,
    image_of,
    in_registry,
    phases,
    repo,
)
from kernels import open_notebook
from real_server import Heard, ask_again, hear, listening, until

from engines.docker import DockerEngine
from engines.git_server import GitServer
from engines.jupyterhub import JupyterHub
from engines.plug import Plug, reply
from engines.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

CLIENTS = 50
PUSHED_BYTES = 8 * 2**20
DOCKERFILE = """\
FROM jupyter-base:test
COPY . /srv/demo
WORKDIR /srv/demo
RUN dd if=/dev/urandom of=/srv/big bs=1M count=8 2>/dev/null
RUN echo "a line of the Dockerfile"
"""
REAL: dict[str, object] = {"builder.docker.repo2docker": ["jupyter-repo2docker"]}


@pytest.fixture
def git(docker_engine: DockerEngine, tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "git", docker_engine.address) as server:
        yield server


@pytest.mark.usefixtures("jupyter_base")
@pytest.mark.parametrize("repo2docker", ["repo2docker_image", "old_repo2docker_image"])
async def test_a_repository_goes_all_the_way(
    docker_host: DockerHost,
    docker_hub: JupyterHub,
    git: GitServer,
    make_registry: Callable[..., Registry],
    *,
    repo2docker: str,
    request: pytest.FixtureRequest,
) -> None:
    real = {**REAL, "builder.docker.builder_image": request.getfixturevalue(repo2docker)}
    files = {"Dockerfile": DOCKERFILE, "index.ipynb": "{}", "told.txt": "by the repository"}
    url, commit = git.repository("demo", files)
    spec = f"git/{quote(url, safe='')}/HEAD"
    # A new one: it has none of the layers yet.
    with make_registry() as registry:
        server = docker_host.server(docker_host.settings(registry, docker_hub) | real)
        async with server.client() as client:
            heard = await hear(client, spec, within=300)
            assert phases(heard) == [
                *("waiting", "fetching", "building", "pushing", "built", "launching", "ready")
            ], heard[-1].data
            image = image_of(heard)
            assert image.startswith(f"{registry.address}/{PREFIX}")
            assert image.endswith(f":{commit}")
            assert in_registry(registry, image)
            assert "a line of the Dockerfile" in "".join(one.message for one in heard)
            expect_growth(heard, at_least=PUSHED_BYTES)
            ready = heard[-1].data
            assert ready["image"] == image
            await expect_notebook(ready)
            builds = docker_host.containers("io.binderkit.build")
            assert len(builds) == 1

            # It is there now: nobody builds, somebody else gets a server of the same image.
            again = await hear(client, spec, within=120)
            await expect_a_hit(again, image)
            assert again[-1].data["url"] != ready["url"]
            assert again[-1].data["token"] != ready["token"]
            assert await ask_again(client, spec, again[-1].id) == 204

        # So it is for a server that launches on the engine, without a hub.
        alone = docker_host.server(docker_host.settings(registry) | real)
        async with alone.client() as client:
            await expect_a_hit(await hear(client, spec, within=120), image)
    after = docker_host.containers("io.binderkit.build")
    assert [each["Id"] for each in after] == [each["Id"] for each in builds]
    assert len(docker_host.running(image)) == 3


async def expect_a_hit(heard: list[Heard], image: str) -> None:
    assert phases(heard) == ["built", "launching", "ready"], heard[-1].data
    assert image_of(heard) == image
    await expect_notebook(heard[-1].data)


async def expect_notebook(ready: Mapping[str, str]) -> None:
    code = "print(6 * 7, open('told.txt').read())"
    assert await open_notebook(ready["url"], ready["token"], code) == "42 by the repository\n"


async def test_a_hundred_on_two_servers_hear_the_same_of_one_build(
    docker_host: DockerHost, image_registry: Registry
) -> None:
    wanted = repo("building")
    settings = docker_host.settings(image_registry)
    servers = [docker_host.server(settings) for _ in range(2)]
    stories: list[list[Heard]] = []
    waiting = 0

    async with servers[0].client() as one, servers[1].client() as other:

        async def watch(client: httpx.AsyncClient) -> None:
            nonlocal waiting
            story: list[Heard] = []
            async with listening(client, wanted.spec, build_only=True) as events:
                async for event in events:
                    waiting += event.message == f"{HELD}\n"
                    story.append(event)
            stories.append(story)

        with anyio.fail_after(120):
            async with anyio.create_task_group() as tasks:
                for _ in range(CLIENTS):
                    tasks.start_soon(watch, one)
                    tasks.start_soon(watch, other)
                await until(lambda: waiting == 2 * CLIENTS, within=60)
                docker_host.open_gate(wanted)

    assert len(stories) == 2 * CLIENTS
    for story in stories:
        expect_whole_log(story)
        assert story[-1].phase == "ready"
    told = [
        [(one.id, one.data) for one in story if one.id and one.phase != "ready"]
        for story in stories
    ]
    assert all(each == told[0] for each in told)
    assert len(docker_host.builds(wanted)) == 1


async def test_a_registry_that_refuses_the_push_is_named(
    docker_host: DockerHost, make_registry: Callable[..., Registry]
) -> None:
    # Who names no user may pull: the image can be asked for, and is not there.
    with make_registry(users={"pusher": "pass-word"}, tokens=True) as registry:
        server = docker_host.server(docker_host.settings(registry))
        async with server.client() as client:
            heard = await hear(client, repo().spec)
    assert phases(heard) == ["waiting", "fetching", "building", "pushing", "failed"]
    assert f"The registry {registry.address} refused the push" in heard[-1].message
    assert "login" in heard[-1].message


async def test_a_registry_that_refuses_to_say_is_no_reason_to_build(
    docker_host: DockerHost, make_registry: Callable[..., Registry]
) -> None:
    wanted = repo()
    with make_registry(users={"pusher": "pass-word"}) as registry:
        settings = docker_host.settings(registry) | {"limits.retry_for": 0.5}
        server = docker_host.server(settings)
        async with server.client() as client:
            heard = await hear(client, wanted.spec)
    assert phases(heard) == ["failed"]
    assert registry.address in heard[-1].message
    assert docker_host.builds(wanted) == []


async def test_a_hub_that_answers_5xx_twice_and_then_works(
    docker_host: DockerHost, image_registry: Registry, docker_hub: JupyterHub
) -> None:
    with Plug(f"127.0.0.1:{docker_hub.hub_port}") as plug:
        settings = docker_host.settings(image_registry, docker_hub)
        settings["launcher.jupyterhub.api_url"] = f"http://{plug.address}/hub/api"
        server = docker_host.server(settings)
        plug.answer(
            "POST /hub/api/users/",
            reply("503 Service Unavailable", '{"message": "not now"}'),
            reply("500 Internal Server Error", "oh"),
        )
        async with server.client() as client:
            heard = await hear(client, repo().spec)
    assert phases(heard)[-2:] == ["launching", "ready"]
    assert len(docker_host.running(image_of(heard))) == 1


async def test_a_server_that_can_not_work_does_not_start(
    docker_host: DockerHost,
    image_registry: Registry,
    docker_hub: JupyterHub,
    busybox_image: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    for settings, part, cure in (
        ({"builder.docker.host": f"unix://{tmp_path}/no.sock"}, "Docker engine", "start the"),
        ({"builder.docker.host": f"unix://{tmp_path}/file"}, "Docker engine", "set host"),
        ({"builder.docker.host": "docker.sock"}, "Docker engine", "unix://"),
        ({"launcher.docker.host": f"unix://{tmp_path}/no"}, "Docker engine", "set host"),
        ({"launcher.docker.network": "no-such"}, "network no-such", "docker network create"),
        ({"builder.docker.builder_image": "none:test"}, "none:test", "docker build -t none"),
        ({"builder.docker.builder_image": busybox_image}, "runner", "runner = false"),
    ):
        said = docker_host.refusal(docker_host.settings(image_registry) | settings)
        assert part in said, said
        assert cure in said, said
    for settings, part, cure in (
        ({"launcher.jupyterhub.token": "wrong"}, "JupyterHub", "api_token"),
        ({"launcher.jupyterhub.token": ""}, "JupyterHub", "token_file"),
        ({"launcher.jupyterhub.api_url": f"{image_registry.url}/v2"}, "no JupyterHub", "api_url"),
    ):
        said = docker_host.refusal(docker_host.settings(image_registry, docker_hub) | settings)
        assert part in said, said
        assert cure in said, said
