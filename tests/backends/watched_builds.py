"""Builds in pods, watched: what the tests of the Kubernetes builder share beside a `Place`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from binder_backends.kubernetes import KubernetesBuilder, KubernetesSettings
from binder_core.plugin import BuildFailed, BuildRequest
from binder_core.testing import StrictReport
from engines.kubernetes_builds import Builds

GUARD = 180.0


def secret_of_certificates(place: Builds, folder: Path) -> str:
    """Make a secret of the files in a folder, as operators do; return its name."""
    name = f"certificates-{secrets.token_hex(5)}"
    place.kubectl("create", "secret", "generic", name, f"--from-file={folder}")
    return name


async def eventually(true: Callable[[], Awaitable[Any]]) -> Any:
    """Return what that returns once it is something."""
    with anyio.fail_after(GUARD):
        while not (found := await true()):  # noqa: ASYNC110 - it is elsewhere
            await anyio.sleep(0.1)
    return found


class Watching:
    """A call of `build`."""

    def __init__(self, builder: KubernetesBuilder, request: BuildRequest) -> None:
        self.report = StrictReport()
        self.failure = ""
        self._builder = builder
        self._request = request
        self._ended = anyio.Event()

    async def run(self) -> None:
        try:
            await self._builder.build(self._request, self.report)
        except BuildFailed as failure:
            self.failure = failure.message
        self._ended.set()

    async def until_line(self, number: int = 1) -> None:
        with anyio.fail_after(GUARD):
            await self.report.until(lines=number)

    async def until_waiting(self, word: str) -> None:
        async def told() -> bool:
            return any(word in wait for wait in self.report.queue)

        await eventually(told)

    async def end(self) -> str:
        """Return why it failed, empty if there is an image."""
        with anyio.fail_after(GUARD):
            await self._ended.wait()
        assert self.report.faults == []
        return self.failure

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    @property
    def text(self) -> list[str]:
        return [line.message for _, line in sorted(self.report.lines.items())]


@asynccontextmanager
async def building(settings: KubernetesSettings) -> AsyncGenerator[Start]:
    """Open a builder and give what starts builds with it."""
    async with KubernetesBuilder(settings) as builder, anyio.create_task_group() as tasks:
        yield Start(builder, tasks)
        tasks.cancel_scope.cancel()


class Start:
    """Starts builds."""

    def __init__(self, builder: KubernetesBuilder, tasks: TaskGroup) -> None:
        self.builder = builder
        self._tasks = tasks

    def __call__(self, request: BuildRequest) -> Watching:
        watching = Watching(self.builder, request)
        self._tasks.start_soon(watching.run)
        return watching


async def off(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call something that blocks."""
    return await anyio.to_thread.run_sync(call, *arguments)


async def absent(get: Callable[[], Awaitable[Any]]) -> bool:
    """Return whether there is nothing to get."""
    return not await get()
