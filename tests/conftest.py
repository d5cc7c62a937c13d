"""What all tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["engines.fixtures", "engines.kubernetes_fixtures"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each test that needs an event loop on both."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def require() -> Callable[..., str]:
    """Return what looks for an engine that a test needs; see `_require`."""
    return _require


def _require(program: str, how_to_get: str, *, there: bool | None = None) -> str:
    """Return where a program is. Where it is not, the test is skipped; in CI it fails.

    Args:
        program: Its name, or that of another thing that a test needs.
        how_to_get: The cure, for whoever reads why the test was skipped.
        there: Whether it is there, where that is not a matter of the PATH.
    """
    # What is installed with Python may not be on the PATH.
    beside = os.path.dirname(sys.executable)  # noqa: PTH120 - part of a PATH
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}{os.pathsep}{beside}")
    if found is None if there is None else not there:
        reason = f"needs {program}: {how_to_get}"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI is set, so this is no skip)", pytrace=False)
        pytest.skip(reason)
    return found or ""


@pytest.fixture(scope="session")
def package_index(require: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """See to it that Jupyter can be installed."""
    uv = require("uv", "pip install uv")
    require("git", "apt-get install git")
    wanted = tmp_path_factory.mktemp("index") / "requirements.in"
    wanted.write_text("jupyter-server\nipykernel\n")
    done = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--python", sys.executable, Path(wanted)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    cure = "a network, or UV_DEFAULT_INDEX set to an index that can be reached"
    told = "".join(done.stderr.splitlines(keepends=True)[-3:])
    require("a package index", f"{cure}. uv said: {told}", there=done.returncode == 0)
