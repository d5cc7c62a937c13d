"""``binder launch`` of a folder with the real local backend: a Jupyter server, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("package_index")]

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "repository"


def binder(tmp_path: Path, what: Path) -> subprocess.Popen[str]:
    settings = (
        f"builder.local.cache_dir={tmp_path}/cache",
        f"launcher.local.cache_dir={tmp_path}/cache",
        f"launcher.local.state_dir={tmp_path}/servers",
        f"server.state_dir={tmp_path}/state",
    )
    flags = [flag for setting in settings for flag in ("--set", setting)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("BINDER_")}
    return subprocess.Popen(
        [sys.executable, "-m", "binder_http.cli", "launch", *flags, str(what)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )


@contextmanager
def launched(tmp_path: Path, what: Path) -> Iterator[subprocess.Popen[str]]:
    with binder(tmp_path, what) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def line_with(running: subprocess.Popen[str], words: str) -> str:
    assert running.stdout is not None
    seen = []
    for line in running.stdout:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"no {words!r} in {''.join(seen)}")


def left_behind(tmp_path: Path) -> list[str]:
    """Return the command lines of processes that work below `tmp_path`."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [process.cwd(), *process.cmdline()]
        except psutil.Error:
            continue
        if any(str(tmp_path) in part for part in told):
            found.append(" ".join(told))
    return found


def test_a_folder_becomes_a_notebook_until_ctrl_c(tmp_path: Path) -> None:
    with launched(tmp_path, EXAMPLE) as running:
        link = urlsplit(line_with(running, "?token=").strip())
        (token,) = parse_qs(link.query)["token"]
        base = f"{link.scheme}://{link.netloc}{link.path}"
        headers = {"authorization": f"token {token}"}
        assert httpx.get(f"{base}api/status").status_code == 403
        assert httpx.get(f"{base}api/status", headers=headers).json()["kernels"] == 0
        names = [
            item["name"]
            for item in httpx.get(f"{base}api/contents", headers=headers).json()["content"]
        ]
        assert "index.ipynb" in names
        assert left_behind(tmp_path)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
    assert not left_behind(tmp_path)


def test_ctrl_c_ends_a_build_with_all_it_started(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    script = folder / "postBuild"
    script.write_text("#!/bin/sh\n(setsid sleep 987 &)\necho now it hangs\nsleep 987\n")
    script.chmod(0o700)
    with launched(tmp_path, folder) as running:
        line_with(running, "now it hangs")
        assert any("sleep 987" in line for line in left_behind(tmp_path))
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 128 + signal.SIGINT
    assert not left_behind(tmp_path)
