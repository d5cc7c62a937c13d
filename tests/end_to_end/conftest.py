"""What the end-to-end tests share: servers of their own, repositories, the browser's client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_server import RealServer
from repositories import GitDaemon, Repositories


@pytest.fixture
def anyio_backend() -> str:
    """Run on what httpx and websockets are used with here."""
    return "asyncio"


@pytest.fixture
def repositories(tmp_path: Path) -> Repositories:
    """Return where a test makes its repositories."""
    return Repositories(tmp_path / "repositories")


@pytest.fixture
def make_server(package_index: None, tmp_path: Path) -> Iterator[Callable[..., RealServer]]:
    """Return what starts a server; at the end it is stopped, and nothing of it may run."""
    made: list[RealServer] = []

    def make(**settings: object) -> RealServer:
        server = RealServer(tmp_path / f"server-{len(made)}", settings)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()
        assert server.left_behind() == []


@pytest.fixture
def git_daemon(
    require: Callable[..., str], repositories: Repositories, tmp_path: Path
) -> Iterator[GitDaemon]:
    """Return a git server for the test's repositories."""
    require("git", "apt-get install git")
    with GitDaemon(repositories.folder, tmp_path / "git-daemon.log") as daemon:
        yield daemon
