"""One request's stream as a client follows it, over as many connections as that takes.

Pure: what was heard goes in, with the time; what to tell and how long to wait comes out. The two
clients of `binder_http.client` do the talking. The rules:

1. A stream has ended when its last event, ``ready`` or ``failed``, was told, or when a reconnect
   was answered with 204. Any other end of a connection is trouble: try again.
2. A reconnect sends the id of the last event told (``Last-Event-ID``); the server goes on there.
3. Events without an id are told again by the server. Those told already are dropped; see `Overlap`.
4. The wait between two tries grows, and starts anew when something new was told. When nothing new
   came for `Patience.give_up` seconds of trying, it is over.
"""

from __future__ import annotations

import enum
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from httpx_sse import ServerSentEvent

from binder_core.errors import BinderError
from binder_core.events import Event, Waiting
from binder_core.ordering import FINAL, LOG, Phase
from binder_http.dialects import read

REMEMBERED: Final = 20_000
"""Events without an id that are kept for comparison."""

MAX_RETRY: Final = 60.0
"""Seconds: the most that a server's ``retry:`` can ask for."""


class ServerUnavailable(BinderError):
    """The Binder server did not answer, or its stream broke off again and again."""

    status_hint = 503


class UnexpectedAnswer(BinderError):
    """The server answered with something else than an event stream.

    ``status`` is the HTTP status of that answer.
    """


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client waits for what. Seconds."""

    give_up: float = 120.0
    """How long to go on trying while nothing new comes."""
    silence: float = 75.0
    """A connection on which nothing came for so long, no heartbeat either, is dead. Servers send
    one every 30 s at least."""
    delay: float = 1.0
    """The first wait before a reconnect, where the server does not say (``retry:``)."""
    max_delay: float = 20.0
    """What the wait grows to."""


class Answer(enum.Enum):
    """What a server's answer is, by its head."""

    STREAM = enum.auto()
    END = enum.auto()
    """The stream had ended before."""
    ERROR = enum.auto()
    """Anything else; see `worth_a_retry`."""


class Follower:
    """Follows one stream.

    Args:
        server: The server's URL as messages may show it.
        patience: How long to wait for what.
    """

    def __init__(self, server: str, patience: Patience) -> None:
        self._server = server
        self._patience = patience
        self._last_id = ""
        self._unnumbered: deque[Event] = deque(maxlen=REMEMBERED)
        self._overlap: Overlap | None = None
        self._phase: Phase | None = None
        self._delay = patience.delay
        self._tries = 0
        self._trouble_since: float | None = None
        self._opened_at: float | None = None
        self._answered = False
        self._ended = False

    def ended(self) -> bool:
        """Return whether there is nothing more to come."""
        return self._ended

    def headers(self) -> dict[str, str]:
        """Return the headers of the next request."""
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if self._last_id:
            headers["last-event-id"] = self._last_id
        return headers

    def answered(self, status: int, content_type: str, now: float) -> Answer:
        """Take the head of an answer; return what it is."""
        self._answered = True
        self._opened_at = None
        if status == 204:
            self._ended = True
            return Answer.END
        if status != 200 or content_type.partition(";")[0].strip().lower() != "text/event-stream":
            return Answer.ERROR
        self._opened_at = now
        self._overlap = Overlap(self._unnumbered) if self._unnumbered else None
        return Answer.STREAM

    def heard(self, sse: ServerSentEvent) -> list[Event]:
        """Take one frame of the stream; return the events to tell."""
        if sse.retry is not None:
            self._delay = min(max(sse.retry / 1000, 0.0), MAX_RETRY)
        if sse.event not in ("", "message") or self._ended:
            return []
        if not sse.data:
            # A frame that only sets the id says: all before it has been told.
            if sse.id and sse.id != self._last_id:
                self._numbered(sse.id)
            return []
        event = read(sse.data, self._phase)
        if sse.id and sse.id != self._last_id:
            # New by rule 2, and so is all that follows.
            new, self._overlap = [event], None
            self._numbered(sse.id)
        else:
            new = self._overlap.take(event) if self._overlap else [event]
            self._unnumbered.extend(new)
        if new:
            self._phase = new[-1].phase
            self._tries = 0
            self._trouble_since = None
        self._ended = event.phase in FINAL
        return new

    def broke(self, reason: str, now: float) -> float:
        """Take the end of a connection; return the seconds to wait before the next try.

        Args:
            reason: What happened, for the message.
            now: The time, from a clock that never goes back.

        Raises:
            ServerUnavailable: Nothing new came for too long.
        """
        # A connection that lived longer than a dead one can has heard heartbeats: fresh trouble.
        lived = self._opened_at is not None and now - self._opened_at > 2 * self._patience.silence
        self._opened_at = None
        if self._trouble_since is None or lived:
            self._trouble_since = now
            self._tries = 0
        tried_for = now - self._trouble_since
        if tried_for >= self._patience.give_up:
            raise ServerUnavailable(
                f"{self._server}: {reason}. Nothing new came for {tried_for:.0f} s of trying. "
                "The build may go on there: ask again later to join it."
            )
        grown = min(max(self._delay, 0.05) * 2.0**self._tries, self._patience.max_delay)
        self._tries = min(self._tries + 1, 30)
        # Spread, so that all clients of a server that restarts do not come in the same moment.
        delay = grown * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
        return min(delay, self._trouble_since + self._patience.give_up - now)

    def refused(self, reason: str, now: float) -> float:
        """Take a connection that was not made; otherwise as `broke`.

        Raises:
            ServerUnavailable: Also at once where this server has never answered: most likely
                there is none.
        """
        if not self._answered:
            raise ServerUnavailable(
                f"{self._server}: {reason}. Is the server running, and are host and port right?"
            )
        return self.broke(reason, now)

    def _numbered(self, event_id: str) -> None:
        self._last_id = event_id
        self._unnumbered.clear()


def worth_a_retry(status: int) -> bool:
    """Return whether another try may be answered better than with `status`."""
    return status >= 500 or status == 408


class Overlap:
    """Finds, in what a server tells again, the part that is new.

    Only for events without an id: those before a build has begun, and all of a server that knows
    no ids. Such a server tells its log again, from the first line or from some line on; the longest
    stretch that fits what was told is dropped.

    Args:
        told: The events without an id since the last one with.
    """

    def __init__(self, told: Sequence[Event]) -> None:
        # Places in a queue come and go: each one told again is one of those before, in any order.
        self._waits = Counter(event for event in told if isinstance(event, Waiting))
        self._told = [event for event in told if not isinstance(event, Waiting)]
        self._held: list[Event] = []
        self._starts: Sequence[int] = range(len(self._told))
        self._covered = 0
        self._done = not self._told

    def take(self, event: Event) -> list[Event]:
        """Return what is new now that `event` was told."""
        if isinstance(event, Waiting):
            if self._waits[event]:
                self._waits[event] -= 1
                return []
            return [event]
        if self._done:
            return [event]
        at = len(self._held)
        if any(start + at == len(self._told) for start in self._starts):
            self._covered = at
        self._starts = [
            start
            for start in self._starts
            if start + at < len(self._told) and _same(self._told[start + at], event)
        ]
        self._held.append(event)
        if self._starts:
            return []
        self._done = True
        return self._held[self._covered :]


def _same(told: Event, again: Event) -> bool:
    if told == again:
        return True
    # A line that names no phase has that of the one before it, which need not be told again.
    lines = told.phase in LOG and again.phase in LOG
    return lines and type(told) is not type(again) and told.message == again.message
