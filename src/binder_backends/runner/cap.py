"""How much of a log is kept: what comes first, something of what comes then, and what comes last.

A log is read while it is written, so what was told stays told. The first lines are told as they
come until half of the cap is used. From then on lines pass through a store of the newest ones, and
now and then a part of it is told: all of it where a build says little, the newest lines where it
pours. What is left out is told as a number. At the end the store is told: the newest lines of all.

A part of the cap is kept for the push, which comes last and which people wait for. Where all is
used up something is told all the same, less and less often.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final

from binder_backends.runner.sorting import Told
from binder_core.plugin import Phase

TICK: Final = 1.0
"""Seconds between two looks at the store."""

_OVERHEAD: Final = 64  # of the JSON around a message
_LAYER: Final = 60  # of a layer in it
_SPARSE: Final = 10.0
"""Seconds between two lines where all is used up, at first."""
_SPARSER: Final = 0.1
"""What part of the time since then is between two later ones: few lines, however long it takes."""


class Cap:
    """Decides what is told.

    Args:
        cap_bytes: How large the log may get, roughly.
    """

    def __init__(self, cap_bytes: int) -> None:
        self._head = cap_bytes // 2
        self._middle = cap_bytes // 8
        self._for_push = cap_bytes // 8
        self._tail = cap_bytes // 4
        self._grant_least = cap_bytes // 4096
        self._store: deque[tuple[Told, int]] = deque()
        self._stored = 0
        self._left_out = 0
        self._next = 0.0
        self._used_up: float | None = None
        self._pours_until = 0.0

    def pours(self, now: float) -> bool:
        """Return whether more comes than is told."""
        return self._left_out > 0 or now < self._pours_until

    def take(self, told: Told, now: float) -> list[Told]:
        """Return what is to be told now that `told` has come."""
        size = len(told.message.encode()) + _OVERHEAD + _LAYER * len(told.progress or ())
        if told.phase is Phase.PUSHING and self._for_push:
            self._middle = max(0, self._middle) + self._for_push
            self._for_push, self._used_up, self._next = 0, None, now
        if self._head >= 0 and not self._store:
            self._head -= size
            self._next = now + TICK
            return [told]
        if not self._store:
            self._next = max(self._next, now)
        self._store.append((told, size))
        self._stored += size
        while self._stored > self._tail and len(self._store) > 1:
            self._stored -= self._store.popleft()[1]
            self._left_out += 1
        return self.due(now)

    def leave_out(self, lines: int) -> None:
        """Count lines that were not even read."""
        self._left_out += lines + len(self._store)
        self._store.clear()
        self._stored = 0

    def due(self, now: float) -> list[Told]:
        """Return what is to be told by now."""
        if now < self._next or not self._store:
            return []
        self._next = now + TICK
        if self._left_out:
            self._pours_until = now + 2 * TICK
        # A share of what is left, so that a long build still has something to give.
        grant = max(self._grant_least, self._middle // 32)
        if self._middle <= 0:
            self._used_up = now if self._used_up is None else self._used_up
            self._next = now + max(_SPARSE, _SPARSER * (now - self._used_up))
            grant = 0  # and yet the newest line
        while len(self._store) > 1 and self._stored > grant:
            self._stored -= self._store.popleft()[1]
            self._left_out += 1
        self._middle -= self._stored
        return self.flush()

    def deadline(self) -> float | None:
        """Return when to ask again, None while there is nothing to tell."""
        return self._next if self._store else None

    def flush(self) -> list[Told]:
        """Return the store: the log ends, or a line says something that must be told."""
        shown = [told for told, _ in self._store]
        self._store.clear()
        self._stored = 0
        if self._left_out and shown:
            lines = "line" if self._left_out == 1 else "lines"
            gap = f"… {self._left_out} {lines} left out …\n"
            shown.insert(0, replace(shown[0], message=gap, progress=None, fleeting=""))
            self._left_out = 0
        return shown
