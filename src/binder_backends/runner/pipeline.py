"""What a build prints goes in, what its log says comes out. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from typing import Final

from binder_backends.runner.cap import Cap
from binder_backends.runner.pacing import Pacer
from binder_backends.runner.sorting import Sorter, Told
from binder_backends.runner.text import Splitter
from binder_core.plugin import Line, Outcome, Phase, encode_log

PACE: Final = 0.3
"""Seconds between two states of a progress bar or of a push, and for the end of a line to come."""

_LOOK: Final = 0.25
_LOOK_BYTES: Final = 32 * 1024
_LATE_BYTES: Final = 256 * 1024
_TAIL_LINES: Final = 12


class _Source:
    """One pipe of the program that runs."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.splitter = Splitter(max_bytes)
        self.late = bytearray()
        self._torn = False

    def put_off(self, data: bytes) -> int:
        """Keep `data` for later, and no more than the newest; return how many lines that lost."""
        self.late += data
        return self._shorten(_LATE_BYTES) if len(self.late) > 2 * _LATE_BYTES else 0

    def take_late(self, limit: int) -> tuple[bytes, int]:
        """Return the newest of what was kept, from the beginning of a line on, and what is lost."""
        lost = self._shorten(limit)
        data, self.late = bytes(self.late), bytearray()
        if self._torn:
            self._torn = False
            self.splitter = Splitter(self._max_bytes)
            begin = data.find(b"\n") + 1
            lost += begin > 0  # the line that was torn
            data = data[begin:]
        return data, lost

    def _shorten(self, limit: int) -> int:
        surplus = len(self.late) - limit
        if surplus <= 0:
            return 0
        self._torn = True
        lost = self.late.count(b"\n", 0, surplus)
        del self.late[:surplus]
        return lost


class Pipeline:
    """Makes numbered lines of a log from a build's output.

    Args:
        cap_bytes: How large the log may get, roughly.
    """

    def __init__(self, *, cap_bytes: int) -> None:
        self._cap = Cap(cap_bytes)
        self._pacer = Pacer(PACE)
        self._sources: dict[int, _Source] = {}
        self._sorter: Sorter | None = None
        self._n = 0
        self._out: list[bytes] = []
        self._look_at = 0.0
        self._looked = 0
        self._late_at = 0.0
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def begin(self, sorter: Sorter) -> None:
        """A program starts whose lines `sorter` understands."""
        self._sorter = sorter
        self._sources = {}
        self._tail.clear()

    def feed(self, source: int, data: bytes, now: float) -> None:
        """Take what the program printed on one of its pipes."""
        assert self._sorter is not None  # noqa: S101 - `begin` came first
        pipe = self._sources.setdefault(source, _Source(self._sorter.max_bytes))
        for at in range(0, len(data), _LOOK_BYTES):
            part = data[at : at + _LOOK_BYTES]
            if now >= self._look_at:
                self._catch_up(now, _LOOK_BYTES)
            # Reading a line costs microseconds, and a build can print hundreds of millions. Where
            # more comes than is told anyway, only the newest is read, a few times a second.
            if pipe.late or (self._looked >= _LOOK_BYTES and self._cap.pours(now)):
                self._leave_out(pipe.put_off(part))
            else:
                self._looked += len(part)
                self._read(pipe.splitter.feed(part), now)

    def say(self, phase: Phase, message: str, now: float) -> None:
        """Tell a line of the runner's own."""
        self._cap_all(self._pacer.take(Told(phase, message + "\n"), now), now)

    def tick(self, now: float) -> None:
        """Let out what is due."""
        if now >= self._look_at:
            self._catch_up(now, _LOOK_BYTES)
        if self._sorter is not None and self._sorter.unfinished and now >= self._late_at:
            self._pass(self._sorter.late(), now)
        self._cap_all(self._pacer.due(now), now)
        self._write(self._cap.due(now))

    def finish(self, now: float) -> list[str]:
        """The program has ended: take what it said last; return its last lines."""
        self._catch_up(now, _LATE_BYTES)
        for pipe in self._sources.values():
            self._read(pipe.splitter.end(), now)
        self._sources = {}
        if self._sorter is not None:
            self._pass(self._sorter.end(), now)
        self._cap_all(self._pacer.flush(now), now)
        return list(self._tail)

    def outcome(self, *, built: bool, message: str, now: float) -> None:
        """The build has ended."""
        self._cap_all(self._pacer.flush(now), now)
        self._write(self._cap.flush())
        self._n += 1
        self._out.append(encode_log(Outcome(self._n, built, message)))

    def deadline(self) -> float | None:
        """Return when `tick` has something to do, None if nothing waits."""
        waits = [self._pacer.deadline(), self._cap.deadline()]
        if any(pipe.late for pipe in self._sources.values()):
            waits.append(self._look_at)
        if self._sorter is not None and self._sorter.unfinished:
            waits.append(self._late_at)
        return min((wait for wait in waits if wait is not None), default=None)

    def take(self) -> bytes:
        """Return what is to be written to the log."""
        out, self._out = self._out, []
        return b"".join(out)

    def _leave_out(self, lines: int) -> None:
        if lines:
            self._cap.leave_out(lines)

    def _catch_up(self, now: float, limit: int) -> None:
        self._look_at = now + _LOOK
        self._looked = 0
        for pipe in self._sources.values():
            if pipe.late:
                data, lost = pipe.take_late(limit)
                self._leave_out(lost)
                self._looked += len(data)
                self._read(pipe.splitter.feed(data), now)

    def _read(self, lines: list[tuple[bytes, bool]], now: float) -> None:
        assert self._sorter is not None  # noqa: S101 - `begin` came first
        for line, overwritten in lines:
            waited = self._sorter.unfinished
            told = self._sorter(line, overwritten)
            if told or not waited:
                self._late_at = now + PACE
            self._pass(told, now)

    def _pass(self, lines: list[Told], now: float) -> None:
        for told in lines:
            if not told.fleeting and (text := told.message.rstrip()):
                self._tail.append(text)
            self._cap_all(self._pacer.take(told, now), now)

    def _cap_all(self, lines: list[Told], now: float) -> None:
        for told in lines:
            self._write(self._cap.take(told, now))

    def _write(self, lines: list[Told]) -> None:
        for told in lines:
            self._n += 1
            self._out.append(encode_log(Line(self._n, told.message, told.phase, told.progress)))
