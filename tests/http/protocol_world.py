"""A server of the older protocol on the fake backend, and a GitHub that needs nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from serving import client_of, conf

from binder_backends.fake import FakeBuilder, FakeLauncher
from binder_core.engine import Binder
from binder_core.plugin import Asks, RefNotFound, Resolved, Spec, Store
from binder_core.providers.github import GitHub, GitHubSettings
from binder_http import keys
from binder_http.app import create_app
from binder_http.assembly import make_asker, make_store, open_binder
from binder_http.config import Config

REPOSITORY = "https://www.github.com/binder-project/example-requirements"
TEMPLATE = "binder-project-example-requirements"


class KnownGitHub(GitHub):
    """Knows every repository that is not called ``missing``, at a commit of its choice."""

    def __init__(self) -> None:
        super().__init__("gh", GitHubSettings())
        self.commit = "a" * 40
        self.urls: dict[str, str] = {}
        """Where repositories really are."""

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        if spec.repo.endswith("/missing"):
            raise RefNotFound(f"There is no repository {spec.repo}.")
        yield from ()  # asks nothing, as such dialogues may
        return self.pinned(spec, self.commit)

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        resolved = super().pinned(spec, ref)
        return replace(resolved, repo_url=self.urls.get(spec.repo, resolved.repo_url))


@dataclass
class World:
    client: httpx.AsyncClient
    binder: Binder
    config: Config
    github: KnownGitHub
    key: str

    @property
    def builder(self) -> FakeBuilder:
        assert isinstance(self.binder.builder, FakeBuilder)
        return self.binder.builder

    @property
    def launcher(self) -> FakeLauncher:
        assert isinstance(self.binder.launcher, FakeLauncher)
        return self.binder.launcher

    async def ask(
        self, method: str, path: str, json: Any = None, *, key: str | None = None, **more: Any
    ) -> httpx.Response:
        """Ask with the key; with another one or, where that is empty, with none."""
        given = self.key if key is None else key
        headers = {"authorization": given} if given else {}
        return await self.client.request(method, path, json=json, headers=headers, **more)

    async def start(self, repository: str = REPOSITORY, **more: Any) -> httpx.Response:
        return await self.ask("POST", "/builds/", {"repository": repository, **more})

    async def build(self, repository: str = REPOSITORY, status: str = "completed") -> str:
        """Build, and return the name when the build has come to this status."""
        answer = await self.start(repository)
        assert answer.status_code == 200, answer.text
        name: str = answer.json()["name"]
        await self.until(f"/builds/{name}", lambda told: told["status"] == status)
        return name

    async def until(self, path: str, good: Any) -> Any:
        """Return what a path answers once that is good."""
        async with asyncio.timeout(10):
            while True:
                answer = await self.ask("GET", path)
                if answer.status_code == 200 and good(answer.json()):
                    return answer.json()
                await asyncio.sleep(0.01)

    async def deployed(
        self, name: str = TEMPLATE, cull_timeout: float | None = None
    ) -> tuple[str, str]:
        """Deploy, and return the id and the location once it has one."""
        body = {"template-name": name, "cull-timeout": cull_timeout}
        answer = await self.ask("POST", "/applications/", body)
        assert answer.status_code == 200, answer.text
        ident = answer.json()["id"]
        told = await self.until(f"/applications/{name}/{ident}", lambda it: it["location"])
        return ident, told["location"]


def error(answer: httpx.Response) -> tuple[int, str]:
    """Return status and type of an error, and see that it is one."""
    told = answer.json()
    assert set(told) == {"type", "error"}, told
    assert told["error"]
    return answer.status_code, told["type"]


async def new_key(store: Store, name: str = "test") -> str:
    key, kept = keys.make(name, time.time())
    await store.add_key(kept)
    return key


@asynccontextmanager
async def world(
    state_dir: Path, flags: Mapping[str, Any] | None = None, *, with_key: bool = True
) -> AsyncGenerator[World]:
    """Return a server without a socket, and a key to it."""
    config = conf({"server.state_dir": str(state_dir)} | dict(flags or {}))
    github = KnownGitHub()
    asker = make_asker(config)
    key = ""
    if with_key:
        async with make_store(config) as store:
            key = await new_key(store)
    async with open_binder(config, asker=asker, providers={"gh": github}) as binder:
        app = create_app(config, binder=binder)
        async with app.test_app(), client_of(app, config.server.prefix) as client:
            yield World(client, binder, config, github, key)
