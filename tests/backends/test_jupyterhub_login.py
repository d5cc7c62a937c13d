"""A hub where people log in (`binder_auth`): a real one, DockerSpawner, a real engine."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from binder_backends.jupyterhub.launcher import JupyterHubLauncher
from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_core.plugin import LaunchRequest
from binder_core.testing.reports import LaunchLog
from engines.docker import DockerEngine
from engines.jupyterhub import SOURCE, HubSoftware, JupyterHub

pytestmark = [pytest.mark.real, pytest.mark.anyio]

DEPLOY = SOURCE.parent / "deploy" / "jupyterhub" / "jupyterhub_config.py"
PASSWORD = "pass-word-of-people"
TOKEN = "t0ken-that-nobody-guesses"
# What docs/jupyterhub.md says, on top of the configuration for one host.
CONFIG = """\
load_subconfig({deploy!r})
c.BinderMixin.binder_auth = True
c.JupyterHub.allow_named_servers = True
c.JupyterHub.hub_ip = {address!r}
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.Authenticator.allowed_users = {{"person", "other"}}
for service in c.JupyterHub.services:
    if service["name"] == "cull":
        service["command"].remove("--cull-users=true")
for role in c.JupyterHub.load_roles:
    if role["name"] == "binder":
        role["scopes"] = ["servers!user=person"]
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # the launcher's other tests run on both


@pytest.fixture(scope="module")
def hub(
    hub_software: HubSoftware,
    docker_engine: DockerEngine,
    jupyter_base: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[JupyterHub]:
    folder: Path = tmp_path_factory.mktemp("login-hub")
    config = folder / "login.py"
    given = {"deploy": str(DEPLOY), "address": docker_engine.address, "password": PASSWORD}
    config.write_text(CONFIG.format(**given))
    env = {"DOCKER_HOST": docker_engine.host}
    images = f"{jupyter_base.partition(':')[0]}.*"
    with JupyterHub(folder, hub_software, config, env, images=images) as hub:
        yield hub


@asynccontextmanager
async def browser(hub: JupyterHub, user: str = "") -> AsyncGenerator[httpx.AsyncClient]:
    """Return somebody's browser, logged in to the hub unless it is nobody's."""
    async with httpx.AsyncClient(follow_redirects=True, trust_env=False, timeout=30) as client:
        if user:
            page = f"{hub.url}hub/login"
            await client.get(page)
            form = {"username": user, "password": PASSWORD, "_xsrf": client.cookies["_xsrf"]}
            told = await client.post(page, data=form, params={"next": "/hub/home"})
            assert (told.status_code, told.url.path) == (200, "/hub/home"), told.text
        yield client


async def test_a_server_opens_for_the_hubs_login_of_its_user_only(
    hub: JupyterHub, docker_engine: DockerEngine, jupyter_base: str
) -> None:
    name = f"login-{time.monotonic_ns()}"
    request = LaunchRequest(name, jupyter_base, TOKEN, "https://x.org/repo", "abc123")
    settings = JupyterHubSettings(url=hub.url, token=hub.token, user="person")
    async with JupyterHubLauncher(settings) as launcher:
        with anyio.fail_after(120):
            url = await launcher.launch(request, LaunchLog())
        try:
            assert url == f"{hub.url}user/person/{name}/"
            assert await launcher.running(request)
            status, file = f"{url}api/status", f"{url}files/etc/os-release"
            async with browser(hub) as nobody:
                assert (await nobody.get(file)).url.path == "/hub/login"
                known = {"authorization": f"token {TOKEN}"}
                assert (await nobody.get(status, headers=known)).status_code == 403
                linked = await nobody.get(file, params={"token": TOKEN})
                assert linked.url.path == "/hub/login", "the token of the launch opens nothing"
            async with browser(hub, "other") as other:
                assert (await other.get(file)).status_code == 403
                assert (await other.get(status)).status_code == 403
            async with browser(hub, "person") as person:
                opened = await person.get(file)
                assert (opened.status_code, str(opened.url)) == (200, file), opened.text
                assert "debian" in opened.text.lower()
                assert "started" in (await person.get(status)).json()
            assert TOKEN not in docker_engine.docker("ps", "--all", "--no-trunc")
        finally:
            await launcher.stop(request)
        assert not await launcher.running(request)
