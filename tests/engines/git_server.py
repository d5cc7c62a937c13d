"""A git server for tests: repositories over HTTP, open or for one user."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

_WHO = {
    **{f"GIT_{role}_NAME": "T. Ester" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "t@example.org" for role in ("AUTHOR", "COMMITTER")},
}


class GitServer:
    """Serves repositories that it makes; a context.

    Args:
        folder: Where they are.
        address: What it listens on.
        login: ``user:password`` that it asks for; empty: it asks nobody.
    """

    def __init__(self, folder: Path, address: str, *, login: str = "") -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        wanted = "Basic " + base64.b64encode(login.encode()).decode() if login else ""
        handler = partial(_Handler, wanted=wanted, directory=str(folder))
        self._server = ThreadingHTTPServer((address, 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def host(self) -> str:
        """Return host and port."""
        address, port = self._server.server_address[:2]
        return f"{address!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def repository(self, name: str, files: Mapping[str, str]) -> tuple[str, str]:
        """Make a repository; return its URL and its commit."""
        tree, bare = self._folder / f".{name}", self._folder / f"{name}.git"
        tree.mkdir()
        for path, text in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
        _git(tree, "init", "--quiet")
        _git(tree, "add", ".")
        _git(tree, "commit", "--quiet", "--message", "one")
        _git(tree, "clone", "--quiet", "--bare", ".", str(bare))
        _git(bare, "update-server-info")  # plain files are all that a client needs
        return f"http://{self.host}/{name}.git", _git(tree, "rev-parse", "HEAD")


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: object, wanted: str, directory: str) -> None:
        self._wanted = wanted
        super().__init__(*args, directory=directory)  # type: ignore[arg-type] # the server's own

    def do_GET(self) -> None:
        if self._wanted and self.headers.get("authorization") != self._wanted:
            self.send_response(401)
            self.send_header("www-authenticate", 'Basic realm="git"')
            self.send_header("content-length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


def _git(folder: Path, *arguments: str) -> str:
    env = {**os.environ, **_WHO, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
