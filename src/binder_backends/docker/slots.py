"""How many builds run on an engine at a time, whichever server started them.

What is counted are the engine's containers. Servers that start builds in the same moment may exceed
the limit by one each, since they share no lock; one server alone never does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from binder_backends.docker.engine import Engine
from binder_backends.docker.runs import BUILD_LABEL, is_listed_run

_LOOK: Final = 2.0
"""Seconds after which the engine is asked again where nothing of our own has changed."""
_JUST_MADE: Final = 60.0
"""Seconds for which a container that was not started counts: another server may be doing so."""
_KNOWN: Final = 300.0
"""Seconds for which our own starts are remembered: longer than any call to the engine takes."""


class Turn:
    """A build's place in the queue."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped: str | None = None
        """Why it is not to be started any more; None if it is."""


class Slots:
    """The places on an engine, and this server's queue for them.

    Args:
        engine: The engine.
        limit: How many builds may run; 0: any number.
    """

    def __init__(self, engine: Engine, limit: int) -> None:
        self._engine = engine
        self._limit = limit
        self._queue: list[Turn] = []
        self._starting: list[str] = []
        self._started: dict[str, float] = {}
        self._changed = anyio.Event()

    @contextmanager
    def turn(self, name: str) -> Iterator[Turn]:
        """Queue up; who leaves the block leaves the queue."""
        turn = Turn(name)
        self._queue.append(turn)
        try:
            yield turn
        finally:
            self._queue.remove(turn)
            self.wake()

    async def claim(self, turn: Turn) -> str:
        """Take a place, to be given back by `release`; return why there is none, else nothing.

        Raises:
            BackendUnavailable: The engine broke.
        """
        if not self._limit:
            return ""
        if self._queue[0] is turn:
            asked = time.monotonic()
            busy = await self._busy()
            # From here on nothing is awaited: what was counted is so until the place is taken.
            busy |= {*self._starting}
            busy |= {name for name, when in self._started.items() if when >= asked}
            busy.discard(turn.name)
            if len(busy) < self._limit:
                self._starting.append(turn.name)
                return ""
        place = self._queue.index(turn) + 1
        return (
            f"The Docker engine runs as many builds as it may ({self._limit}): number {place} in"
            " the queue\n"
        )

    def release(self, name: str) -> None:
        """Give a place back: the build has a container by now, or will have none."""
        if name in self._starting:
            now = time.monotonic()
            self._starting.remove(name)
            # A list that was asked for before may not have it yet.
            self._started = {n: t for n, t in self._started.items() if t > now - _KNOWN}
            self._started[name] = now
            self.wake()

    async def change(self) -> None:
        """Return when there may be more places, or another place in the queue."""
        with anyio.move_on_after(_LOOK):
            await self._changed.wait()

    def wake(self) -> None:
        """Let all who wait look again: a build has ended, for instance."""
        self._changed.set()
        self._changed = anyio.Event()

    def stop(self, name: str, reason: str) -> None:
        """Let a build in the queue not be started any more."""
        for turn in self._queue:
            if turn.name == name:
                turn.stopped = reason
        self.wake()

    async def _busy(self) -> set[str]:
        youngest = time.time() - _JUST_MADE
        return {
            listed["Labels"][BUILD_LABEL]
            for listed in await self._engine.containers(BUILD_LABEL)
            if is_listed_run(listed)
            and (
                listed["State"] == "running"
                or (listed["State"] == "created" and listed["Created"] > youngest)
            )
        }
