"""Processes on cores of their own, and what the operating system says they took."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

import psutil

ROOT: Final = Path(__file__).parent.parent
KEY: Final = "benchmarks-sign-with-this-key-0123456789"

_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = _CORES[0]
LOAD_CORE: Final = _CORES[-1]


def pin_load() -> None:
    """Keep this process, the load generator, on its core."""
    os.sched_setaffinity(0, {LOAD_CORE})


@dataclass(frozen=True, slots=True)
class Server:
    """A server under measurement."""

    pid: int
    port: int

    def cpu(self) -> float:
        """Return the seconds of CPU it took so far, user and system."""
        # The scheduler's own account, in nanoseconds; the usual one counts in ticks of 10 ms.
        total = 0
        try:
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                with suppress(FileNotFoundError):  # a thread that has just ended
                    total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            times = psutil.Process(self.pid).cpu_times()
            return float(times.user + times.system)
        return total / 1e9

    def memory(self) -> int:
        """Return the bytes of memory that are its own."""
        return int(psutil.Process(self.pid).memory_full_info().uss)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def environment(settings: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return the environment for processes of ours.

    Args:
        settings: Of the server, by ``section.key``.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BINDER_")}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks" / "plugin")])
    for name, value in (settings or {}).items():
        kept["BINDER_" + name.upper().replace(".", "__")] = str(value)
    return kept


@contextmanager
def pinned(
    command: Sequence[str], core: int, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on a core, with a pipe to its standard input, while the context lasts."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # a child inherits it
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=env, cwd=ROOT
            )
        finally:
            os.sched_setaffinity(0, mine)
        try:
            yield process
        except BaseException:
            said.seek(0)
            sys.stderr.write(f"--- {' '.join(command)} said:\n")
            sys.stderr.write(said.read().decode(errors="replace")[-4000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(url: str, process: subprocess.Popen[bytes], within: float = 20.0) -> None:
    """Return once a server answers at `url`.

    Raises:
        TimeoutError: It does not, or the process has ended.
    """
    end = time.monotonic() + within
    while process.poll() is None and time.monotonic() < end:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, ConnectionError):
            time.sleep(0.002)
    raise TimeoutError(f"nobody answers at {url}")


@contextmanager
def ours(**settings: object) -> Iterator[Server]:
    """Run ``binder serve`` on the server's core.

    Args:
        settings: By ``section__key``.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        given = {
            "server.port": port,
            "server.state_dir": state,
            "server.build_only": "true",
            # hypercorn by itself logs none either.
            "server.access_log": "false",
            "security.key": KEY,
            "builder.kind": "fake",
            "launcher.kind": "fake",
        } | {name.replace("__", "."): value for name, value in settings.items()}
        command = [sys.executable, "-m", "binder_http.cli", "serve"]
        with pinned(command, SERVER_CORE, environment(given)) as process:
            answers(f"http://127.0.0.1:{port}/versions", process)
            yield Server(process.pid, port)


@contextmanager
def bare(mode: str, *, feed: str = "", heartbeat: float = 25.0) -> Iterator[Server]:
    """Run the bare asyncio server on the server's core.

    Args:
        mode: ``each`` for one write per event, ``new`` for all that is new in one write.
        feed: The feeder's socket.
        heartbeat: Seconds between two heartbeats.
    """
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare", str(port), mode, feed, str(heartbeat)]
    with pinned(command, SERVER_CORE, environment()) as process:
        answers(f"http://127.0.0.1:{port}/versions", process)
        yield Server(process.pid, port)


@contextmanager
def bare_quart() -> Iterator[Server]:
    """Run the bare Quart app, over hypercorn, on the server's core."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare_quart", str(port)]
    with pinned(command, SERVER_CORE, environment()) as process:
        answers(f"http://127.0.0.1:{port}/versions", process)
        yield Server(process.pid, port)


class Feeder:
    """Where the lines of builds come from: a process beside the load generator.

    Args:
        path: Its socket.
        process: It.
    """

    def __init__(self, path: str, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self._process = process

    def go(self, serial: str) -> None:
        """Let the lines of the builds with this serial number come."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{serial}\n".encode())
        self._process.stdin.flush()


@contextmanager
def feeder() -> Iterator[Feeder]:
    """Run a feeder on the load's core."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/feed"
        command = [sys.executable, "-m", "benchmarks.feeder", path]
        with pinned(command, LOAD_CORE, environment()) as process:
            end = time.monotonic() + 10
            while not Path(path).exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise TimeoutError("the feeder does not come up")
                time.sleep(0.002)
            yield Feeder(path, process)
