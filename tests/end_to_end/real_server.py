"""A ``binder serve`` process with the local backend in a folder of its own, and its clients."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import httpx
import msgspec
import psutil
import tomli_w
from httpx_sse import EventSource

_LINK: Final = re.compile(r"Binder is at (http://127\.0\.0\.1:(\d+)/)\?token=(\S+)")
_START_WITHIN: Final = 20.0
_STOP_WITHIN: Final = 30.0


class RealServer:
    """A server process, which can be killed and started again.

    Args:
        folder: For all that it keeps.
        settings: More settings, or other ones, by their whole name.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.servers = folder / "servers" / "servers"
        self.url = self.token = ""
        self.port = 0
        folder.mkdir()
        self._log = folder / "server.log"
        self._settings = {
            "server.state_dir": str(folder / "state"),
            "server.linger": 0.0,
            "server.build_only": True,
            "builder.local.cache_dir": str(self.cache),
            # A fraction of what JupyterLab takes.
            "builder.local.jupyter_packages": ["jupyter-server", "ipykernel"],
            "builder.local.allow_directories": True,
            "launcher.local.cache_dir": str(self.cache),
            "launcher.local.state_dir": str(folder / "servers"),
            "asker.allow_file_urls": True,
            "asker.allow_networks": ["127.0.0.0/8"],
            "providers.git.schemes": ["https", "git", "file"],
            **settings,
        }

    def start(self) -> None:
        """Start it, from the second time on at the same port; return when it answers."""
        config = self.folder / "binder.toml"
        config.write_text(tomli_w.dumps(nested(self._settings | {"server.port": self.port})))
        given = {name: value for name, value in os.environ.items() if not name.startswith("BINDER")}
        # All cores are busy with it for ten seconds otherwise.
        given["UV_COMPILE_BYTECODE"] = "0"
        said = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "binder_http.cli", "serve", "--config", str(config)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=given,
            )
        deadline = time.monotonic() + _START_WITHIN
        while (link := _LINK.search(self.log()[said:])) is None:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.01)
        self.url, self.port, self.token = link[1], int(link[2]), link[3]

    def kill(self) -> None:
        """Kill it: it can do nothing about that."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it as Ctrl-C does, if it runs: with its builds and its notebook servers."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(_STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def log(self) -> str:
        """Return what it printed."""
        return self._log.read_text()

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[httpx.AsyncClient]:
        """Return a client with the token."""
        async with httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {self.token}"},
            timeout=httpx.Timeout(20, read=90),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
            verify=False,  # reading certificates for nothing takes a while
        ) as client:
            yield client

    def left_behind(self) -> list[str]:
        """Return the processes that work in its folder, itself left out."""
        found = []
        for process in psutil.process_iter():
            try:
                told = [process.cwd(), *process.cmdline(), *process.environ().values()]
                zombie = process.status() == psutil.STATUS_ZOMBIE
            except (psutil.Error, OSError):
                continue
            own = process.pid == self.process.pid and self.process.poll() is None
            if not own and not zombie and any(str(self.folder) in part for part in told):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        return found

    def connections(self) -> int:
        """Return how many connections of clients it holds."""
        mine = psutil.Process(self.process.pid).net_connections("tcp")
        return sum(
            held.status != psutil.CONN_LISTEN and held.laddr[1] == self.port for held in mine
        )

    def peak_bytes(self) -> int:
        """Return the most memory that it ever had."""
        return peak_bytes(self.process.pid)

    def runs(self) -> list[Path]:
        """Return the logs of all runs of builds."""
        return sorted(self.cache.glob("builds/*/runs/*.log"))

    def images(self) -> list[Path]:
        """Return the folders in which images are or are being made."""
        return sorted(path for path in self.cache.glob("images/*/*") if path.is_dir())


@dataclass(frozen=True, slots=True)
class Heard:
    """One event, as a client heard it."""

    id: str
    data: dict[str, Any] = field(repr=False)

    @property
    def phase(self) -> str:
        return str(self.data["phase"])

    @property
    def message(self) -> str:
        return str(self.data["message"])


@asynccontextmanager
async def listening(
    client: httpx.AsyncClient, spec: str, *, last_id: str = "", build_only: bool = False
) -> AsyncGenerator[AsyncGenerator[Heard]]:
    """Ask for a spec, given as it is to stand in the URL; return what comes."""
    headers = {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
    target = f"/build/{spec}{'?build_only=true' * build_only}"
    async with client.stream(
        # httpx would tidy it up.
        "GET", "/", headers=headers, extensions={"target": target.encode()}
    ) as response:  # fmt: skip
        assert response.status_code == 200, response.status_code
        source = EventSource(response)

        async def events() -> AsyncGenerator[Heard]:
            async for sse in source.aiter_sse():
                # httpx-sse makes an event of a heartbeat, too.
                if sse.data:
                    yield Heard(sse.id, msgspec.json.decode(sse.data))

        yield events()


async def hear(
    client: httpx.AsyncClient,
    spec: str,
    *,
    last_id: str = "",
    build_only: bool = False,
    until: str = "",
    within: float = 60.0,
) -> list[Heard]:
    """Return what comes: to the end of the stream, or to a message or phase."""
    heard: list[Heard] = []
    with anyio.fail_after(within):
        async with listening(client, spec, last_id=last_id, build_only=build_only) as events:
            async for one in events:
                heard.append(one)
                if until and until in (one.phase, one.message.rstrip("\n")):
                    return heard
    assert not until, f"no {until!r} in {[one.data for one in heard[-5:]]}"
    return heard


async def ask_again(client: httpx.AsyncClient, spec: str, last_id: str) -> int:
    """Reconnect behind an event; return the status of the answer."""
    headers = {"accept": "text/event-stream", "last-event-id": last_id}
    async with client.stream("GET", f"/build/{spec}", headers=headers) as response:
        return response.status_code


def log_lines(heard: list[Heard]) -> list[str]:
    """Return the lines of the build's log."""
    return [one.message for one in heard if one.phase in {"fetching", "building", "pushing"}]


async def until(condition: Callable[[], bool], *, within: float) -> None:
    """Return when a condition holds.

    Raises:
        TimeoutError: It does not in time.
    """
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - it is another process's, and tells nobody
            await anyio.sleep(0.01)


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def nested(settings: Mapping[str, object]) -> dict[str, Any]:
    """Return settings by whole names as tables."""
    tables: dict[str, Any] = {}
    for name, value in settings.items():
        *path, key = name.split(".")
        table = tables
        for step in path:
            table = table.setdefault(step, {})
        table[key] = value
    return tables
