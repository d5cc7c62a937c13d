"""What the engines share: waiting for a condition, ports, locks, folders."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


def cache_folder() -> Path:
    """Return where what is dear to make is kept between sessions."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "binderkit-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def until(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Return as soon as something holds.

    Raises:
        AssertionError: It does not, for so long; with what is the matter.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s: {what}"
        time.sleep(0.05)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind((host, 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that no other process has meanwhile; it ends with this process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def one_of(folders: Iterable[Path]) -> Iterator[Path]:
    """Hold the first folder that no other process holds."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder
            return
    raise AssertionError("all folders are in use: how many test sessions run?")


def running(of_ours: Callable[[list[str]], bool], *, children: bool = True) -> list[psutil.Process]:
    """Return the processes with such a command line, and all that they started."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() != psutil.STATUS_ZOMBIE and of_ours(process.cmdline()):
                for each in (process, *(process.children(recursive=True) if children else ())):
                    found[each.pid] = each
    return list(found.values())


def kill(processes: list[psutil.Process]) -> None:
    """End processes at once, and wait until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    # Whose parent does not look after them stay as zombies, which do nothing any more.
    until(lambda: not any(map(_lives, processes)), f"these do not end: {processes}", seconds=30)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
