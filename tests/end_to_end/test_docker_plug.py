"""The plug is pulled for ten seconds: whatever a request is at, it is launched all the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import anyio
import httpx
import pytest
from docker_host import (
    HELD,
    HELD_EARLY,
    DockerHost,
    Repo,
    expect_whole_log,
    image_of,
    phases,
    repo,
)
from real_server import Heard, listening, until

from engines.jupyterhub import JupyterHub
from engines.registry import Registry
from engines.wire import Wire

pytestmark = [pytest.mark.real, pytest.mark.anyio]

CUT: Final = 10.0


class Watched:
    """A request, and what came of it so far."""

    def __init__(self, host: DockerHost, wanted: Repo) -> None:
        self.repo = wanted
        self.heard: list[Heard] = []
        self._host = host

    async def watch(self, client: httpx.AsyncClient) -> None:
        async with listening(client, self.repo.spec) as events:
            async for one in events:
                self.heard.append(one)

    def said(self, message: str) -> bool:
        return any(one.message == f"{message}\n" for one in self.heard)

    def pushes(self) -> bool:
        states = [
            state for one in self.heard for state in (one.data.get("progress") or {}).values()
        ]
        return any(isinstance(state, dict) for state in states)

    def launches(self) -> bool:
        """Return whether its notebook server was started; it answers when it is let."""
        return phases(self.heard)[-1:] == ["launching"] and bool(
            self._host.running(image_of(self.heard))
        )


@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
@pytest.mark.parametrize("to", ["hub", "registry"])
async def test_ten_seconds_without(
    docker_host: DockerHost,
    docker_hub: JupyterHub,
    make_registry: Callable[..., Registry],
    to: str,
    *,
    silent: bool,
) -> None:
    fetching, building, pushing, launching, late = every = [
        Watched(docker_host, repo(holds))
        for holds in ("fetching", "building", "pushing", "launching", "")
    ]
    async with AsyncExitStack() as stack:
        registry = stack.enter_context(make_registry(delay=0.001))
        hub_wire = stack.enter_context(Wire(f"127.0.0.1:{docker_hub.hub_port}"))
        assert registry.wire is not None
        wire = {"hub": hub_wire, "registry": registry.wire}[to]
        settings = docker_host.settings(registry, docker_hub)
        settings["launcher.jupyterhub.api_url"] = f"http://{hub_wire.address}/hub/api"
        server = docker_host.server(settings)
        client = await stack.enter_async_context(server.client())
        with anyio.fail_after(150):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(launching.watch, client)
                await until(launching.launches, within=60)
                tasks.start_soon(fetching.watch, client)
                tasks.start_soon(building.watch, client)
                await until(lambda: fetching.said(HELD_EARLY), within=60)
                await until(lambda: building.said(HELD), within=60)
                registry.wire.delay = 0.2
                tasks.start_soon(pushing.watch, client)
                await until(pushing.pushes, within=60)

                wire.cut(silent=silent)
                registry.wire.delay = 0.001
                # All run into it: who asks now, too.
                tasks.start_soon(late.watch, client)
                docker_host.open_gate(fetching.repo)
                docker_host.open_gate(building.repo)
                docker_host.let_answer(image_of(launching.heard))
                await anyio.sleep(CUT)
                ready = [each for each in every if phases(each.heard)[-1:] == ["ready"]]
                wire.mend()

    # Nobody got by: but for who launches already, and has no more need of the registry.
    assert [each for each in ready if to == "hub" or each is not launching] == []
    for each in every:
        assert phases(each.heard)[-3:] == ["built", "launching", "ready"], each.heard[-1].data
        expect_whole_log(each.heard)
        assert len(docker_host.builds(each.repo)) == 1
        assert len(docker_host.running(image_of(each.heard))) == 1
    # (Whether bytes only grow is asked elsewhere: a layer that was cut off is sent anew.)
    states = [one.data["progress"] for one in pushing.heard if one.data.get("progress")]
    assert set(states[-1].values()) <= {"Pushed", "Layer already exists"}
