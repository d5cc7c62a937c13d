"""A clock that a test turns by hand."""

from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

_TURNS = 20


class FakeClock:
    """Seconds that pass when a test says so. Hand it to `FakeEngine` as its clock.

    Args:
        now: What it shows at first.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._sleepers: list[tuple[float, anyio.Event]] = []

    def __call__(self) -> float:
        """Return the seconds it shows."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Return when the clock shows `seconds` more."""
        if seconds <= 0:
            await checkpoint()
            return
        sleeper = (self.now + seconds, anyio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    def advance(self, seconds: float) -> None:
        """Turn the clock at once; those who slept long enough wake up when they get their turn."""
        self.now += seconds
        for deadline, event in self._sleepers:
            if deadline <= self.now:
                event.set()

    async def elapse(self, seconds: float) -> None:
        """Let time pass as it would: everybody wakes up at their time and does what they have to.

        Returns when all that is left is waiting.
        """
        end = self.now + seconds
        await _settled()
        while due := [deadline for deadline, _ in self._sleepers if deadline <= end]:
            self._turn_to(min(due))
            await _settled()
        self._turn_to(end)

    def _turn_to(self, now: float) -> None:
        # Never backwards, and to the very number: a sum of differences could stay below it.
        self.now = max(self.now, now)
        self.advance(0.0)


async def _settled() -> None:
    # What is going on needs a few turns; asked too early, anyio looks again only after 0.1 s.
    for _ in range(_TURNS):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()
