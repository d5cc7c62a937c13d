"""A builder whose lines come over a socket, as those of any builder do."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import ClassVar

import msgspec

from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    LogReader,
    Outcome,
    Plugin,
    Report,
)


class FeedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where lines come from."""

    socket: str = ""
    """The feeder's."""


class _Feed(asyncio.Protocol):
    """Reads a build's log as it comes: the bare server reads its frames in the same way."""

    def __init__(self, plan: str, report: Report) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._plan = plan
        self._report = report
        self._reader = LogReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"log {self._plan}\n".encode())

    def data_received(self, data: bytes) -> None:
        for entry in self._reader.feed(data):
            if not isinstance(entry, Outcome):
                self._report.line(entry.n, entry.message, phase=entry.phase)
            elif not self.outcome.done():
                self.outcome.set_result(entry)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(BackendUnavailable("the feeder is gone"))


class FeedBuilder(Plugin):
    """Builds nothing: it reads the feeder's log.

    Args:
        settings: Where it is.
    """

    Settings: ClassVar[type[msgspec.Struct]] = FeedSettings

    def __init__(self, settings: FeedSettings) -> None:
        self._settings = settings

    async def exists(self, image: str) -> bool:
        """Return that there is none."""
        await asyncio.sleep(0)
        return False

    async def build(self, request: BuildRequest, report: Report) -> None:
        """Report what the feeder writes."""
        plan = request.repo_url.partition("//")[2].partition("/")[2]
        report.started(plan.partition("/")[0])
        loop = asyncio.get_running_loop()
        transport, feed = await loop.create_unix_connection(
            lambda: _Feed(plan, report), self._settings.socket
        )
        with closing(transport):
            outcome = await feed.outcome
        if not outcome.built:
            raise BuildFailed(outcome.message)

    async def stop(self, request: BuildRequest) -> None:
        """Do nothing."""
