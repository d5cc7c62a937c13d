"""The journal of a build: what was told, once, for every watcher there is or will be.

A watcher is a position in it. The journal takes each number once and holds events as bytes that
were encoded once. It has a cap: when a build says more, its first and its last lines are kept, and
a reader who comes to the gap is told how many lines were left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, Self

import msgspec

from binder_core import events
from binder_core.events import Event
from binder_core.ordering import LOG, Phase

CAP_BYTES: Final = 16 * 2**20

AT_MOST: Final = 2000
"""How many events a reader takes at once."""

_PAGES: Final = 4
"""How many pages are held for others who read the same."""

_OVERHEAD: Final = 256
"""Bytes that an event costs beside its own, roughly: the objects around it."""


class Told(msgspec.Struct, gc=False, eq=False):
    """One event, as it is told: encoded once.

    There are a hundred thousand of a long build, without cycles: the collector knows of none.
    """

    id: str
    """What a reconnect sends to go on behind it; empty if there is nothing to go on with."""
    phase: Phase
    data: bytes
    """The event as JSON."""
    frame: bytes | None = None
    """Where an adapter may keep its own encoding, so as to make it once as well."""

    @classmethod
    def of(cls, event: Event, event_id: str = "") -> Self:
        """Return an event, as it is told.

        Args:
            event: The event.
            event_id: See `id`.
        """
        return cls(event_id, event.phase, events.encode(event))

    @property
    def event(self) -> Event:
        """Return the event, decoded anew."""
        return events.decode(self.data)

    def __repr__(self) -> str:
        return f"Told({self.id!r}, {self.data.decode()})"


class Page(list[Told]):
    """Events that were read together: who reads the same gets the same page."""

    __slots__ = ("frames",)

    def __init__(self, told: Iterable[Told] = ()) -> None:
        super().__init__(told)
        self.frames: bytes | None = None
        """Where an adapter may keep its encoding of all of them."""


_NOTHING: Final = Page()


class Journal:
    """An append-only list of events with numbers.

    Args:
        cap_bytes: How much is held; half for the first events, half for the last.
    """

    def __init__(self, *, cap_bytes: int = CAP_BYTES) -> None:
        self._half = cap_bytes // 2
        self._head: list[Told] = []
        self._head_numbers: list[int] = []
        self._head_bytes = 0
        # The tail is a list whose first `_tail_from` entries are dead; they are cut off now and
        # then, so that an append costs the same however long the build (a deque cannot be sliced).
        self._tail: list[Told] = []
        self._tail_numbers: list[int] = []
        self._tail_from = 0
        self._tail_bytes = 0
        self._left_out = 0
        self._taken = 0
        # What was read last, by where it starts and at most how much, and the position behind it.
        # Watchers are woken together and mostly stand at the same place: all but the first find
        # their pages here, until the next event comes.
        self._pages: dict[tuple[int, int], tuple[Page, int]] = {}
        self._log_phase = Phase.BUILDING
        self.last_number = 0
        """The highest number taken."""

    def __len__(self) -> int:
        """Return how many events were taken, those left out since included."""
        return self._taken

    @property
    def left_out(self) -> int:
        """Return how many events are no longer held."""
        return self._left_out

    def append(self, told: Told, number: int | None = None) -> None:
        """Take an event.

        Args:
            told: The event.
            number: Higher than all before it; None for what stands between the lines, e.g. a place
                in a queue.

        Raises:
            ValueError: It is not higher: the caller has to drop what comes again.
        """
        if number is None:
            number = self.last_number
        elif number <= self.last_number:
            raise ValueError(f"number {number} after {self.last_number}")
        self.last_number = number
        self._taken += 1
        if self._pages:
            self._pages.clear()
        if told.phase is not self._log_phase and told.phase in LOG:
            self._log_phase = told.phase
        size = len(told.data) + _OVERHEAD
        if not self._tail and self._head_bytes + size <= self._half:
            self._head.append(told)
            self._head_numbers.append(number)
            self._head_bytes += size
            return
        self._tail.append(told)
        self._tail_numbers.append(number)
        self._tail_bytes += size
        while self._tail_bytes > self._half and len(self._tail) - self._tail_from > 1:
            self._tail_bytes -= len(self._tail[self._tail_from].data) + _OVERHEAD
            self._tail_from += 1
            self._left_out += 1
        if self._tail_from > 32 and self._tail_from * 2 > len(self._tail):
            del self._tail[: self._tail_from]
            del self._tail_numbers[: self._tail_from]
            self._tail_from = 0

    def read(self, position: int, at_most: int = AT_MOST) -> tuple[Page, int]:
        """Return events from `position` on, and the position behind them.

        Where events were left out, one event in their place says how many.

        Args:
            position: 0 for the first event; what `read` or `position_after` returned.
            at_most: How many events to return, so that a slow reader holds no more than these; an
                eighth more if there are no others behind them.
        """
        if position >= self._taken:
            # Who is woken looks once more before it waits: mostly in vain.
            return _NOTHING, position
        asked = position, at_most
        if (held := self._pages.get(asked)) is not None:
            return held
        few = at_most // 8  # a write costs as much as they do
        if self._taken - position <= at_most + few:
            at_most += few
        told = Page()
        head = len(self._head)
        if position < head:
            told += self._head[position : position + at_most]
            position += len(told)
        tail_at = head + self._left_out
        room = at_most - len(told)
        if room and head <= position < tail_at:
            told.append(self._gap(tail_at - position))
            position = tail_at
            room -= 1
        if room and position >= tail_at:
            first = self._tail_from + position - tail_at
            tail = self._tail[first : first + room]
            told += tail
            position += len(tail)
        if len(self._pages) == _PAGES:
            del self._pages[next(iter(self._pages))]
        self._pages[asked] = told, position
        return told, position

    def position_after(self, number: int) -> int:
        """Return the position behind the event with `number`, or where it would be."""
        if self._head_numbers and number <= self._head_numbers[-1]:
            return bisect_right(self._head_numbers, number)
        first_held = self._tail_numbers[self._tail_from] if self._tail else self.last_number + 1
        if self._left_out and number < first_held:
            # In the gap: what was left out behind it is not known any more one by one.
            return len(self._head)
        behind = bisect_right(self._tail_numbers, number, self._tail_from) - self._tail_from
        return len(self._head) + self._left_out + behind

    def _gap(self, count: int) -> Told:
        # Told in the phase of what follows, so that rank never falls (rule 2).
        after = self._tail[self._tail_from].phase
        lines = "line" if count == 1 else "lines"
        phase = after if after in LOG else self._log_phase
        return Told.of(events.log_event(phase, f"… {count} {lines} left out …\n"))
