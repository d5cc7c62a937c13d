"""The house: what the core does not do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = ("asyncio", "socket", "ssl", "subprocess", "anyio", "httpx", "quart")
PURE = """
import importlib, sys, pkgutil
import binder_core
import binder_core.providers
names = [m.name for m in pkgutil.iter_modules(binder_core.__path__) if m.name not in
         {"engine", "testing"}]
for name in names:
    importlib.import_module(f"binder_core.{name}")
print(len(names))
print(*[name for name in sys.argv[1:] if name in sys.modules])
"""


def test_the_rules_load_nothing_that_does_io() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PURE, *FORBIDDEN], capture_output=True, text=True, check=True
    )
    count, loaded = done.stdout.split("\n")[:2]
    assert int(count) >= 12
    assert loaded == ""


@pytest.mark.parametrize("name", ["binder_core", "binder_core.engine", "binder_core.plugin"])
def test_public_names_are_there(name: str) -> None:
    module = __import__(name, fromlist=["__all__"])
    assert list(module.__all__) == sorted(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public)


def test_the_state_diagram_in_the_docs_is_that_of_the_machine() -> None:
    root = Path(__file__).parents[2]
    diagram = subprocess.run(
        [sys.executable, "docs/state_diagram.py"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert diagram.strip() in (root / "docs" / "architecture.md").read_text()
