"""A real JupyterHub with its real proxy, in an environment of its own.

The first time JupyterHub is installed into a folder of the cache (25 s); after that a hub is up in
2 s.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import msgspec
import psutil

from engines.processes import free_port, kill, locked, running, until

PACKAGES: Final = (
    "jupyterhub>=5",
    "dockerspawner>=14",
    "jupyterhub-kubespawner>=7",
    "jupyterhub-idle-culler>=1.4",
)
PROXY: Final = "configurable-http-proxy@4"  # 5 wants Node 22
CONFIG: Final = Path(__file__).with_name("hub_config.py")
SOURCE: Final = Path(__file__).parents[2] / "src"

_OVER = """\
# What a test needs to be another way than the configuration says.
load_subconfig({config!r})
c.JupyterHub.bind_url = {url!r}
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.check_running_interval = 1
{more}
"""


class HubSoftware:
    """Where the hub's programs are.

    Args:
        cache: Where they are kept.
    """

    def __init__(self, cache: Path) -> None:
        wanted = repr((PACKAGES, PROXY, sys.version_info[:2]))
        folder = cache / f"jupyterhub-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
        self.python = folder / "venv" / "bin" / "python"
        self.proxy = folder / "node_modules" / ".bin" / "configurable-http-proxy"
        with locked(cache / "jupyterhub.lock"):
            if not (folder / "complete").exists():
                folder.mkdir(exist_ok=True)
                _run(sys.executable, "-m", "venv", "--clear", str(folder / "venv"))
                _run(str(self.python), "-m", "pip", "install", "--quiet", *PACKAGES)
                _run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), PROXY)
                (folder / "complete").touch()


class JupyterHub:
    """A hub and its proxy: two processes, so that one can end without the other.

    Args:
        folder: Its own.
        software: Its programs.
        config: What it is configured with; without, its servers are small processes.
        env: Environment variables for that.
        images: A regular expression for what may be started, beside what Binder has named.
    """

    def __init__(
        self,
        folder: Path,
        software: HubSoftware,
        config: Path = CONFIG,
        env: Mapping[str, str] | None = None,
        *,
        images: str = "",
    ) -> None:
        self.folder = folder
        self.log = folder / "hub.log"
        self.token = secrets.token_hex(16)
        self.weak_token = secrets.token_hex(16)
        self.hub_port, self._port, self._api_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._port}/"
        """Where the proxy is: the hub as browsers reach it."""
        self.api_url = f"http://127.0.0.1:{self.hub_port}/hub/api"
        """The hub's API, without the proxy."""
        self._software = software
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._orphans: list[psutil.Process] = []
        folder.mkdir(parents=True, exist_ok=True)
        token_file = folder / "binder-token"
        token_file.write_text(self.token + "\n")
        tokens = {"binder": self.token, "weak": self.weak_token}
        self._env = {
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(16),
            "HUB_FOLDER": str(folder),
            "HUB_TOKENS": msgspec.json.encode(tokens).decode(),
            "BINDER_TOKEN_FILE": str(token_file),
            "BINDER_IMAGE_PREFIX": "",
            **(env or {}),
        }
        self._config = folder / "jupyterhub_config.py"
        self._config.write_text(
            _OVER.format(
                config=str(config),
                url=self.url,
                hub_port=self.hub_port,
                api_port=self._api_port,
                more=f"c.BinderMixin.binder_image_pattern = {images!r}" if images else "",
            )
        )

    def __enter__(self) -> Self:
        """Start both."""
        try:
            self.start_proxy()
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End both, and all servers that are processes."""
        self.stop()

    def start_proxy(self) -> None:
        """Start the proxy."""
        self._start(
            "proxy",
            str(self._software.proxy),
            "--ip=127.0.0.1",
            f"--port={self._port}",
            "--api-ip=127.0.0.1",
            f"--api-port={self._api_port}",
            f"--default-target=http://127.0.0.1:{self.hub_port}",
            f"--error-target=http://127.0.0.1:{self.hub_port}/hub/error",
        )

    def start(self) -> None:
        """Start the hub, and wait until it answers through the proxy."""
        python = str(self._software.python)
        hub = self._start("hub", python, "-m", "jupyterhub", "-f", str(self._config))

        def up() -> bool:
            assert hub.poll() is None, f"the hub has ended:\n{self.log.read_text()[-4000:]}"
            try:
                reply = httpx.get(f"{self.url}hub/api/", trust_env=False, timeout=5)
            except httpx.TransportError:
                return False
            return reply.status_code == 200

        until(up, "the hub answers", seconds=60)

    def kill(self) -> None:
        """Kill the hub; proxy and servers go on, and what it runs as its services."""
        hub = self._processes.get("hub")
        if hub is not None:
            self._orphans += psutil.Process(hub.pid).children(recursive=True)
        self._end("hub", signal.SIGKILL)

    def stop(self) -> None:
        """End all."""
        self._end("hub", signal.SIGTERM)
        self._end("proxy", signal.SIGTERM)
        kill(running(lambda argv: str(self.folder) in argv))
        kill([process for process in self._orphans if process.is_running()])

    def get(self, path: str) -> httpx.Response:
        """Return what the hub says of a path of its API."""
        return self.call("GET", path)

    def call(self, method: str, path: str) -> httpx.Response:
        """Return what the hub answers."""
        headers = {"authorization": f"token {self.token}"}
        url = f"{self.api_url}/{path}"
        return httpx.request(method, url, headers=headers, trust_env=False, timeout=30)

    def servers(self, name: str) -> list[list[str]]:
        """Return the command lines of the servers of a user that are processes."""
        found = running(lambda argv: str(self.folder) in argv)
        lines = [process.cmdline() for process in found]
        return [line for line in lines if any(f"/user/{name}/" in word for word in line)]

    def _start(self, what: str, *argv: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._processes[what] = process
        return process

    def _end(self, what: str, number: signal.Signals) -> None:
        process = self._processes.pop(what, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _run(*argv: str) -> None:
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    took = time.monotonic() - began
    assert done.returncode == 0, f"{argv} after {took:.0f} s:\n{done.stdout}{done.stderr}"
