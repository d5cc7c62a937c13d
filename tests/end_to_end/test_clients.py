"""From a repository to a cell that runs, with each of the clients that there are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
import platformdirs
import pytest
from kernels import open_notebook
from real_server import RealServer, ask_again, hear, until
from repositories import Repositories, waiting_script

from binder_core.events import Ready
from binder_http.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.real]

HERE: Final = Path(__file__).parent
BROWSER_CLIENT: Final = "@jupyterhub/binderhub-client@0.5.0"
PHASES: Final = ["waiting", "fetching", "building", "built", "launching", "ready"]
CELL: Final = "import os, tomli_w; print(tomli_w.dumps({'found': sorted(os.listdir())}))"


@pytest.fixture(scope="session")
def browser_client(require: Callable[..., str]) -> Path:
    """The module of the browser's client, installed once and kept."""
    require("node", "apt-get install nodejs (version 20 or newer)")
    npm = require("npm", "apt-get install npm")
    home = platformdirs.user_cache_path("binderkit-tests") / "binderhub-client-0.5.0"
    module = home / "node_modules" / "@jupyterhub" / "binderhub-client" / "lib" / "client.js"
    if not module.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        # Put into its place whole: another run may be at it as well.
        draft = tempfile.mkdtemp(dir=home.parent)
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", draft, BROWSER_CLIENT]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        cure = f"a network, or npm set to a registry that can be reached. npm said: {done.stderr}"
        require(BROWSER_CLIENT, cure, there=done.returncode == 0)
        try:
            Path(draft).rename(home)
        except OSError:
            shutil.rmtree(draft)
    return module


async def test_all_follow_one_build_to_a_cell_that_runs(
    make_server: Callable[..., RealServer],
    repositories: Repositories,
    browser_client: Path,
    tmp_path: Path,
) -> None:
    # It ends when all watch, so that each follows the build itself.
    go = tmp_path / "go"
    script = waiting_script(go, "echo building; echo made by postBuild > made.txt", "echo built")
    spec = repositories.spec(
        "notebooks", {"requirements.txt": "tomli-w\n", "index.txt": "", "postBuild": script}
    )
    server = make_server(**{"server.linger": 5.0, "server.build_only": False})
    told: dict[str, list[dict[str, Any]]] = {}

    async def plain_httpx() -> None:
        async with server.client() as client:
            heard = await hear(client, spec, until="ready")
            assert [one.id != "" for one in heard] == [one.phase != "waiting" for one in heard]
            assert await ask_again(client, spec, heard[-1].id) == 204
        told["httpx"] = [one.data for one in heard]

    async def python_client() -> None:
        async with Client(server.url, token=server.token) as client:
            events = [event async for event in client.launch(spec)]
        last = events[-1]
        assert isinstance(last, Ready)
        told["client"] = [
            {"phase": str(event.phase), "message": event.message} for event in events[:-1]
        ]
        told["client"].append(
            {"phase": "ready", "message": last.message, "url": last.url, "token": last.token}
        )

    async def browser() -> None:
        done = await anyio.run_process(
            ["node", HERE / "browser_client.mjs", browser_client, spec, f"{server.url}build/"],
            env={**os.environ, "BINDER_TOKEN": server.token},
            stderr=sys.stderr,
        )
        told["browser"] = [json.loads(line) for line in done.stdout.splitlines()]

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for follow in (plain_httpx, python_client, browser):
                tasks.start_soon(follow)
            await until(lambda: server.connections() == 3, within=60)
            go.touch()

    assert len(server.runs()) == 1
    lines = [
        [one["message"] for one in events if one["phase"] in {"fetching", "building"}]
        for events in told.values()
    ]
    assert lines[0] == lines[1] == lines[2]
    assert "building\n" in lines[0]
    tokens = set()
    for events in told.values():
        phases = [one["phase"] for one in events]
        assert [phase for phase in PHASES if phase in phases] == PHASES
        assert phases == sorted(phases, key=PHASES.index)
        assert phases.count("built") == phases.count("ready") == 1
        ready = events[-1]
        tokens.add(ready["token"])
        printed = await open_notebook(ready["url"], ready["token"], CELL)
        for name in ("index.txt", "made.txt", "requirements.txt"):
            assert f'"{name}"' in printed
    assert len(tokens) == 3, "each has a server of its own"

    async with server.client() as client:
        again = await hear(client, spec)
    assert [one.phase for one in again if one.phase != "launching"] == ["built", "ready"]
    assert len(server.runs()) == 1, "what is built is not built again"
