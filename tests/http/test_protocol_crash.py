"""Two servers on one PostgreSQL, of which one is killed while it writes."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from protocol_world import new_key
from serving import KEY, until

from binder_backends.store import SqlStore, StoreSettings
from binder_core.plugin import BuildStatus
from postgres import Cluster, binaries, cluster

pytestmark = [pytest.mark.anyio, pytest.mark.real]

ANSWERED = 15
"""Builds a round that are answered before the kill."""
WORKERS = 6


@pytest.fixture(scope="module")
def database(require: Callable[..., str]) -> Iterator[Cluster]:
    require("postgres", "apt-get install postgresql", there=binaries() is not None)
    with cluster() as made:
        yield made


class Server:
    """A server process."""

    def __init__(self, url: str, folder: Path) -> None:
        self._settings = {
            "builder.kind": "fake",
            # Long enough to be killed in the middle of.
            "builder.fake.lines": 20,
            "builder.fake.rate": 100.0,
            "security.key": KEY,
            "server.port": 0,
            "server.access_log": False,
            "server.state_dir": str(folder),
            "records.sql.url": url,
            "records.lease": 1.0,
        }
        self.url = ""

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("protocol_server.py")),
            json.dumps(self._settings),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.url = (await self.process.stdout.readline()).decode().strip()
        assert self.url

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


class Crowd:
    """Starts builds and launches on all servers, and notes what was answered."""

    def __init__(self, servers: list[Server], client: httpx.AsyncClient) -> None:
        self.builds: list[str] = []
        self.deployments: list[tuple[str, str]] = []
        self._servers = servers
        self._client = client
        self._numbers = itertools.count()
        self._working = False

    @asynccontextmanager
    async def at_work(self) -> AsyncGenerator[None]:
        self._working = True
        workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        try:
            yield
        finally:
            # Not cancelled: a connection that is just being made would be left open.
            self._working = False
            await asyncio.wait(workers)

    async def answered(self, more: int) -> None:
        """Return when so many more builds were answered, and a launch."""
        builds, launches = len(self.builds) + more, len(self.deployments) + 1
        await until(
            lambda: len(self.builds) >= builds and len(self.deployments) >= launches, within=60
        )

    async def _work(self) -> None:
        while self._working:
            number = next(self._numbers)
            server = self._servers[number % len(self._servers)]
            try:
                await self._ask(server.url, number)
            except httpx.TransportError:
                await asyncio.sleep(0.05)  # that one is dead

    async def _ask(self, url: str, number: int) -> None:
        body = {"repository": f"https://github.com/owner/repo-{number}"}
        answer = await self._client.post(f"{url}builds/", json=body)
        if answer.status_code == 200:
            self.builds.append(answer.json()["name"])
        if self.builds:
            body = {"template-name": self.builds[0]}
            answer = await self._client.post(f"{url}applications/", json=body)
            if answer.status_code == 200:
                self.deployments.append((self.builds[0], answer.json()["id"]))


async def test_what_was_answered_is_kept(database: Cluster, tmp_path: Path) -> None:
    url = await database.new_database("crash")
    servers = [Server(url, tmp_path / "a"), Server(url, tmp_path / "b")]
    async with SqlStore(StoreSettings(url=url), tmp_path) as store:
        headers = {"authorization": await new_key(store)}
        async with httpx.AsyncClient(headers=headers, timeout=20, trust_env=False) as client:
            crowd = Crowd(servers, client)
            try:
                for server in servers:
                    await server.start()
                for victim in servers:
                    async with crowd.at_work():
                        await crowd.answered(ANSWERED)
                        await victim.kill()
                    await victim.start()
                await all_ended(store)
            finally:
                for server in servers:
                    await server.kill()
        await nothing_lost(store, crowd)


async def all_ended(store: SqlStore) -> None:
    async with asyncio.timeout(60):
        while any(build.status.live for build in await store.builds()):  # noqa: ASYNC110 - it is a database
            await asyncio.sleep(0.1)


async def nothing_lost(store: SqlStore, crowd: Crowd) -> None:
    kept = {build.name: build for build in await store.builds()}
    assert set(crowd.builds) <= set(kept), "answered 200, and gone"
    templates = {template.name for template in await store.templates()}
    for name, build in kept.items():
        assert build.status is BuildStatus.COMPLETED, (name, build.message)
        assert name in templates, f"{name} is completed, and no template"
        log = await store.log(name)
        assert log is not None, f"{name} is completed, and no log"
        assert zlib.decompress(log).decode().splitlines()[-1].startswith(("Built", "Found"))
    assert crowd.deployments
    for template, ident in crowd.deployments:
        assert await store.deployment(template, ident) is not None
