"""Which phase a line of output belongs to, and what it says of a push."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

import msgspec

from binder_backends.runner.push import PushOutput
from binder_backends.runner.text import MAX_LINE_BYTES, Redactor, Splitter, cut, readable
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


class Sorter(Protocol):
    """Knows what the lines of a program mean. One for each start of a program."""

    max_bytes: int
    """How much is read of one line."""

    def __call__(self, line: bytes, overwritten: bool) -> list[Told]:  # noqa: FBT001 - as lines come
        """Return what is told of a line, and whether the next overwrites it."""

    @property
    def unfinished(self) -> bool:
        """Return whether there is a part of a line that `late` would tell."""

    def late(self) -> list[Told]:
        """Return what came of a line whose end does not come."""

    def end(self) -> list[Told]:
        """Return what came last without an end of line."""


class PlainLines:
    """The sorter of a program that knows nothing of phases.

    Args:
        phase: What all it prints belongs to.
        redact: Strips credentials.
    """

    max_bytes = MAX_LINE_BYTES
    unfinished = False

    def __init__(self, phase: Phase, redact: Redactor) -> None:
        self._phase = phase
        self._redact = redact

    def __call__(self, line: bytes, overwritten: bool) -> list[Told]:  # noqa: FBT001 - see Sorter
        """Return the line as it is."""
        return [_told(self._phase, self._redact(readable(line)), overwritten=overwritten)]

    def late(self) -> list[Told]:
        """Return nothing: its lines come whole."""
        return []

    end = late


class _R2dLine(msgspec.Struct):
    message: str
    phase: Any = None
    progress: Any = None


_SHORT: Final = MAX_LINE_BYTES // 4  # of characters
_R2D: Final = msgspec.json.Decoder(_R2dLine)
_PHASES: Final = {phase.value: phase for phase in (Phase.FETCHING, Phase.BUILDING, Phase.PUSHING)}
_RANK: Final = {phase: rank for rank, phase in enumerate(_PHASES.values())}


class Repo2dockerLines:
    r"""The sorter of ``repo2docker --json-logs``: one JSON object a line, and whatever else.

    What the steps of an image print comes in pieces as the engine got them: half a line, several
    lines, a bar's ``\r`` before its text. They are put together here.
    """

    max_bytes = 256 * 1024  # of JSON; its message is cut when it is read

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._phase = Phase.FETCHING
        self._push = PushOutput()
        self._pieces = Splitter()
        self._shown = b""
        self._open = False

    def __call__(self, line: bytes, overwritten: bool) -> list[Told]:  # noqa: FBT001 - see Sorter
        """Return what is told of a line."""
        try:
            said = _R2D.decode(line) if line.startswith(b"{") else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = None
        if said is None:
            # Warnings, tracebacks, JSON that is no object: any bytes are a log line.
            before, self._open = self.end(), False
            text = self._redact(readable(cut(line)))
            return [*before, _told(self._phase, text, overwritten=overwritten)]
        phase = _PHASES.get(said.phase) if isinstance(said.phase, str) else None
        in_pieces = phase is Phase.BUILDING and not _is_dump(said.message)
        before = [] if in_pieces and self._phase is Phase.BUILDING else self.end()
        # Rank never falls.
        self._phase = max(self._phase, phase or self._phase, key=_RANK.__getitem__)
        if isinstance(said.progress, dict):
            self._push.engine_progress(said.progress)
        # "Step 1/12 …" and its line end come as two: one line.
        text = said.message.removeprefix("\n") if self._open else said.message
        self._open = False
        lines = self._split(text, whole=not in_pieces)
        if not lines and isinstance(said.progress, dict):
            lines = [("", False)]
        pushed = phase is Phase.PUSHING and text.startswith("Successfully pushed")
        if pushed:
            self._push.all_pushed()
        return before + [
            self._line(piece, bar=bar, pushed=pushed, progress=isinstance(said.progress, dict))
            for piece, bar in lines
        ]

    def _split(self, text: str, *, whole: bool) -> list[tuple[str, bool]]:
        # As almost always: a line, and nothing before it.
        short = len(text) < _SHORT and text[-1:] == "\n"
        if short and text[:-1].isprintable() and self._pieces.idle:
            return [(text[:-1], False)]
        lines = self._pieces.feed(text.encode("utf-8", "replace"))
        if whole or text.endswith("\r"):
            lines += self._pieces.end()
            self._open = bool(text) and not text.endswith(("\n", "\r"))
        told = [(readable(line), bar) for line, bar in lines if not (bar and line == self._shown)]
        if told:
            self._shown = b""
        return told

    @property
    def unfinished(self) -> bool:
        """Return whether there is a part of a line that `late` would tell."""
        text, _ = self._pieces.unfinished
        return bool(text) and text != self._shown

    def late(self) -> list[Told]:
        """Return what came of a line whose end does not come."""
        text, overwrites = self._pieces.unfinished
        if not overwrites:
            return self.end()
        # The state of a bar that writes its "\r" first. It becomes a line if the build goes on.
        self._shown = text
        return [self._line(readable(text), bar=True)] if text else []

    def end(self) -> list[Told]:
        """Return what came last without an end of line."""
        lines = self._pieces.end()
        self._open = self._open or bool(lines)
        self._shown = b""
        return [self._line(readable(line), bar=bar) for line, bar in lines]

    def _line(self, text: str, *, bar: bool, pushed: bool = False, progress: bool = False) -> Told:
        message = self._redact(text)
        if progress:
            # Without news it may be left out as well: what is known is told each time.
            return self._pushing(message, news=True)
        if pushed:
            return replace(self._pushing(message, news=True), fleeting="")
        news = self._push.buildx_line(message)
        if news is not None:
            return self._pushing(message, news=news)
        return _told(self._phase, message, overwritten=bar)

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


def _is_dump(message: str) -> bool:
    """Return whether it is a word of the engine's that repo2docker knows nothing of, as JSON."""
    return message.startswith("{") and message.endswith("}")
