"""The whole way: our launcher, a hub as deploy/ configures it, DockerSpawner, a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from kernels import open_notebook

from binder_backends.jupyterhub.launcher import JupyterHubLauncher
from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_core.plugin import LaunchFailed, LaunchRequest
from binder_core.testing.reports import LaunchLog
from engines.docker import DockerEngine
from engines.jupyterhub import HubSoftware, JupyterHub
from engines.processes import until

pytestmark = [pytest.mark.real, pytest.mark.anyio]

CONFIG = Path(__file__).parents[2] / "deploy" / "jupyterhub" / "jupyterhub_config.py"
IMPATIENT = """\
load_subconfig({config!r})
(culler,) = (each for each in c.JupyterHub.services if each["name"] == "cull")
command = culler["command"]
command[command.index("--timeout=7200")] = "--timeout=5"
command.append("--cull-every=1")
"""
"""As it is deployed, but for the time that a test has not."""
TOKEN = "t0ken-that-nobody-guesses"


@pytest.fixture(scope="module")
def hub(
    hub_software: HubSoftware,
    docker_engine: DockerEngine,
    jupyter_base: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[JupyterHub]:
    env = {"DOCKER_HOST": docker_engine.host}
    images = f"{jupyter_base.partition(':')[0]}.*"
    folder = tmp_path_factory.mktemp("hub")
    config = folder / "impatient.py"
    config.write_text(IMPATIENT.format(config=str(CONFIG)))
    with JupyterHub(folder, hub_software, config, env, images=images) as hub:
        yield hub


def inspected(engine: DockerEngine, name: str) -> list[dict[str, Any]]:
    """Return what the engine says of the containers of a user."""
    env = {**os.environ, "DOCKER_HOST": engine.host}

    def docker(*words: str) -> str:
        done = subprocess.run(
            ["docker", *words], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    ids = docker("ps", "--all", "--quiet").split()
    found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
    argument = f"--ServerApp.base_url=/user/{name}/"
    return [each for each in found if argument in (each["Config"]["Cmd"] or ())]


async def test_a_cell_runs_in_a_container_that_the_hub_started(
    hub: JupyterHub, docker_engine: DockerEngine, jupyter_base: str
) -> None:
    name = f"whole-{time.monotonic_ns()}"
    request = LaunchRequest(name, jupyter_base, TOKEN, "https://u:pw@x.org/repo", "abc123", 900.0)
    settings = JupyterHubSettings(url=hub.url, api_url=hub.api_url, token=hub.token)
    log = LaunchLog()
    async with JupyterHubLauncher(settings) as launcher:
        with anyio.fail_after(120):
            url = await launcher.launch(request, log)
        try:
            assert url == f"{hub.url}user/{name}/"
            assert log.messages
            code = (
                "import os; print(6 * 7, os.environ['BINDER_REPO_URL'], os.environ['BINDER_REF'])"
            )
            assert await open_notebook(url, TOKEN, code) == "42 https://***@x.org/repo abc123\n"

            (container,) = inspected(docker_engine, name)
            assert TOKEN not in json.dumps(container)
            assert not [each for each in container["Config"]["Env"] if "API_TOKEN" in each]
            assert "--ServerApp.shutdown_no_activity_timeout=900" in container["Config"]["Cmd"]
            assert container["Config"]["Labels"]["io.binderkit.hub"] == "yes"
            given = container["HostConfig"]
            assert given["Memory"] == given["MemorySwap"] == 2 * 2**30
            assert given["CpuQuota"] == 2 * given["CpuPeriod"] > 0
            assert given["PidsLimit"] == 1024
            assert given["SecurityOpt"] == ["no-new-privileges"]
            ports = [
                port for each in container["NetworkSettings"]["Ports"].values() for port in each
            ]
            assert {port["HostIp"] for port in ports} == {"127.0.0.1"}

            # The hub ends and comes back: the server is the same, and takes the same token.
            await anyio.to_thread.run_sync(hub.kill)
            await anyio.to_thread.run_sync(hub.start)
            assert await launcher.running(request)
            assert await launcher.launch(request, log) == url
            assert await open_notebook(url, TOKEN, "print('still here')") == "still here\n"
            assert [each["Id"] for each in inspected(docker_engine, name)] == [container["Id"]]
        finally:
            await launcher.stop(request)
        assert inspected(docker_engine, name) == []
        assert hub.get(f"users/{name}").status_code == 404


async def test_what_the_hub_starts_is_what_it_was_told_to(
    hub: JupyterHub, docker_engine: DockerEngine, busybox_image: str, jupyter_base: str
) -> None:
    settings = JupyterHubSettings(url=hub.url, api_url=hub.api_url, token=hub.token)
    async with JupyterHubLauncher(settings) as launcher:
        name = f"other-{time.monotonic_ns()}"
        with pytest.raises(LaunchFailed, match="is none that this hub may start"):
            await launcher.launch(LaunchRequest(name, busybox_image, TOKEN), LaunchLog())
        gone = f"{jupyter_base.partition(':')[0]}-gone:1"
        with pytest.raises(LaunchFailed, match=r"could not start the server: .*gone"):
            await launcher.launch(LaunchRequest(name, gone, TOKEN), LaunchLog())
        assert inspected(docker_engine, name) == []
        assert hub.get(f"users/{name}").status_code == 404


async def test_the_culler_removes_users_without_servers_and_no_server(
    hub: JupyterHub, jupyter_base: str
) -> None:
    # Whether somebody uses it the hub is not told: the server itself ends in due time.
    request = LaunchRequest(f"kept-{time.monotonic_ns()}", jupyter_base, TOKEN)
    settings = JupyterHubSettings(url=hub.url, api_url=hub.api_url, token=hub.token)
    async with JupyterHubLauncher(settings) as launcher:
        with anyio.fail_after(120):
            await launcher.launch(request, LaunchLog())
        try:
            # When the culler takes one who came later, it has had the server before it.
            late = f"late-{time.monotonic_ns()}"
            assert hub.call("POST", f"users/{late}").status_code == 201
            await anyio.to_thread.run_sync(
                lambda: until(
                    lambda: hub.get(f"users/{late}").status_code == 404,
                    "the culler removes who has no server",
                    seconds=60,
                )
            )
            assert await launcher.running(request)
        finally:
            await launcher.stop(request)
