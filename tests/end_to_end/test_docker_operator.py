"""``binder builds`` on builds of a real engine: what an operator lists, reads and stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import anyio
import anyio.to_thread
import pytest
from docker_host import HELD, LINES, DockerHost, phases, repo
from real_server import Heard, RealServer, hear

from engines.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

OPERATOR = "operators-own-token"
REASON = "It is in the way."


def binder(server: RealServer, *words: str) -> str:
    """Run ``binder builds``, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "binder_http.cli", "builds", *words],
        env={**os.environ, "BINDER_SERVER": server.url, "BINDER_TOKEN": OPERATOR},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_build_is_listed_read_and_stopped_on_another_server(
    docker_host: DockerHost, image_registry: Registry
) -> None:
    wanted = repo("building")
    settings = docker_host.settings(image_registry) | {"security.operator_token": OPERATOR}
    ours, other = (docker_host.server(settings) for _ in range(2))
    heard: list[Heard] = []

    async def watch() -> None:
        async with ours.client() as client:
            heard.extend(await hear(client, wanted.spec, build_only=True, within=120))

    async with anyio.create_task_group() as tasks:
        async with ours.client() as client:
            await hear(client, wanted.spec, build_only=True, until=HELD)
        tasks.start_soon(watch)
        (build,) = json.loads(await anyio.to_thread.run_sync(binder, other, "list", "--json"))[
            "builds"
        ]
        assert build["repo_url"] == wanted.url
        log = await anyio.to_thread.run_sync(binder, other, "log", build["name"])
        assert [line for line in log.splitlines() if line.startswith("early ")] == [
            f"early {n}" for n in range(1, LINES + 1)
        ]
        stop = ("stop", build["name"], "--reason", REASON)
        await anyio.to_thread.run_sync(binder, other, *stop)
        assert not docker_host.running_build(wanted)
    assert phases(heard)[-1] == "failed"
    assert heard[-1].message == f"The build was stopped by the operator: {REASON}\n"
