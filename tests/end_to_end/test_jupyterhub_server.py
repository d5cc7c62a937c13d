"""``binder serve`` with a real JupyterHub: what a person sees when parts of it end."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread
import httpx
import pytest
from real_server import Heard, RealServer, hear, until
from repositories import Repositories

from engines.jupyterhub import JupyterHub
from engines.plug import Plug

pytestmark = [pytest.mark.anyio, pytest.mark.real]


def settings(hub: JupyterHub, image_prefix: str, plug: Plug | None = None) -> dict[str, object]:
    return {
        "builder.kind": "fake",
        "builder.image_prefix": f"test/{image_prefix}",
        "launcher.kind": "jupyterhub",
        "launcher.jupyterhub.url": hub.url,
        "launcher.jupyterhub.api_url": f"http://{plug.address}/hub/api" if plug else hub.api_url,
        "launcher.jupyterhub.token": hub.token,
        "security.auth": "token",
    }


async def answers(ready: Heard, hub: JupyterHub) -> None:
    """Fail unless one server takes the token of `ready`; end it."""
    url = str(ready.data["url"])
    name = url.removeprefix(f"{hub.url}user/").rstrip("/")
    headers = {"authorization": f"token {ready.data['token']}"}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.get("api/status")).status_code == 403
        assert (await client.get("api/status", headers=headers)).status_code == 200
    assert len(hub.servers(name)) == 1
    assert hub.call("DELETE", f"users/{name}").status_code == 204


def starting(hub: JupyterHub) -> list[str]:
    """Return the users whose servers the hub knows as processes that do not answer yet."""
    return [
        user["name"]
        for user in hub.get("users").json()
        for server in user["servers"].values()
        if server["state"].get("pid") and not server["ready"]
    ]


async def test_a_launch_outlives_the_server_and_the_hub(
    make_server: Callable[..., RealServer], repositories: Repositories, jupyterhub: JupyterHub
) -> None:
    spec = repositories.spec("launched", {"README": ""})
    go = jupyterhub.folder / "go"
    go.unlink(missing_ok=True)
    server = make_server(**settings(jupyterhub, "slow-"))
    async with server.client() as client:
        before = await hear(client, spec, until="Found some")
        await until(lambda: bool(starting(jupyterhub)), within=10)
    [name] = starting(jupyterhub)
    server.kill()
    await anyio.to_thread.run_sync(jupyterhub.kill)
    server.start()  # the hub may come up later
    async with server.client() as client, anyio.create_task_group() as tasks:
        away: list[Heard] = []
        # The new hub looks whether the server of the old one answers.
        busy = f"JupyterHub is busy with the server: {name} is pending check. Trying again..."

        async def come_back() -> None:
            away.extend(await hear(client, spec, until=busy, last_id=before[-1].id))

        tasks.start_soon(come_back)
        await until(lambda: server.connections() == 1, within=10)
        await anyio.to_thread.run_sync(jupyterhub.start)
    go.touch()
    async with server.client() as client:
        back = await hear(client, spec, last_id=away[-1].id)
    assert {one.phase for one in (*away, *back[:-1])} <= {"launching"}
    assert back[-1].phase == "ready", back[-1].message
    assert any("cannot be reached" in one.message for one in away)
    await answers(back[-1], jupyterhub)


async def test_a_cut_between_server_and_hub_is_told_and_costs_nothing(
    make_server: Callable[..., RealServer], repositories: Repositories, jupyterhub: JupyterHub
) -> None:
    spec = repositories.spec("cut", {"README": ""})
    with Plug(f"127.0.0.1:{jupyterhub.hub_port}") as plug:
        server = make_server(**settings(jupyterhub, "ok-", plug))
        plug.cut_at("POST /hub/api/users/", "answered")
        async with server.client() as client:
            heard = await hear(client, spec)
    assert plug.cuts == 1
    assert [one.phase for one in heard if one.phase in ("built", "ready")] == ["built", "ready"]
    assert any("Trying again" in one.message for one in heard if one.phase == "launching")
    await answers(heard[-1], jupyterhub)


async def test_a_refusal_of_the_hub_is_the_last_event(
    make_server: Callable[..., RealServer], repositories: Repositories, jupyterhub: JupyterHub
) -> None:
    spec = repositories.spec("full", {"README": ""})
    server = make_server(**settings(jupyterhub, "full"))
    async with server.client() as client:
        last = (await hear(client, spec))[-1]
    assert last.phase == "failed"
    assert "Your quota of 2 servers is used up." in last.message


def test_a_wrong_token_is_a_refusal_to_start(
    make_server: Callable[..., RealServer], jupyterhub: JupyterHub
) -> None:
    wrong = settings(jupyterhub, "ok-") | {"launcher.jupyterhub.token": "wr0ng"}
    with pytest.raises(AssertionError, match="does not know the token of the launcher") as log:
        make_server(**wrong)
    assert "wr0ng" not in str(log.value)
    assert "Traceback" not in str(log.value)
