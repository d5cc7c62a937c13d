"""What the suites of builders and launchers have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import ClassVar, Protocol

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup


class _Checked(Protocol):
    Settings: ClassVar[type[msgspec.Struct]]

    async def check(self) -> None: ...

    def versions(self) -> Mapping[str, str]: ...


class PluginSuite:
    """The base of the suites."""

    pytestmark = pytest.mark.anyio

    limit: ClassVar[float] = 30.0
    """Seconds that any one step may take. A guard: a test that passes does not wait for it."""

    retry_delay: ClassVar[float] = 0.01
    """Seconds until a call that raised `BackendUnavailable` is made again; then more and more."""

    @contextmanager
    def within_limit(self, what: str) -> Iterator[None]:
        """Fail the test if what is done inside does not end in time."""
        with anyio.move_on_after(self.limit) as scope:
            yield
        if scope.cancelled_caught:
            raise AssertionError(f"{what}: not within {self.limit:g} seconds")

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[TaskGroup]:
        """Run tasks until the body is through, and let its one error out as it is."""
        try:
            async with anyio.create_task_group() as tasks:
                yield tasks
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            raise error from None

    async def check_common(self, plugin: _Checked) -> None:
        """Check what every builder and launcher has."""
        settings = type(plugin).Settings
        assert isinstance(settings, type), "Settings is a class"
        assert issubclass(settings, msgspec.Struct), "Settings is a msgspec.Struct"
        config = settings.__struct_config__
        assert config.forbid_unknown_fields, "an unknown setting is an error, not ignored"
        with self.within_limit("check"):
            # The annotation says None; what comes at run time is what counts here.
            answer: object = await plugin.check()  # type: ignore[func-returns-value]
        assert answer is None, "check returns None or raises BackendUnavailable"
        versions = plugin.versions()
        assert isinstance(versions, Mapping), "versions returns names and versions"
        for name, version in versions.items():
            assert isinstance(name, str), "versions: names are strings"
            assert isinstance(version, str), "versions: versions are strings"
