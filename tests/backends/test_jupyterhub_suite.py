"""The conformance suite on a real JupyterHub."""

from __future__ import annotations

import itertools

import httpx
import pytest

from binder_backends.jupyterhub.launcher import JupyterHubLauncher
from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_core.plugin import Launcher, LaunchRequest
from binder_core.testing import LauncherSuite
from engines.jupyterhub import JupyterHub

pytestmark = pytest.mark.real

_count = itertools.count()


class OnAHub(LauncherSuite):
    user = ""

    @pytest.fixture(autouse=True)
    def hub(self, jupyterhub: JupyterHub) -> None:
        self.jupyterhub = jupyterhub
        self.go = jupyterhub.folder / "go"
        self.go.unlink(missing_ok=True)
        if self.user:
            assert jupyterhub.call("POST", f"users/{self.user}").status_code in (201, 409)

    def make_launcher(self) -> Launcher:
        hub = self.jupyterhub
        return JupyterHubLauncher(
            JupyterHubSettings(url=hub.url, api_url=hub.api_url, token=hub.token, user=self.user)
        )

    def request(self, image: str) -> LaunchRequest:
        name = f"suite-{next(_count)}"
        return LaunchRequest(name, f"test/{image}:1", f"t0ken-of-{name}", "https://x.org/r", "abc")

    def request_that_launches(self) -> LaunchRequest:
        return self.request("ok")

    def request_that_fails(self) -> LaunchRequest:
        return self.request("full")

    def slow_request(self) -> LaunchRequest:
        return self.request("slow")

    async def release(self) -> None:
        self.go.touch()

    async def answers(self, url: str, token: str) -> bool:
        headers = {"authorization": f"token {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
            return (await client.get("api/status")).status_code == 200

    async def is_left(self, name: str) -> bool:
        hub = self.jupyterhub
        if self.user:
            known = hub.get(f"users/{self.user}?include_stopped_servers").json()["servers"]
            return name in known or bool(hub.servers(f"{self.user}/{name}"))
        return hub.get(f"users/{name}").status_code != 404 or bool(hub.servers(name))


class TestTemporaryUsers(OnAHub):
    pass


class TestNamedServers(OnAHub):
    user = "ada"


del OnAHub, LauncherSuite  # bases, not to be run
