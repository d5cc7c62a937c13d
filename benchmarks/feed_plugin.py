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

_PIECE = 65536


class FeedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where lines come from."""

    socket: str = ""
    """The feeder's."""


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
        reader = LogReader()
        lines, plea = await asyncio.open_unix_connection(self._settings.socket)
        with closing(plea):
            plea.write(f"log {plan}\n".encode())
            report.started(plan.partition("/")[0])
            while data := await lines.read(_PIECE):
                for entry in reader.feed(data):
                    if isinstance(entry, Outcome):
                        if not entry.built:
                            raise BuildFailed(entry.message)
                        return
                    report.line(entry.n, entry.message, phase=entry.phase)
        raise BackendUnavailable("the feeder is gone")

    async def stop(self, request: BuildRequest) -> None:
        """Do nothing."""
