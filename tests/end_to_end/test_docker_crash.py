"""Servers are killed, and the engine ends, in mid build: on a real engine, with a real registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import anyio
import anyio.to_thread
import httpx
import pytest
from docker_host import (
    DONE,
    HELD,
    LINES,
    DockerHost,
    Repo,
    expect_growth,
    expect_whole_log,
    image_of,
    in_registry,
    phases,
    repo,
)
from real_server import Heard, RealServer, ask_again, hear, listening, until

from engines.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

ANSWER_WITHIN = 60.0
"""Seconds after the engine is back within which who watched a build hears how it ended: said in
docs/docker.md."""


async def test_killed_while_building(docker_host: DockerHost, image_registry: Registry) -> None:
    wanted = repo("building")
    server = docker_host.server(docker_host.settings(image_registry))
    async with server.client() as client:
        before = await hear(client, wanted.spec, until=HELD)
        early = await hear(client, wanted.spec, until="early 7")
    server.kill()
    docker_host.open_gate(wanted)
    # It is built and pushed while nobody looks.
    (build,) = docker_host.builds(wanted)
    await until(lambda: not docker_host.running_build(wanted), within=60)
    server.start()
    async with server.client() as client:
        heard = before + await hear(client, wanted.spec, last_id=before[-1].id)
        other = early + await hear(client, wanted.spec, last_id=early[-1].id)
        await expect_the_end(docker_host, server, wanted, [heard, other])
    assert [each["Id"] for each in docker_host.builds(wanted)] == [build["Id"]]
    assert in_registry(image_registry, image_of(heard))
    assert len(docker_host.running(image_of(heard))) == 2, "one for each who asked"


async def test_killed_while_pushing(
    docker_host: DockerHost, make_registry: Callable[..., Registry]
) -> None:
    wanted = repo()
    # 4 MB in 64 pieces: the server is back before the end.
    with make_registry(delay=0.2) as registry:
        server = docker_host.server(docker_host.settings(registry))
        async with server.client() as client:
            before = await hear_bytes(client, wanted)
        server.kill()
        assert registry.wire is not None
        registry.wire.delay = 1.0
        server.start()
        assert docker_host.running_build(wanted)
        async with server.client() as client:
            later = await hear_bytes(client, wanted, last_id=before[-1].id)
            registry.wire.delay = 0.0
            rest = await hear(client, wanted.spec, last_id=later[-1].id)
            heard = before + later + rest
            await expect_the_end(docker_host, server, wanted, [heard])
        expect_growth(heard, at_least=4 * 2**20)
        assert in_registry(registry, image_of(heard))
    assert len(docker_host.builds(wanted)) == 1
    assert len(docker_host.running(image_of(heard))) == 1


async def test_killed_when_nothing_is_heard_of_a_launch_yet(
    docker_host: DockerHost, image_registry: Registry
) -> None:
    wanted = repo("launching")
    server = docker_host.server(docker_host.settings(image_registry))
    before: list[Heard] = []
    async with server.client() as client:
        # What comes behind it is lost.
        with anyio.fail_after(60), contextlib.suppress(httpx.TransportError):
            async with listening(client, wanted.spec) as events:
                async for one in events:
                    before.append(one)
                    if one.phase == "built":
                        break
                image = image_of(before)
                await until(lambda: len(docker_host.running(image)) == 1, within=30)
                server.kill()
    (container,) = docker_host.running(image)
    docker_host.let_answer(image)
    server.start()
    async with server.client() as client:
        heard = before + await hear(client, wanted.spec, last_id=before[-1].id)
        await expect_the_end(docker_host, server, wanted, [heard])
    assert docker_host.running(image) == [container], "the launch that was begun, and no other"
    assert len(docker_host.builds(wanted)) == 1


@pytest.mark.parametrize("launcher", ["docker", "jupyterhub"])
async def test_killed_while_launching(
    docker_host: DockerHost,
    image_registry: Registry,
    launcher: str,
    request: pytest.FixtureRequest,
) -> None:
    hub = request.getfixturevalue("docker_hub") if launcher == "jupyterhub" else None
    wanted = repo("launching")
    server = docker_host.server(docker_host.settings(image_registry, hub))
    async with server.client() as client:
        before = await hear(client, wanted.spec, until="launching")
        image = image_of(before)
        # Its server was started, and does not answer yet.
        await until(lambda: len(docker_host.running(image)) == 1, within=30)
    server.kill()
    (container,) = docker_host.running(image)
    server.start()
    async with server.client() as client:
        stories: list[list[Heard]] = []

        async def come_back() -> None:
            stories.append(before + await hear(client, wanted.spec, last_id=before[-1].id))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(come_back)
            await until(lambda: server.connections() >= 3, within=10)
            docker_host.let_answer(image)
        await expect_the_end(docker_host, server, wanted, stories)
    assert docker_host.running(image) == [container]
    assert len(docker_host.builds(wanted)) == 1


@pytest.mark.parametrize("orderly", [True, False])
async def test_the_engine_restarts_while_building(
    docker_host: DockerHost, image_registry: Registry, *, orderly: bool
) -> None:
    wanted = repo("building")
    server = docker_host.server(docker_host.settings(image_registry))
    async with server.client() as client:
        stories: list[list[Heard]] = []
        holding = 0

        async def watch() -> None:
            nonlocal holding
            heard = []
            async with listening(client, wanted.spec, build_only=True) as events:
                async for one in events:
                    holding += one.message == f"{HELD}\n"
                    heard.append(one)
            stories.append(heard)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(watch)
            await until(lambda: holding == 3, within=60)
            await anyio.to_thread.run_sync(lambda: docker_host.engine.restart(orderly=orderly))
            await until(lambda: len(stories) == 3, within=ANSWER_WITHIN)
        for heard in stories:
            assert [one.phase for one in heard if one.phase in {"built", "ready"}] == []
            assert heard[-1].phase == "failed"
            assert "restarted" in heard[-1].message
            assert [one.message for one in heard if one.message.startswith("early ")] == [
                f"early {n}\n" for n in range(1, LINES + 1)
            ]
        assert len({(heard[-1].id, heard[-1].message) for heard in stories}) == 1
        assert await ask_again(client, wanted.spec, stories[0][-1].id) == 204
        (build,) = docker_host.builds(wanted)
        assert not docker_host.running_build(wanted)

        # What it left is no image: who asks now has it built.
        docker_host.open_gate(wanted)
        again = await hear(client, wanted.spec, build_only=True)
    assert again[0].phase == "waiting"
    assert f"{DONE}\n" in [one.message for one in again]
    assert in_registry(image_registry, image_of(again))
    assert {each["Id"] for each in docker_host.builds(wanted)} > {build["Id"]}


async def test_the_engine_is_killed_while_pushing(
    docker_host: DockerHost, make_registry: Callable[..., Registry]
) -> None:
    wanted = repo()
    with make_registry(delay=0.3) as registry:
        server = docker_host.server(docker_host.settings(registry))
        async with server.client() as client:
            before = await hear_bytes(client, wanted)
            await anyio.to_thread.run_sync(lambda: docker_host.engine.restart(orderly=False))
            after = await hear(client, wanted.spec, last_id=before[-1].id, within=ANSWER_WITHIN)
            assert [one.phase for one in after if one.phase in {"built", "ready"}] == []
            assert after[-1].phase == "failed"
            assert await ask_again(client, wanted.spec, after[-1].id) == 204

            # The engine has the image, and the registry a part of it: that is not there yet.
            (build,) = docker_host.builds(wanted)
            image = build["Config"]["Labels"]["io.binderkit.image"]
            assert docker_host.engine.inspect(image) is not None
            assert not in_registry(registry, image)
            assert registry.wire is not None
            registry.wire.delay = 0.0
            again = await hear(client, wanted.spec)
        assert again[0].phase == "waiting"
        assert again[-1].phase == "ready"
        expect_whole_log(again)
        assert image_of(again) == image
        assert in_registry(registry, image)
    assert len(docker_host.builds(wanted)) == 2


async def hear_bytes(client: httpx.AsyncClient, wanted: Repo, *, last_id: str = "") -> list[Heard]:
    """Return what comes until bytes are pushed."""
    heard: list[Heard] = []
    with anyio.fail_after(60):
        async with listening(client, wanted.spec, last_id=last_id) as events:
            async for one in events:
                heard.append(one)
                states = (one.data.get("progress") or {}).values()
                if any(isinstance(state, dict) for state in states):
                    return heard
    raise AssertionError(f"nothing was pushed: {[one.data for one in heard[-3:]]}")


async def expect_the_end(
    host: DockerHost, server: RealServer, wanted: Repo, stories: list[list[Heard]]
) -> None:
    """Fail the test unless all heard the whole, and of one and the same notebook server."""
    for heard in stories:
        expect_whole_log(heard)
        assert phases(heard)[-3:] == ["built", "launching", "ready"], heard[-1].data
        assert len([one for one in heard if one.phase == "ready"]) == 1
        ready = heard[-1]
        async with httpx.AsyncClient(base_url=ready.data["url"], trust_env=False) as client:
            headers = {"authorization": f"token {ready.data['token']}"}
            assert (await client.get("api/status")).status_code == 403
            assert (await client.get("api/status", headers=headers)).json()["started"]
        async with server.client() as client:
            assert await ask_again(client, wanted.spec, ready.id) == 204
