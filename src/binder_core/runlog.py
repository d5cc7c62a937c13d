"""The log of a build: numbered JSON lines, written by the runner and read by every backend.

Each line of the log is one event, so every server that reads it tells the same story with the same
numbers::

    {"n": 17, "phase": "building", "message": "Collecting numpy\\n"}
    {"n": 18, "outcome": "failed", "message": "postBuild ended with exit status 3"}

A log that ends without an outcome was cut off, not finished. Anything else is a line too: JSON
without a number (a stock repo2docker), JSON that is no object, text, or bytes that are no text;
these are counted.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import msgspec

from binder_core.events import LayerProgress, Progress
from binder_core.ordering import LOG, Phase


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One line of the log."""

    n: int
    """Its number, from 1, rising."""
    message: str
    phase: Phase | None = None
    """What the line says of itself; None keeps the phase of the line before."""
    progress: Progress | None = None
    """Bytes by layer, while pushing."""


class Outcome(msgspec.Struct, frozen=True):
    """The last line: how the build ended."""

    n: int
    built: bool
    message: str = ""
    """Why it failed."""


Entry: TypeAlias = Line | Outcome

MAX_LINE_BYTES = 256 * 1024
"""A longer line is cut: no reader has to hold more."""


class _Wire(msgspec.Struct, omit_defaults=True):
    n: int | None = None
    phase: str | None = None
    message: str | None = None
    progress: Any = None
    outcome: Literal["built", "failed"] | None = None


_decoder = msgspec.json.Decoder(_Wire)
_line_decoder = msgspec.json.Decoder(Line)
_encoder = msgspec.json.Encoder()
_SAID = LOG | {None}
_PHASES = {phase.value: phase for phase in LOG}


def encode(entry: Entry) -> bytes:
    """Return `entry` as a line of the log, its newline included."""
    match entry:
        case Line(n, message, phase, progress):
            wire = _Wire(n=n, phase=phase and phase.value, message=message, progress=progress)
        case Outcome(n, built, message):
            wire = _Wire(n=n, outcome="built" if built else "failed", message=message)
    return _encoder.encode(wire) + b"\n"


class LogReader:
    """Makes entries of a log's bytes, in whatever pieces these come.

    Feed it from the log's first byte: lines without a number are counted from there.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._n = 0

    def feed(self, data: bytes) -> list[Entry]:
        """Return the entries that `data` completes."""
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end : end + MAX_LINE_BYTES]
        if not end:
            return []
        whole = data[:end]
        return self._read_lines(whole) or [
            self._read(line[:MAX_LINE_BYTES]) for line in whole.split(b"\n") if line
        ]

    def end(self) -> list[Entry]:
        """Return what a last line without a newline says: the log is complete."""
        rest, self._rest = self._rest, b""
        return [self._read(rest)] if rest else []

    def _read_lines(self, whole: bytes) -> list[Entry] | None:
        """Return lines as the runner writes them, as almost always, or None."""
        if len(whole) > MAX_LINE_BYTES:
            return None
        try:
            lines = _line_decoder.decode_lines(whole)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        for line in lines:
            if line.phase not in _SAID:
                return None
            self._n = line.n
        return cast("list[Entry]", lines)

    def _read(self, line: bytes) -> Entry:
        try:
            # As almost always: a line as the runner writes it. Anything more or less is no `Line`.
            entry = _line_decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._read_other(line)
        if entry.phase is not None and entry.phase not in LOG:
            return self._read_other(line)
        self._n = entry.n
        return entry

    def _read_other(self, line: bytes) -> Entry:
        try:
            wire = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Any bytes are a log line: `12345` and a traceback as well as half an object.
            self._n += 1
            return Line(self._n, line.decode("utf-8", "replace") + "\n")
        self._n = self._n + 1 if wire.n is None else wire.n
        if wire.outcome is not None:
            return Outcome(self._n, wire.outcome == "built", wire.message or "")
        if wire.message is None:
            return Line(self._n, line.decode("utf-8", "replace") + "\n")
        phase = _PHASES.get(wire.phase) if wire.phase else None
        return Line(self._n, wire.message, phase, _progress(wire.progress))


def _progress(said: Any) -> Progress | None:
    """Return what fits into an event of what a repo2docker tells, in the engine's own words."""
    if not isinstance(said, dict):
        return None
    states = ((str(layer), _state(state)) for layer, state in said.items())
    return {layer: state for layer, state in states if state is not None} or None


def _state(said: Any) -> LayerProgress | str | None:
    match said:
        case {"current": int(current), "total": int(total)}:
            # It compares what is sent with the size before packing: that can be more.
            return LayerProgress(min(current, total), total)
        case {"current": int(current)}:
            return LayerProgress(current, current)  # the size is not known yet
        case "Pushed":
            return "Pushed"
        case str() if said.startswith(("Layer already exists", "Mounted from")):
            return "Layer already exists"
        case _:
            return None  # "Preparing", "Waiting"
