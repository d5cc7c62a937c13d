from __future__ import annotations

from typing import Any, ClassVar

from fake_suites import FakeBuilders, FakeLaunchers


class TestBuilder(FakeBuilders):
    pass


class TestBuilderOverABadConnection(FakeBuilders):
    common: ClassVar[dict[str, Any]] = {"start_faults": 1, "faults": 2, "fault_after": 1}


class TestBuilderThatRepeatsItself(FakeBuilders):
    common: ClassVar[dict[str, Any]] = {"twice": True, "again_after": 1}


class TestLauncher(FakeLaunchers):
    pass


class TestLauncherOverABadConnection(FakeLaunchers):
    common: ClassVar[dict[str, Any]] = {"start_faults": 1, "faults": 1}
