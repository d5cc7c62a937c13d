"""Which phase a line of output belongs to, and what it says of a push."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import msgspec

from binder_backends.runner.push import PushOutput
from binder_backends.runner.text import MAX_LINE_BYTES, Redactor, readable
from binder_core.plugin import Phase, Progress


@dataclass(frozen=True, slots=True)
class Told:
    r"""A line as it is told, before it has a number."""

    phase: Phase
    message: str
    r"""Ends in ``\n``, or in ``\r`` if the next one overwrites it."""
    progress: Progress | None = None
    fleeting: Literal["", "bar", "progress"] = ""
    """Whether it may be left out where another of its kind follows soon."""


Sorter: TypeAlias = Callable[[bytes, bool], Told | None]
"""Makes of a line, and whether the next overwrites it, what is told; None if nothing is."""


def plain(phase: Phase, redact: Redactor) -> Sorter:
    """Return the sorter of a program that knows nothing of phases."""

    def sort(line: bytes, overwritten: bool) -> Told:  # noqa: FBT001 - see Sorter
        return _told(phase, redact(readable(line)), overwritten=overwritten)

    return sort


class _R2dLine(msgspec.Struct):
    message: str
    phase: Any = None
    progress: Any = None


_R2D: Final = msgspec.json.Decoder(_R2dLine)
_PHASES: Final = {phase.value: phase for phase in (Phase.FETCHING, Phase.BUILDING, Phase.PUSHING)}
_RANK: Final = {phase: rank for rank, phase in enumerate(_PHASES.values())}


class Repo2dockerLines:
    """The sorter of ``repo2docker --json-logs``: one JSON object a line, and whatever else."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._phase = Phase.FETCHING
        self._push = PushOutput()
        self._open = False

    def __call__(self, line: bytes, overwritten: bool) -> Told | None:  # noqa: FBT001 - see Sorter
        """Return what is told of a line."""
        try:
            said = _R2D.decode(line) if line.startswith(b"{") else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = None
        if said is None:
            # Warnings, tracebacks, JSON that is no object: any bytes are a log line.
            self._open = False
            return _told(self._phase, self._redact(readable(line)), overwritten=overwritten)
        if said.message == "\n" and self._open:
            # "Step 1/12 …" and its line end come as two: one line.
            self._open = False
            return None
        self._open = not said.message.endswith(("\n", "\r"))
        cut = said.message.encode("utf-8", "replace")[:MAX_LINE_BYTES]
        message = self._redact(readable(cut)).rstrip("\n")
        phase = _PHASES.get(said.phase) if isinstance(said.phase, str) else None
        # Rank never falls.
        self._phase = max(self._phase, phase or self._phase, key=_RANK.__getitem__)
        if isinstance(said.progress, dict):
            self._push.engine_progress(said.progress)
            # Without news it may be left out as well: what is known is told each time.
            return self._pushing(message, news=True)
        news = self._push.buildx_line(message)
        if news is not None:
            return self._pushing(message, news=news)
        if phase is Phase.PUSHING and message.startswith("Successfully pushed"):
            self._push.all_pushed()
            return replace(self._pushing(message, news=True), fleeting="")
        return _told(self._phase, message, overwritten=said.message.endswith("\r"))

    def _pushing(self, message: str, *, news: bool) -> Told:
        self._phase = Phase.PUSHING
        told = _told(Phase.PUSHING, message, overwritten=False)
        if not news or self._push.progress is None:
            return told
        return replace(told, progress=self._push.progress, fleeting="progress")


def _told(phase: Phase, text: str, *, overwritten: bool) -> Told:
    if overwritten:
        return Told(phase, text + "\r", fleeting="bar")
    return Told(phase, text + "\n")
