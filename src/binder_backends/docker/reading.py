"""Reads the log of a build container, while it grows, to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from binder_backends.docker.engine import Engine
from binder_core.plugin import LogReader, Outcome, Report

SILENCE: Final = 20.0
"""Seconds without a line after which the engine is asked whether it is still there."""

_NEWLINE: Final = b"\n"
_MAX_LINE_BYTES: Final = 512 * 1024
_STDOUT: Final = 1


class TooLong(Exception):
    """The log is longer than anything a runner writes."""


class LogFeed:
    """Tells a report what a container prints, and keeps the outcome.

    Args:
        report: Where to.
        numbered: Whether a runner wrote the log. Then nothing but its own lines are lines of it;
            what comes otherwise (the interpreter's last words, say) is kept in `strays`.
        max_bytes: How much of it is read.
    """

    def __init__(self, report: Report, *, numbered: bool, max_bytes: int) -> None:
        self.outcome: Outcome | None = None
        self.strays: list[str] = []
        self._report = report
        self._reader = LogReader()
        self._numbered = numbered
        self._left = max_bytes
        self._rests: dict[int, bytes] = {}

    def feed(self, stream: int, data: bytes) -> None:
        """Take a piece of one of the streams.

        Raises:
            TooLong: There were more bytes than may be.
        """
        self._left -= len(data)
        if self._left < 0:
            raise TooLong
        # Both streams are one log, line by line as the engine wrote them down.
        complete, newline, rest = (self._rests.get(stream, b"") + data).rpartition(_NEWLINE)
        self._rests[stream] = rest[:_MAX_LINE_BYTES]
        if newline:
            self._take(stream, complete + newline)

    def end(self) -> None:
        """Take what came last without an end of line."""
        for stream, rest in self._rests.items():
            if rest:
                self._take(stream, rest + _NEWLINE)
        self._rests = {}

    def _take(self, stream: int, lines: bytes) -> None:
        if self._numbered and stream != _STDOUT:
            told = lines.decode("utf-8", "replace").splitlines()
            self.strays = [*self.strays, *told][-8:]
            return
        for entry in self._reader.feed(lines):
            if isinstance(entry, Outcome):
                self.outcome = entry
            elif self.outcome is None:
                self._report.line(
                    entry.n, entry.message, phase=entry.phase, progress=entry.progress
                )


async def follow_log(engine: Engine, container: str, feed: LogFeed) -> None:
    """Tell the log of a container from its first line; return when it has an outcome, or ends.

    Where there is no outcome then, what was told need not be all: see `read_log`.

    Raises:
        NotThere: The container is gone.
        BackendUnavailable: The engine is.
        TooLong: See `LogFeed.feed`.
    """
    async with engine.log(container) as pieces:
        coming: asyncio.Task[tuple[int, bytes]] | None = None
        over = False
        try:
            while feed.outcome is None:
                coming = coming or asyncio.create_task(_next(pieces))
                await asyncio.wait({coming}, timeout=SILENCE)
                if coming.done():
                    piece, coming = coming, None
                    feed.feed(*piece.result())
                elif over:
                    return  # a followed log can stall for good
                else:
                    # Is the silence the build's, or the connection's?
                    said = await engine.inspect(container)
                    over = said["State"]["Status"] in ("exited", "dead")
        except EOFError:
            return
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)


async def read_log(engine: Engine, container: str, feed: LogFeed) -> None:
    """Tell the whole log of a container that has ended; raises what `follow_log` does."""
    async with engine.log(container, follow=False) as pieces:
        async for stream, data in pieces:
            feed.feed(stream, data)
    feed.end()


async def last_outcome(engine: Engine, container: str) -> Outcome | None:
    """Return what the last line of a runner's log says, if that is an outcome."""
    data = b""
    async with engine.log(container, follow=False, tail=1) as pieces:
        async for stream, piece in pieces:
            data += piece if stream == _STDOUT else b""
    entry = next(iter(LogReader().feed(data)), None)
    return entry if isinstance(entry, Outcome) else None


async def _next(pieces: AsyncIterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    try:
        return await anext(pieces)
    except StopAsyncIteration:
        raise EOFError from None  # the other cannot leave a task
