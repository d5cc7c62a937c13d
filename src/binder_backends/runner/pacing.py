"""Keeps what is overwritten anyway to a few lines a second. Time is an argument."""

from __future__ import annotations

from binder_backends.runner.sorting import Told


class Pacer:
    """Lets lines through; of fleeting ones at most one an interval, and always the last.

    Args:
        interval: Seconds between two fleeting lines of a kind.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._held: Told | None = None
        self._last = {"bar": float("-inf"), "progress": float("-inf")}

    def take(self, told: Told, now: float) -> list[Told]:
        """Return what is to be told now that `told` has come."""
        if not told.fleeting:
            return [*self.flush(now), told]
        before: list[Told] = []
        if self._held is not None and self._held.fleeting != told.fleeting:
            before = self.flush(now)
        self._held = told
        return before + self.due(now)

    def due(self, now: float) -> list[Told]:
        """Return what was held back and is due."""
        deadline = self.deadline()
        return self.flush(now) if deadline is not None and now >= deadline else []

    def deadline(self) -> float | None:
        """Return when something held back is due, None if nothing is held."""
        return None if self._held is None else self._last[self._held.fleeting] + self._interval

    def flush(self, now: float) -> list[Told]:
        """Return what is held back."""
        held, self._held = self._held, None
        if held is None:
            return []
        self._last[held.fleeting] = now
        return [held]
