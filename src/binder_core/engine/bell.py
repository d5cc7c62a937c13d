"""Waking many at once, and what they wake for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar

import anyio

from binder_core.journal import Told

T = TypeVar("T")


class Bell:
    """Wakes everyone who waits when it is rung. It has no memory: look first, then wait."""

    __slots__ = ("_event", "beats")

    def __init__(self) -> None:
        self.beats = 0
        """How many rings were heartbeats: who then finds nothing new tells one."""
        # Made by the first who waits: most rings find nobody there.
        self._event: anyio.Event | None = None

    def ring(self) -> None:
        """Wake all who wait now."""
        rung, self._event = self._event, None
        if rung is not None:
            rung.set()

    def beat(self) -> None:
        """Wake all for a heartbeat."""
        self.beats += 1
        self.ring()

    async def wait(self) -> None:
        """Return at the next ring."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


Batch: TypeAlias = Sequence[Told]
"""Events to send together; an empty one is a heartbeat."""


class Source(Protocol):
    """What a watcher reads."""

    @property
    def bell(self) -> Bell:
        """Return what rings when there is something new, and for heartbeats."""

    def read(self) -> Batch | None:
        """Return what is new, nothing if nothing is, None when there is no more to come."""


class Said:
    """A source of one batch, and no more.

    Args:
        told: What is in it.
    """

    __slots__ = ("_batch", "bell")

    def __init__(self, *told: Told) -> None:
        self.bell = Bell()
        self._batch: Batch | None = told

    def read(self) -> Batch | None:
        """Return what is said, then None."""
        batch, self._batch = self._batch, None
        return batch


class Flight(Generic[T]):
    """A question under way, for however many ask it.

    Args:
        began: When it was asked.
    """

    __slots__ = ("_error", "_value", "began", "bell", "done")

    def __init__(self, began: float) -> None:
        self.began = began
        self.bell = Bell()
        self.done = False
        self._value: T
        self._error: Exception | None = None

    async def fly(self, ask: Callable[[], Awaitable[T]]) -> None:
        """Find out, and wake all who wait for it."""
        try:
            self._value = await ask()
        except Exception as error:  # noqa: BLE001 - raised in each who asked
            self._error = error
        self.done = True
        self.bell.ring()

    def read(self) -> Batch | None:
        """Return nothing, and None when the answer is there: a question tells no events."""
        return None if self.done else ()

    def result(self) -> T:
        """Return the answer, or raise what asking raised."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._value
