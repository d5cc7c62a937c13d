"""The older protocol's whole way with our own client and commands, to a notebook that opens."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from repositories import GitDaemon, Repositories
from test_older_client import WITHIN, general, opens

from binder_http import keys
from binder_http.assembly import make_store
from binder_http.config import load
from binder_http.protocol_client import Client
from binder_http.server import Running, running

pytestmark = [pytest.mark.anyio, pytest.mark.real]


async def command(server: Running, key: str, *args: str) -> Any:
    """Return what a command printed as JSON."""
    where = urlsplit(server.url)
    env = {
        "BINDER_HOST": str(where.hostname),
        "BINDER_PORT": str(where.port),
        "BINDER_API_KEY": key,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "binder_http.cli", *args, "--json"),
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def completed(told: Mapping[str, Any]) -> bool:
    assert told["status"] != "failed"
    return bool(told["status"] == "completed")


def location(told: Mapping[str, Any]) -> Any:
    return told["location"]


async def until(ask: Callable[[], Awaitable[Any]], good: Callable[[Any], Any]) -> Any:
    """Return what `good` makes of an answer, once that is something."""
    while True:
        if found := good(await ask()):
            return found
        await asyncio.sleep(0.1)


@pytest.mark.usefixtures("package_index")
async def test_the_whole_way_to_a_notebook(
    repositories: Repositories,
    git_daemon: GitDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All cores are busy with it for ten seconds otherwise.
    monkeypatch.setenv("UV_COMPILE_BYTECODE", "0")
    repositories.make("example-requirements", {"requirements.txt": "tomli-w\n", "here.txt": "yes"})
    repository = f"git://127.0.0.1:{git_daemon.port}/example-requirements"
    cache = str(tmp_path / "cache")
    flags = general(tmp_path) | {
        "builder.kind": "local",
        "builder.local.cache_dir": cache,
        "builder.local.jupyter_packages": ("jupyter-server", "ipykernel"),
        "launcher.local.cache_dir": cache,
        "launcher.local.state_dir": str(tmp_path / "servers"),
    }
    async with running(load(env={}, flags=flags)) as server, asyncio.timeout(WITHIN):
        async with make_store(server.config) as store:
            key, kept = keys.make("our own", time.time())
            await store.add_key(kept)
        where = urlsplit(server.url)
        async with Client(host=where.hostname, port=where.port, api_key=key) as client:
            name = (await client.build.start(repository=repository))["name"]
            await until(lambda: client.build.status(image_name=name), completed)
            await client.deploy.preload(template_name=name)
            ident = (await client.deploy.deploy(template_name=name))["id"]
            status = client.deploy.status
            await opens(await until(lambda: status(template_name=name, id=ident), location))

        def run(*args: str) -> Awaitable[Any]:
            return command(server, key, *args)

        assert (await run("build", "start", repository, "true"))["name"] == name
        await until(lambda: run("build", "status", name), completed)
        ident = (await run("deploy", "deploy", name, "600"))["id"]
        await opens(await until(lambda: run("deploy", "status", name, ident), location))
        assert len(await run("deploy", "status-all", name)) == 2
