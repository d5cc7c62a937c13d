"""What a test needs is never silently missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def test_what_is_missing_skips_and_says_how_to_get_it(
    require: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs no-such-program: try this"):
        require("no-such-program", "try this")
    with pytest.raises(pytest.skip.Exception, match="needs a network: try that"):
        require("a network", "try that", there=False)


def test_in_ci_it_fails(require: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs no-such-program: try this"):
        require("no-such-program", "try this")


def test_what_is_there_is_found(
    require: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    beside = Path(sys.executable)
    assert Path(require(beside.name, "")).samefile(beside)
    assert require("a network", "", there=True) == ""


def test_no_test_skips_in_another_way() -> None:
    skipping = [path for path in TESTS.rglob("*.py") if "pytest.skip" + "(" in path.read_text()]
    assert skipping == [TESTS / "conftest.py"]
