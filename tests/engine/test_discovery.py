"""Plug-ins are found by their entry points, and what is missing is said."""

from __future__ import annotations

import sys

import pytest

from binder_core.engine import discovery
from binder_core.errors import BackendUnavailable, ConfigError


def test_our_own_plug_ins_are_found() -> None:
    assert {"fake", "local"} <= set(discovery.names(discovery.BUILDERS))
    assert {"fake", "local"} <= set(discovery.names(discovery.LAUNCHERS))
    assert {"gh", "git", "gl"} <= set(discovery.names(discovery.PROVIDERS))
    assert discovery.find(discovery.BUILDERS, "fake").__name__ == "FakeBuilder"


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no builder named 'locl'; did you mean 'local'\?"):
        discovery.find(discovery.BUILDERS, "locl")


def test_a_missing_library_is_told_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "binder_backends.local", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'binderkit\[local\]'"):
        discovery.find(discovery.BUILDERS, "local")
