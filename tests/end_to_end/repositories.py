"""Repositories, and a git server of the test's own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote


class Repositories:
    """Makes git repositories in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def make(self, name: str, files: Mapping[str, str]) -> str:
        """Make a repository with one commit, or one more commit in it; return the commit."""
        repo = self.folder / name
        repo.mkdir(exist_ok=True)
        for path, text in files.items():
            (repo / path).write_text(text)
        _git(repo, "init", "--quiet")
        _git(repo, "add", "--all")
        _git(repo, "commit", "--quiet", "--message", "a commit")
        return _git(repo, "rev-parse", "HEAD")

    def spec(self, name: str, files: Mapping[str, str]) -> str:
        """Make a repository; return the spec of its commit, to be read from the disk."""
        commit = self.make(name, files)
        return file_spec(self.folder / name, commit)


def file_spec(repo: Path, ref: str) -> str:
    """Return the spec of a repository on the disk."""
    return f"git/{quote(repo.as_uri(), safe='')}/{ref}"


def waiting_script(go: Path, before: str, after: str, *, ticks: str = "") -> str:
    """Return a script that waits for the file `go` between two parts."""
    wait = f"while [ ! -e '{go}' ]; do {ticks}sleep 0.02; done"
    return f"#!/bin/sh\n{before}\n{wait}\n{after}\n"


def count(words: str, first: int, last: int) -> str:
    """Return shell commands that print `words` with each number from first to last."""
    return f"i={first}; while [ $i -le {last} ]; do echo '{words}' $i; i=$((i+1)); done"


class GitDaemon:
    """Git's own server on loopback, with a log of who asked for what."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log

    def __enter__(self) -> Self:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("git", "daemon", "--verbose", "--export-all", "--reuseaddr"),
                    *("--listen=127.0.0.1", f"--port={self.port}"),
                    f"--base-path={self._folder}",
                    str(self._folder),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 10
        while "Ready to rumble" not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def spec(self, name: str, ref: str) -> str:
        """Return the spec of a repository here."""
        return f"git/{quote(f'git://127.0.0.1:{self.port}/{name}', safe='')}/{ref}"

    def requests(self) -> int:
        """Return how often somebody came to fetch."""
        return self._log.read_text().count("Request upload-pack")


def _git(repo: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", *who, *arguments], cwd=repo, env=clean, check=True, capture_output=True, text=True
    ).stdout.strip()
