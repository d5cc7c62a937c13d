"""The example of a plug-in in a distribution of its own, installed as its users would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "third-party-builder"

pytestmark = pytest.mark.real


def run(*arguments: str | Path, at: Path) -> str:
    # None of this environment's paths: what is found there is what was installed there.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        arguments, cwd=at, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def python(
    package_index: None, require: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The Python of a new virtual environment that holds binderkit and the example."""
    folder = tmp_path_factory.mktemp("third-party")
    uv = require("uv", "pip install uv")
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv", at=folder)
    python = folder / "venv" / "bin" / "python"
    install = (uv, "pip", "install", "--quiet", "--python", python)
    run(*install, "--editable", ROOT, "--editable", f"{EXAMPLE}[test]", at=folder)
    return python


def test_binderkit_finds_the_plug_in(python: Path, tmp_path: Path) -> None:
    ask = "from binder_core.engine.discovery import *; print(names('binder.builders'))"
    assert "'copy'" in run(python, "-c", ask, at=tmp_path)
    ask = "from binder_core.engine.discovery import *; print(find('binder.builders', 'copy'))"
    assert "binderkit_copy_builder" in run(python, "-c", ask, at=tmp_path)


def test_it_passes_its_tests_and_the_suite(python: Path, tmp_path: Path) -> None:
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLE, at=tmp_path)
    assert " passed" in said
    assert "failed" not in said
    assert "skipped" not in said
