"""Reports that write down what they are told, and what is wrong with it."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
from anyio.lowlevel import checkpoint

from binder_core.ordering import LOG
from binder_core.plugin import LayerProgress, Phase, Progress

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToldLine:
    """A line as it was told first."""

    n: int
    message: str
    phase: Phase | None
    progress: Progress | None


class StrictReport:
    """A `binder_core.plugin.Report` that keeps the first of everything and notes each fault."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        """The run that was told."""
        self.queue: list[str] = []
        """What was told while waiting."""
        self.lines: dict[int, ToldLine] = {}
        """The log, by number."""
        self.faults: list[str] = []
        """What was told and must not be."""
        self._closed = False
        self._thread = threading.get_ident()
        self._waiters: set[anyio.Event] = set()

    @property
    def story(self) -> tuple[str | None, tuple[ToldLine, ...]]:
        """Return the run and its log: the same for all who watched to the end."""
        return self.run_id, tuple(self.lines.values())

    def waiting(self, message: str) -> None:
        """Take down why the build has not begun."""
        self._called("waiting")
        if not _is_text(message):
            self._fault(f"waiting: the message is {message!r}, expected a string")
        elif self.run_id is None:
            self.queue.append(message)

    def started(self, run_id: str) -> None:
        """Take down the run."""
        self._called("started")
        if not _is_text(run_id) or not _RUN_ID.fullmatch(run_id):
            self._fault(f"started: a run id is 1 to 64 of A-Z a-z 0-9 _ -, not {run_id!r}")
        elif self.run_id is None:
            self.run_id = run_id
        elif run_id != self.run_id:
            self._fault(f"started: run {run_id} after run {self.run_id}: a report is of one run")
        self._wake()

    def line(
        self,
        n: int,
        message: str,
        *,
        phase: Phase | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take down a line."""
        self._called("line")
        told = ToldLine(n, message, phase, progress)
        if self.run_id is None:
            self._fault(f"line {n!r}: before `started`")
        if type(n) is not int or n < 1:
            self._fault(f"line: the number is {n!r}, expected a whole one from 1")
        elif n in self.lines:
            if self.lines[n] != told:
                self._fault(f"line {n}: first {self.lines[n]}, then {told}")
        elif self.lines and n < max(self.lines):
            self._fault(f"line {n}: for the first time after line {max(self.lines)}")
        else:
            self.lines[n] = told
        if not _is_text(message):
            self._fault(f"line {n!r}: the message is {message!r}, expected a string")
        if phase is not None and phase not in LOG:
            legal = ", ".join(sorted(LOG))
            self._fault(f"line {n!r}: the phase is {phase!r}, expected None or one of {legal}")
        if progress is not None and not _is_progress(progress):
            self._fault(f"line {n!r}: progress is {progress!r}, expected bytes or words by layer")
        self._wake()

    def close(self) -> None:
        """Note all that is told from now on: the call is over."""
        self._closed = True

    async def until(self, *, lines: int = 0) -> None:
        """Return when the run has started and so many lines are there."""
        while self.run_id is None or len(self.lines) < lines:
            waiter = anyio.Event()
            self._waiters.add(waiter)
            try:
                await waiter.wait()
            finally:
                self._waiters.discard(waiter)
        await checkpoint()

    def _called(self, method: str) -> None:
        if threading.get_ident() != self._thread:
            self._fault(f"{method}: called from another thread than the event loop's")
        if self._closed:
            self._fault(f"{method}: told after `build` had ended")

    def _fault(self, text: str) -> None:
        self.faults.append(text)

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.set()


class LaunchLog:
    """A `binder_core.plugin.LaunchReport` that keeps everything and notes each fault."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.faults: list[str] = []
        self._closed = False

    def line(self, message: str) -> None:
        """Take down a message."""
        if self._closed:
            self.faults.append("line: told after `launch` had ended")
        if _is_text(message):
            self.messages.append(message)
        else:
            self.faults.append(f"line: the message is {message!r}, expected a string")

    def close(self) -> None:
        """Note all that is told from now on: the call is over."""
        self._closed = True


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_progress(progress: object) -> bool:
    return isinstance(progress, Mapping) and all(
        isinstance(layer, str)
        and (
            isinstance(state, str)
            or (isinstance(state, LayerProgress) and 0 <= state.current <= state.total)
        )
        for layer, state in progress.items()
    )
