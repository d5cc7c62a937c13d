"""From a repository to a location with our own client and commands, on each database."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio.to_thread
import pytest
from click.testing import CliRunner
from protocol_world import REPOSITORY, TEMPLATE, KnownGitHub, new_key
from serving import conf

from binder_http.assembly import make_store
from binder_http.cli import main
from binder_http.protocol_client import (
    AlreadyBuilding,
    BadRepoSource,
    BlockingClient,
    Client,
    DoesNotExist,
    MalformedRequest,
    NoBuildInfo,
    NoRecord,
    RegistryError,
    Unauthorized,
)
from binder_http.server import running
from postgres import binaries, cluster

pytestmark = pytest.mark.anyio

WITHIN: Final = 30.0
BUILD: Final = {"builder.fake.silent": 0.5}
"""Long enough to be asked about while it runs."""


@dataclass
class There:
    host: str
    port: int
    key: str


@asynccontextmanager
async def serving(folder: Path, **more: Any) -> AsyncGenerator[There]:
    config = conf({"server.state_dir": str(folder)} | BUILD | more)
    async with make_store(config) as store:
        key = await new_key(store)
    async with running(config, providers={"gh": KnownGitHub()}) as server:
        where = urlsplit(server.url)
        assert where.hostname is not None
        assert where.port is not None
        yield There(where.hostname, where.port, key)


async def with_the_client(there: There) -> None:
    async with Client(host=there.host, port=there.port, api_key=there.key) as client:
        name = (await client.build.start(repository=REPOSITORY))["name"]
        with pytest.raises(AlreadyBuilding) as again:
            await client.build.start(repository=REPOSITORY)
        assert again.value.suggestions
        async with asyncio.timeout(WITHIN):
            while (build := await client.build.status(image_name=name))["status"] != "completed":
                assert build["status"] in {"pending", "running"}
                await asyncio.sleep(0.02)
        assert build["repository"] == REPOSITORY
        assert await client.build.status_all() == [build]
        template = await client.registry.fetch(template_name=name)
        assert template["name"] == TEMPLATE
        assert await client.registry.fetch_all() == [template]
        await client.deploy.preload(template_name=name)
        await client.deploy.preload_status(template_name=name)
        ident = (await client.deploy.deploy(template_name=name, cull_timeout=600))["id"]
        async with asyncio.timeout(WITHIN):
            while True:
                deployed = await client.deploy.status(template_name=name, id=ident)
                if deployed["location"]:
                    break
                await asyncio.sleep(0.02)
        assert await client.deploy.status_all(template_name=name) == [deployed]
        assert await client.deploy.status_all() == [deployed]
        assert {part["status"] for part in await client.health.status()} == {"running"}


async def with_its_errors(there: There) -> None:
    async with Client(host=there.host, port=there.port, api_key=there.key) as client:
        for name in ("nothing", "a/b", "..x", "a b", "%2e%2e", "ü" * 100):
            with pytest.raises(DoesNotExist):
                await client.registry.fetch(template_name=name)
            with pytest.raises(NoBuildInfo):
                await client.build.status(image_name=name)
            with pytest.raises(NoRecord):
                await client.deploy.status(template_name=name, id=name)
            with pytest.raises(RegistryError):
                await client.deploy.deploy(template_name=name)
        with pytest.raises(BadRepoSource):
            await client.build.start(repository="https://nowhere.example/a/b")
        with pytest.raises(MalformedRequest):
            await client.registry.fetch(template_name="..")
        with pytest.raises(Unauthorized):
            await client.registry.fetch_all(api_key="wrong")


def without_an_event_loop(there: There) -> None:
    with BlockingClient(host=there.host, port=there.port, api_key=there.key) as client:
        name = client.build.start(repository=REPOSITORY, force=True)["name"]
        late = time.monotonic() + WITHIN
        while client.build.status(image_name=name)["status"] != "completed":
            assert time.monotonic() < late
            time.sleep(0.02)
        assert client.registry.fetch(template_name=name)["name"] == TEMPLATE


def with_commands(there: There) -> None:
    env = {
        "BINDER_HOST": there.host,
        "BINDER_PORT": str(there.port),
        "BINDER_API_KEY": there.key,
    }

    def binder(*args: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, args, env=env)
        assert done.exit_code == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    def poll(good: Callable[[Any], Any], *args: str) -> Any:
        late = time.monotonic() + WITHIN
        while not good(told := json.loads(binder(*args, "--json"))):
            assert time.monotonic() < late
            time.sleep(0.02)
        return told

    assert f"Starting the build of {REPOSITORY}\n" in binder("build", "start", REPOSITORY, "true")
    poll(lambda told: told["status"] == "completed", "build", "status", TEMPLATE)
    assert f"name          {TEMPLATE}\n" in binder("registry", "fetch", TEMPLATE)
    assert "is being preloaded" in binder("deploy", "preload", TEMPLATE)
    ident = json.loads(binder("deploy", "deploy", TEMPLATE, "60", "--json"))["id"]
    told = poll(lambda told: told["location"], "deploy", "status", TEMPLATE, ident)
    table = binder("deploy", "status-all", TEMPLATE)
    assert "ID " in table
    assert told["location"] in table
    error = binder("registry", "fetch", "nothing", status=1)
    assert error.startswith("Error: There is no template nothing\n  - Possible fix: ")


async def the_whole_way(there: There) -> None:
    await with_the_client(there)
    await with_its_errors(there)
    await anyio.to_thread.run_sync(without_an_event_loop, there)
    await anyio.to_thread.run_sync(with_commands, there)


async def test_on_sqlite(tmp_path: Path) -> None:
    async with serving(tmp_path) as there:
        await the_whole_way(there)


@pytest.mark.real
async def test_on_postgresql(tmp_path: Path, require: Callable[..., str]) -> None:
    require("postgres", "apt-get install postgresql", there=binaries() is not None)
    with cluster() as database:
        url = await database.new_database("whole_way")
        async with serving(tmp_path, **{"records.sql.url": url}) as there:
            await the_whole_way(there)
