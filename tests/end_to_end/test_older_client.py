"""The whole way with ``binder-client`` 1.0.3, the older protocol's own generated client."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import platformdirs
import pytest
from repositories import GitDaemon, Repositories

from binder_core.engine import Binder
from binder_http import keys
from binder_http.assembly import make_store
from binder_http.config import load
from binder_http.server import Running, running

pytestmark = [pytest.mark.anyio, pytest.mark.real]

CLIENT: Final = "binder-client@1.0.3"
WITHIN: Final = 240.0


@pytest.fixture(scope="session")
def older_client(require: Callable[..., str]) -> Path:
    """The folder of the client's module, installed once and kept."""
    require("node", "apt-get install nodejs")
    npm = require("npm", "apt-get install npm")
    home = platformdirs.user_cache_path("binderkit-tests") / "binder-client-1.0.3"
    module = home / "node_modules" / "binder-client"
    if not module.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        # Put into its place whole: another run may be at it as well.
        draft = tempfile.mkdtemp(dir=home.parent)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            [*command, "--prefix", draft, CLIENT],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        cure = f"a network, or npm set to a registry that can be reached. npm said: {done.stderr}"
        require(CLIENT, cure, there=done.returncode == 0)
        try:
            Path(draft).rename(home)
        except OSError:
            shutil.rmtree(draft)
    return module


async def whole_way(server: Running, module: Path, repository: str) -> dict[str, Any]:
    """Return what each step of the client's answered."""
    async with make_store(server.config) as store:
        key, kept = keys.make("older client", time.time())
        await store.add_key(kept)
    where = urlsplit(server.url)
    script = Path(__file__).with_name("older_client.cjs")
    process = await asyncio.create_subprocess_exec(
        *("node", str(script), str(module), repository, str(where.hostname), str(where.port)),
        env=os.environ | {"BINDER_API_KEY": key, "NODE_OPTIONS": "--no-deprecation"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    told: dict[str, Any] = json.loads(out)
    return told


def checked(told: Mapping[str, Any], repository: str) -> None:
    """See that every step answered as it should."""
    name = told["start"]["name"]
    assert "is being built already" in told["again"]
    assert told["build"]["status"] == "completed"
    assert told["build"]["repository"] == repository
    assert told["builds"] == [told["build"]]
    assert told["template"]["name"] == name
    assert told["template"]["image-source"]
    assert told["template"]["port"]
    assert told["templates"] == [told["template"]]
    assert told["deployments"] == [{"id": told["deployed"]["id"], "location": told["location"]}]
    assert {one["status"] for one in told["health"]} == {"running"}
    assert "nosuch" in told["missing"]
    assert told["refused"] == "Unauthorized request", "the client's own words for a 403"


async def test_the_whole_way_on_the_fake_backend(
    older_client: Path, repositories: Repositories, git_daemon: GitDaemon, tmp_path: Path
) -> None:
    repositories.make("example-requirements", {"requirements.txt": "tomli-w\n"})
    repository = f"git://127.0.0.1:{git_daemon.port}/example-requirements"
    flags = {"builder.kind": "fake", "builder.fake.silent": 1.0} | general(tmp_path)
    async with running(load(env={}, flags=flags)) as server:
        checked(await whole_way(server, older_client, repository), repository)


@pytest.mark.usefixtures("package_index")
async def test_the_whole_way_to_a_notebook(
    older_client: Path,
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
        # This client sends no key where the protocol asks for none.
        "security.auth": "none",
    }
    async with running(load(env={}, flags=flags)) as server:
        told = await whole_way(server, older_client, repository)
        checked(told, repository)
        await opens(told["location"])
        await gone_once_it_ends(server.binder, server, told)


async def opens(location: str) -> None:
    """See that a browser gets in at a location, with nothing but that."""
    async with httpx.AsyncClient(follow_redirects=True, trust_env=False) as browser:
        assert (await browser.get(location)).status_code == 200
        there = location.partition("?")[0]
        listed = (await browser.get(f"{there}api/contents")).json()
        assert {"here.txt", "requirements.txt"} <= {one["name"] for one in listed["content"]}
    async with httpx.AsyncClient(trust_env=False) as stranger:
        assert (await stranger.get(f"{there}api/contents")).status_code == 403


async def gone_once_it_ends(binder: Binder, server: Running, told: Mapping[str, Any]) -> None:
    """See that a server which has ended is told as gone."""
    async with make_store(server.config) as store:
        (deployment,) = await store.deployments()
    assert binder.launcher is not None
    await binder.launcher.stop(
        binder.steps.server(deployment.server, deployment.image, int(deployment.started))
    )
    path = f"applications/{told['start']['name']}/{deployment.id}"
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        answer = await client.get(path)
    assert answer.status_code == 500
    assert answer.json()["type"] == "noRecord"


def general(folder: Path) -> dict[str, Any]:
    """Return the settings of all servers here."""
    return {
        "server.port": 0,
        "server.access_log": False,
        "server.state_dir": str(folder / "state"),
        "asker.allow_networks": ("127.0.0.0/8",),
        "providers.git.schemes": ("https", "git"),
    }
