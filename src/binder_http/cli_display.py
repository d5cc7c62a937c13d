"""How ``binder launch`` shows progress: a live display, plain lines, or JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self, TextIO

import click

from binder_core.events import Event, Pushing, Ready, encode
from binder_core.ordering import Phase
from binder_http.cli_text import Pushed, address, clean, lines

_PUSH_EVERY: Final = 5.0
"""Seconds between two plain lines about a push."""

_WIDTH: Final = max(len(phase) for phase in Phase)


class Display(Protocol):
    """Shows how one launch goes. Entered before the first event, left after the last."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; the terminal is as it was."""

    def tell(self, event: Event) -> None:
        """Show an event."""

    def note(self, text: str) -> None:
        """Show a remark of ours."""

    def tick(self) -> None:
        """Be called several times a second, whatever happens or does not."""


def make_display(*, as_json: bool, path: str = "", out: TextIO | None = None) -> Display:
    """Return the display that fits where the output goes.

    Args:
        as_json: Events as JSON lines.
        path: A file in the repository that the notebook's address shall lead to.
        out: Where to; standard output if None.
    """
    out = sys.stdout if out is None else out
    if as_json:
        return JsonLines(out)
    if out.isatty():
        from rich.console import Console  # noqa: PLC0415 - costs 100 ms

        console = Console(file=out, highlight=False, markup=False, emoji=False)
        if not console.is_dumb_terminal:
            from binder_http.cli_live import Live  # noqa: PLC0415 - costs 100 ms

            return Live(console, path)
    return Plain(out, path)


class _Quiet:
    """The parts that a display without a live area does not need."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing."""

    def tick(self) -> None:
        """Do nothing."""


class JsonLines(_Quiet):
    """One event a line, as JSON; remarks go to standard error.

    Args:
        out: Where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def tell(self, event: Event) -> None:
        """Print an event."""
        print(encode(event).decode(), file=self._out, flush=True)

    def note(self, text: str) -> None:
        """Print a remark to standard error."""
        click.echo(clean(text), err=True)


class Plain(_Quiet):
    """One line each: elapsed time, phase, text. For files, pipes and plain terminals.

    Args:
        out: Where to.
        path: A file in the repository that the notebook's address shall lead to.
        now: A clock that never goes back.
    """

    def __init__(
        self, out: TextIO, path: str = "", now: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = out
        self._path = path
        self._now = now
        self._began = now()
        self._pushed = Pushed()
        self._push_told = -_PUSH_EVERY

    def tell(self, event: Event) -> None:
        """Print the lines of an event. What the next one overwrites is left out."""
        for line in lines(event.message)[0]:
            self._print(event.phase, line)
        match event:
            case Pushing(progress=dict() as progress):
                self._pushed.take(progress)
                if self._now() - self._push_told >= _PUSH_EVERY:
                    self._push_told = self._now()
                    self._print(event.phase, str(self._pushed))
            case Ready() if url := address(event, self._path):
                print(f"\n    {clean(url)}\n", file=self._out, flush=True)
            case _:
                pass

    def note(self, text: str) -> None:
        """Print a remark."""
        self._print("", clean(text))

    def _print(self, phase: str, text: str) -> None:
        elapsed = f"[{self._now() - self._began:7.1f} s]"
        print(f"{elapsed} {phase:{_WIDTH}} {text}".rstrip(), file=self._out, flush=True)
