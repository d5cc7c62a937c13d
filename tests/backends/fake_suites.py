"""The fakes as the suites see them, and a way to run a suite by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import anyio
import msgspec
import pytest

from binder_backends.fake import (
    BuilderSettings,
    FakeBuilder,
    FakeClock,
    FakeEngine,
    FakeLauncher,
    LauncherSettings,
    LaunchScript,
    Script,
)
from binder_core.plugin import Builder, BuildRequest, Launcher, LaunchRequest
from binder_core.testing import BuilderSuite, LauncherSuite


class FakeBuilders(BuilderSuite):
    limit = 5.0
    builder_class: ClassVar[type[FakeBuilder]] = FakeBuilder
    common: ClassVar[dict[str, Any]] = {}
    """Settings of all scripts."""

    def setup_method(self) -> None:
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock)
        self.engine.scripts = {
            "*/builds": self.script(),
            "*/fails": self.script(fails="pip found no numpie"),
            "*/slow": self.script(rate=1.0, layers={"a1": 1000}),
        }
        self.count = itertools.count()

    def script(self, **settings: Any) -> Script:
        return msgspec.convert(self.common | settings, Script)

    def make_builder(self) -> Builder:
        return self.builder_class(BuilderSettings(), self.engine)

    def request(self, repo: str) -> BuildRequest:
        n = next(self.count)
        return BuildRequest(f"build-{n}", f"image-{n}:abc", f"https://example.org/{repo}", "abc")

    def request_that_builds(self) -> BuildRequest:
        return self.request("builds")

    def request_that_fails(self) -> BuildRequest:
        return self.request("fails")

    def slow_request(self) -> BuildRequest:
        return self.request("slow")

    async def release(self) -> None:
        self.clock.advance(1000.0)

    async def image_is_there(self, image: str) -> bool | None:
        return self.engine.has_image(image)

    async def runs_started(self, name: str) -> int | None:
        return self.engine.runs_started[name]


class FakeLaunchers(LauncherSuite):
    limit = 5.0
    launcher_class: ClassVar[type[FakeLauncher]] = FakeLauncher
    common: ClassVar[dict[str, Any]] = {}

    def setup_method(self) -> None:
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock)
        self.engine.launch_scripts = {
            "launches": self.script(),
            "fails": self.script(fails="out of memory"),
            "slow": self.script(delay=10.0),
        }
        self.count = itertools.count()

    def script(self, **settings: Any) -> LaunchScript:
        return msgspec.convert(self.common | settings, LaunchScript)

    def make_launcher(self) -> Launcher:
        return self.launcher_class(LauncherSettings(), self.engine)

    def request(self, image: str) -> LaunchRequest:
        n = next(self.count)
        return LaunchRequest(f"server-{n}", image, token=f"s3cret-{n}")

    def request_that_launches(self) -> LaunchRequest:
        return self.request("launches")

    def request_that_fails(self) -> LaunchRequest:
        return self.request("fails")

    def slow_request(self) -> LaunchRequest:
        return self.request("slow")

    async def release(self) -> None:
        await self.clock.elapse(1000.0)

    async def answers(self, url: str, token: str) -> bool | None:
        name = url.rstrip("/").rpartition("/")[2]
        server = self.engine.servers.get(name)
        return server is not None and server.request.token == token

    async def is_left(self, name: str) -> bool | None:
        return name in self.engine.servers


def failures(suite: type[FakeBuilders | FakeLaunchers], only: str = "test_") -> dict[str, str]:
    """Return the tests of `suite` that fail, and why: each run on its own, as pytest does.

    Args:
        suite: The suite.
        only: How the names of the tests begin that are run.
    """
    return {
        name: why
        for name in dir(suite)
        if name.startswith(only)
        for arguments in _parameters(getattr(suite, name))
        if (why := _run(suite(), name, arguments)) is not None
    }


def _parameters(test: Any) -> Iterator[dict[str, object]]:
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    for values in itertools.product(*(mark.args[1] for mark in marks)):
        yield dict(zip((mark.args[0] for mark in marks), values, strict=True))


def _run(
    suite: FakeBuilders | FakeLaunchers, name: str, arguments: dict[str, object]
) -> str | None:
    async def test() -> None:
        await getattr(suite, name)(**arguments)

    suite.setup_method()
    try:
        anyio.run(test)
    except pytest.skip.Exception:
        return None
    except Exception as error:  # noqa: BLE001 - an exception of any kind is a failed test
        return repr(error)
    return None
