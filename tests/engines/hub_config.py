"""A JupyterHub whose servers are small processes: for the tests that need many of them.

Read by the hub itself, in its own environment. What a server does is said by its image's name.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from jupyterhub.spawner import SimpleLocalProcessSpawner
from tornado.web import HTTPError
from traitlets import Unicode

from binder_backends.jupyterhub.spawner import BinderMixin

FOLDER = Path(os.environ["HUB_FOLDER"])


class ProcessSpawner(BinderMixin, SimpleLocalProcessSpawner):  # type: ignore[misc] # the hub's
    image = Unicode()

    @property
    def binder_token_path(self) -> str:  # type: ignore[override] # one for each server
        return str(FOLDER / f"token-{self.user.name}-{self.name}")

    def start(self) -> Any:
        self._take_options()
        if self.image.startswith("test/stuck"):
            self.start_timeout = 1
        Path(self.binder_token_path).write_text(self.binder_token)
        return self._start()

    async def _start(self) -> Any:
        if self.image.startswith("test/full"):
            error = HTTPError(403, "no")
            error.jupyterhub_message = "Your quota of 2 servers is used up."
            raise error
        if self.image.startswith("test/waits"):  # while the spawner still works
            while not (FOLDER / "go").exists():  # noqa: ASYNC110 - a condition of another process
                await asyncio.sleep(0.02)
        elif self.image.startswith("test/stuck"):
            await asyncio.sleep(3600)
        elif self.image.startswith("test/mute"):
            self.http_timeout = 1
        return await super().start()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        yield {"progress": 20, "message": f"Looking for room for {self.user.name}"}
        yield {"progress": 40, "message": "Found some"}

    def get_args(self) -> list[str]:
        return [str(FOLDER), self.image, *super().get_args()]

    async def stop(self, now: bool = False) -> None:  # noqa: FBT001, FBT002 - the hub's
        await super().stop(now=now)
        Path(self.binder_token_path).unlink(missing_ok=True)  # noqa: ASYNC240 - a moment


c = get_config()  # type: ignore[name-defined] # noqa: F821 - JupyterHub gives it to this file

c.JupyterHub.spawner_class = ProcessSpawner
c.JupyterHub.authenticator_class = "null"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.BinderMixin.binder_image_pattern = r"test/.*"
c.Spawner.cmd = [sys.executable, "-IS", str(Path(__file__).with_name("hub_server.py"))]
c.SimpleLocalProcessSpawner.home_dir_template = str(FOLDER / "home" / "{username}")
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 2
c.JupyterHub.services = [
    {"name": name, "api_token": token}
    for name, token in json.loads(os.environ["HUB_TOKENS"]).items()
]
c.JupyterHub.load_roles = [
    {"name": "binder", "services": ["binder"], "scopes": ["admin:users", "admin:servers"]},
    {"name": "weak", "services": ["weak"], "scopes": ["read:servers"]},
]
