"""A real PostgreSQL of the tests' own, from the system's package."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped] # it has no types

_INITDB = ("-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")


@dataclass(frozen=True)
class Cluster:
    """A server that listens on loopback, for whoever is on this machine."""

    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: str) -> str:
        return f"postgresql://binder@127.0.0.1:{self.port}/{database}"

    async def new_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        connection: Any = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return self.url(name)

    def stop(self) -> None:
        """Stop as a machine does that is switched off in an orderly way: connections are cut."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)


def binaries() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``, None if there is none."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@contextmanager
def cluster(port: int = 0) -> Iterator[Cluster]:
    """Run a PostgreSQL while the context lasts; it keeps nothing."""
    programs = binaries()
    assert programs is not None, "there is no PostgreSQL: apt-get install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="binder-postgres-"))
    try:
        yield from _running(programs, folder, port or _free_port())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _running(programs: Path, folder: Path, port: int) -> Iterator[Cluster]:
    # It refuses to run as root.
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data = folder / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "binder", *_INITDB],
        check=True,
        capture_output=True,
        cwd=folder,
        **user,
    )
    settings = {"unix_socket_directories": folder, "listen_addresses": "127.0.0.1"}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), *options],
            stdout=log,
            stderr=log,
            cwd=folder,
            **user,
        )
        made = Cluster(port, process)
        try:
            _until_it_answers(made, folder)
            yield made
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
                process.wait(timeout=30)


def _until_it_answers(made: Cluster, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while "ready to accept connections" not in (folder / "log").read_text():
        assert made.process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, "PostgreSQL does not start"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
