"""What the tests of the local backend share: repositories, a uv that installs nothing, images."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from binder_backends.local import LocalSettings
from binder_backends.local.layout import Layout
from binder_backends.runner.local import Built
from binder_core.naming import build_name
from binder_core.plugin import BuildRequest, Phase, Progress

FAKE_UV = """#!/bin/sh
# As much of uv as a build needs, in no time and without a network.
case "$1 $2" in
"--version "*) echo "uv 0.0.fake" ;;
"venv "*)
    for last; do :; done
    mkdir -p "$last/bin" "$last/lib/python3.11/site-packages" "$last/share/jupyter/kernels"
    printf '#!/bin/sh\\n' > "$last/bin/python"
    chmod +x "$last/bin/python"
    case "$*" in *3.99*) echo "error: No interpreter found for Python 3.99" >&2; exit 2 ;; esac ;;
"pip install")
    case "$*" in *requirements.txt*)
        while read -r wanted; do
            case "$wanted" in nosuch*)
                echo "Because $wanted was not found in the package registry …" >&2; exit 1 ;;
            esac
        done < requirements.txt ;;
    esac
    echo "uv $*" ;;
esac
"""

# A Jupyter server's outside: port, token file, /api/status.
FAKE_JUPYTER = """#!{python} -IS
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.stderr.write("starting " + " ".join(sys.argv[1:]) + "\\n")
options = dict(word.partition("=")[::2] for word in sys.argv[1:])
with open(os.environ["JUPYTER_TOKEN_FILE"]) as file:
    token = file.read()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers.get("Authorization") == "token " + token
        self.send_response(200 if known else 403)
        self.end_headers()
        self.wfile.write(b'{{"started": "now"}}' if known else b"{{}}")

    def log_message(self, *args):
        pass

address = (options["--ServerApp.ip"], int(options["--ServerApp.port"]))
ThreadingHTTPServer(address, Handler).serve_forever()
"""

_count = itertools.count()


def program(file: Path, text: str) -> Path:
    """Write an executable file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def settings(folder: Path, **changes: object) -> LocalSettings:
    """Return settings for a builder with its cache and a uv that installs nothing in `folder`."""
    uv = folder / "bin" / "fake-uv"
    if not uv.exists():
        program(uv, FAKE_UV)
    given = {"cache_dir": str(folder / "cache"), "uv": str(uv), "allow_directories": True}
    return msgspec.convert(given | changes, LocalSettings)


def directory(folder: Path, files: dict[str, str]) -> Path:
    """Return a new directory with these files."""
    repo = folder / f"repo-{next(_count)}"
    repo.mkdir(parents=True)
    for name, text in files.items():
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text(text)
    return repo


def commit(repo: Path) -> str:
    """Make a git repository of a directory, or another commit; return the commit."""

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        return subprocess.run(
            ["git", *who, "-c", "init.defaultBranch=main", *arguments],
            cwd=repo, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "-m", "a commit")
    return git("rev-parse", "HEAD")


def request(repo: Path | str, ref: str = "1", provider: str = "Local") -> BuildRequest:
    """Return a request to build `repo`; each has another image."""
    image = f"local/test-{next(_count)}:{ref}"
    url = f"file://{repo}" if isinstance(repo, Path) else repo
    return BuildRequest(build_name(image, url, ref), image, url, ref, provider)


def made_image(folder: Path, files: dict[str, str], jupyter: str, start: str = "") -> str:
    """Put an image into the cache in `folder`, as a build leaves it; return its name."""
    image = f"local/made-{next(_count)}:1"
    layout = Layout(folder / "cache")
    place = layout.image(image) / "run"
    program(place / "env" / "bin" / "jupyter-server", jupyter)
    directory(place, files).rename(place / "repo")
    built = Built(image, "run", str(place), start)
    layout.built_file(image).write_bytes(msgspec.json.encode(built))
    return image


class Log:
    """A report that keeps the log."""

    def __init__(self) -> None:
        self.run_id = ""
        self.lines: dict[int, str] = {}
        self.phases: list[Phase | None] = []

    def waiting(self, message: str) -> None:
        raise AssertionError(message)

    def started(self, run_id: str) -> None:
        self.run_id = run_id

    def line(
        self,
        n: int,
        message: str,
        *,
        phase: Phase | None = None,
        progress: Progress | None = None,
    ) -> None:
        del progress
        self.lines[n] = message
        self.phases.append(phase)

    @property
    def text(self) -> str:
        return "".join(self.lines.values())


class Quiet:
    """A report of a launch that keeps nothing."""

    def line(self, message: str) -> None:
        del message


def processes_with(mark: str) -> list[psutil.Process]:
    """Return the running processes that have `mark` in their arguments or their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(mark in word for word in words):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [process for process in found if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], object], what: str, within: float = 20.0) -> None:
    """Wait, outside of an event loop, until `condition` holds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
