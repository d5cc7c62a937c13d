"""What is remembered of answers: good ones to ask whether they changed, misses for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Final

import anyio

from binder_core.plugin import Answer, BinderError, HttpReply, Question

_OVERHEAD: Final = 2048
"""Bytes that an answer costs beside its body, roughly."""
_MOST_MISSES: Final = 4096


class Memory:
    """Answers, within bounds.

    Args:
        cache_bytes: How much is kept of good answers; those unused for longest go first.
        miss_age: For how many seconds a miss is remembered.
    """

    def __init__(self, *, cache_bytes: int, miss_age: float) -> None:
        self._cap = self._room = cache_bytes
        self._miss_age = miss_age
        self._good: OrderedDict[Question, HttpReply] = OrderedDict()
        self._misses: OrderedDict[Question, tuple[float, Answer | BinderError]] = OrderedDict()

    def good(self, question: Question) -> HttpReply | None:
        """Return the last good answer; whether it still holds has to be asked."""
        if question in self._good:
            self._good.move_to_end(question)
        return self._good.get(question)

    def keep(self, question: Question, reply: HttpReply) -> None:
        """Keep a good answer, if it can be asked whether it changed."""
        self._drop(question)
        if "etag" not in reply.headers or _cost(reply) > self._cap:
            return
        self._good[question] = reply
        self._room -= _cost(reply)
        while self._room < 0:
            self._drop(next(iter(self._good)))

    def miss(self, question: Question, now: float) -> Answer | None:
        """Return the answer that said lately that there is no such thing, None if none did.

        Raises:
            BinderError: It was told in this way.
        """
        if question not in self._misses:
            return None
        time, answer = self._misses[question]
        if now - time >= self._miss_age:
            del self._misses[question]
            return None
        if isinstance(answer, BinderError):
            raise copy(answer)
        return answer

    def keep_miss(self, question: Question, answer: Answer | BinderError, now: float) -> None:
        """Remember that there is no such thing."""
        self._misses.pop(question, None)
        self._misses[question] = (now, answer)
        if len(self._misses) > _MOST_MISSES:
            self._misses.popitem(last=False)

    def _drop(self, question: Question) -> None:
        if reply := self._good.pop(question, None):
            self._room += _cost(reply)


def _cost(reply: HttpReply) -> int:
    return len(reply.body) + _OVERHEAD


@dataclass(slots=True)
class _Flight:
    landed: anyio.Event = field(default_factory=anyio.Event)
    answer: Answer | None = None
    error: Exception | None = None


class Flights:
    """Questions under way: whoever asks the same waits for the same answer."""

    def __init__(self) -> None:
        self._under_way: dict[Question, _Flight] = {}

    async def share(self, question: Question, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer to `question`, asking only if nobody does already.

        Raises:
            Exception: What `ask` raised, a copy of its own for everybody.
        """
        while flight := self._under_way.get(question):
            await flight.landed.wait()
            if flight.error is not None:
                raise copy(flight.error) from flight.error
            if flight.answer is not None:
                return flight.answer
            # Whoever asked was cancelled; one of those who wait asks in their place.
        flight = self._under_way[question] = _Flight()
        try:
            flight.answer = await ask()
        except Exception as error:
            flight.error = error
            raise
        finally:
            del self._under_way[question]
            flight.landed.set()
        return flight.answer
