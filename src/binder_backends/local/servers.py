"""The notebook servers of this machine: started, found, ended. All of it is files and processes.

::

    <name>/lock         held by whoever starts or ends it
    <name>/state.json   which process it is, and its port
    <name>/token        the server reads it there
    <name>/server.log   what it prints
    <name>/work         its working directory, a copy of the built repository
    <name>/runtime      Jupyter's own

Every process of a server carries a mark in its environment, so that also those that left it, or
that nobody wrote down before a crash, are found.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from binder_backends.local.layout import checked_name
from binder_backends.local.locking import Lock
from binder_backends.runner.local import remove_tree
from binder_backends.runner.processes import descendants, find, kill_all, marked, runs

MARK: Final = "BINDER_SERVER"
"""The environment variable that marks all processes of a server."""

_GRACE: Final = 3.0
_PAUSE: Final = 0.02
_TAIL_BYTES: Final = 8192


class State(msgspec.Struct, frozen=True):
    """What is known of a server that was started."""

    pid: int
    created: float
    port: int
    owner: int
    """The process that ends it when it stops."""
    owner_created: float

    def alive(self) -> bool:
        """Return whether the server runs."""
        return find(self.pid, self.created) is not None

    def owned(self) -> bool:
        """Return whether the process that will end it runs."""
        return find(self.owner, self.owner_created) is not None


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one server."""

    folder: Path

    @property
    def work(self) -> Path:
        """Return its working directory."""
        return self.folder / "work"

    @property
    def log(self) -> Path:
        """Return what it prints."""
        return self.folder / "server.log"

    def lock(self) -> Lock | None:
        """Return its lock, None if somebody is starting or ending it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return Lock.take(self.folder / "lock")
        except FileNotFoundError:
            return None  # removed between the two lines

    def state(self) -> State | None:
        """Return what is known of it, None if there is nothing."""
        try:
            return msgspec.json.decode((self.folder / "state.json").read_bytes(), type=State)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write(self, state: State) -> None:
        """Note what is known of it."""
        half = self.folder / "state.half"
        write_private(half, msgspec.json.encode(state))
        half.replace(self.folder / "state.json")

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines that it printed."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]

    def shorten_log(self, cap_bytes: int) -> None:
        """Keep the log below `cap_bytes`: what is older goes, the last lines stay."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > cap_bytes:
                last = "\n".join(self.last_lines(50))
                # The server appends, so it goes on behind whatever is there.
                with self.log.open("r+b") as log:
                    log.truncate(0)
                    log.write(f"… older lines left out …\n{last}\n".encode())


def servers_in(folder: Path) -> list[Place]:
    """Return the servers that have a folder in `folder`."""
    return [Place(child) for child in folder.iterdir() if child.is_dir()]


def place_of(folder: Path, name: str) -> Place:
    """Return where the server `name` is."""
    return Place(folder / checked_name(name))


def me() -> tuple[int, float]:
    """Return which process this is."""
    return os.getpid(), psutil.Process().create_time()


def write_private(file: Path, data: bytes) -> None:
    """Write a file that only this user can read, from its first byte on."""
    file.unlink(missing_ok=True)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def free_port(address: str) -> int:
    """Return a port that nobody uses on `address` at the moment."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        return port


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder, where the file system can without copying the data.

    Raises:
        subprocess.CalledProcessError: That did not work; ``stderr`` says why.
    """
    share = ["--reflink=auto"] if sys.platform == "linux" else []
    subprocess.run(  # noqa: S603 - a list of arguments, both paths ours
        ["cp", "-a", *share, "--", f"{source}/.", str(target)],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )


def end_servers(places: Collection[Place], children: Collection[subprocess.Popen[bytes]]) -> None:
    """End servers with all they started, and remove their folders. Call it under their locks.

    Args:
        places: Where they are.
        children: Those of them that are children of this process, so that they can be reaped.
    """
    states = [state for place in places if (state := place.state()) is not None]
    found = [find(state.pid, state.created) for state in states]
    servers = [process for process in found if process is not None]
    # Looked up before their parents go: kernels have sessions of their own.
    below = [child for server in servers for child in descendants(server.pid)]
    for server in servers:
        with contextlib.suppress(psutil.Error):
            server.terminate()

    def left(processes: list[psutil.Process]) -> list[psutil.Process]:
        for child in children:
            child.poll()
        return [process for process in processes if runs(process)]

    # A server that is asked to end ends its kernels. What is left then will not go by itself.
    deadline = time.monotonic() + _GRACE
    while left(servers) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    marks = {str(place.folder) for place in places}
    kill_all(lambda: [*left([*servers, *below]), *marked(MARK, marks)])
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
    for place in places:
        remove_tree(place.folder)
