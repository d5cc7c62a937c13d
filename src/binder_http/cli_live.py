"""The live display of ``binder launch``: the log scrolls by, the last line stands still."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from binder_core.events import Event, Failed, Pushing, Ready
from binder_core.ordering import Phase
from binder_http.cli_text import Pushed, address, clean, lines, short_time

_TOGETHER: Final = 500
"""Lines printed in one go where they pour in: one by one each costs a millisecond."""

_BAR_WIDTH: Final = 30


class Live:
    """Phases as headings, log lines below them; at the bottom what is going on right now.

    Args:
        console: Where to.
        path: A file in the repository that the notebook's address shall lead to.
    """

    def __init__(self, console: Console, path: str = "") -> None:
        self._console = console
        self._path = path
        self._began = self._phase_began = time.monotonic()
        self._phase: Phase | None = None
        self._passing = ""
        self._pushed = Pushed()
        self._spinner = Spinner("line")
        self._over = False
        self._unprinted: list[tuple[str, str]] = []
        self._live = RichLive(
            console=console, get_renderable=self._bottom, auto_refresh=False, transient=True
        )

    def __enter__(self) -> Self:
        """Begin."""
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bottom line away; the log stays."""
        self._over = True
        self._flush()
        self._live.stop()

    def tick(self) -> None:
        """Print what has come, and bring the bottom line up to date."""
        self._flush()
        self._live.refresh()

    def tell(self, event: Event) -> None:
        """Show an event."""
        if event.phase != self._phase:
            self._heading(event.phase)
        told, self._passing = lines(event.message)
        if isinstance(event, Failed):
            self._print("\n".join(told), "bold red")
        elif told:
            self._print("\n".join(told), "green" if isinstance(event, Ready) else "")
        match event:
            case Pushing(progress=dict() as progress):
                self._pushed.take(progress)
            case Ready() | Failed():
                self._over = True
                word = "Ready" if isinstance(event, Ready) else "Failed"
                self._print(f"{word} after {short_time(time.monotonic() - self._began)}.", "bold")
            case _:
                pass
        if isinstance(event, Ready) and (url := clean(address(event, self._path))):
            self._print(f"\n    {url}\n", "bold cyan")

    def note(self, text: str) -> None:
        """Show a remark."""
        self._print(clean(text), "yellow")

    def _heading(self, phase: Phase) -> None:
        now = time.monotonic()
        if self._phase not in (None, Phase.BUILT):
            took = short_time(now - self._phase_began)
            told = (
                f", {self._pushed}" if self._phase is Phase.PUSHING and self._pushed.total else ""
            )
            self._print(f"{self._phase} took {took}{told}", "dim")
        if phase not in (Phase.READY, Phase.FAILED):
            self._print(str(phase), "bold")
        self._phase, self._phase_began = phase, now

    def _print(self, text: str, style: str) -> None:
        self._unprinted.append((f"{text}\n", style))
        if len(self._unprinted) >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._unprinted:
            text = Text.assemble(*self._unprinted, end="")
            self._unprinted.clear()
            # Not cropped and not wrapped: an address or a path can be copied whole.
            self._console.print(text, soft_wrap=True, end="")

    def _bottom(self) -> ConsoleRenderable:
        if self._over:
            return Text()
        now = time.monotonic()
        line = Table.grid(padding=(0, 1))
        cells: list[ConsoleRenderable] = [
            self._spinner,
            Text(str(self._phase or "asking"), "bold"),
        ]
        if self._phase is Phase.PUSHING and self._pushed.total:
            bar = ProgressBar(self._pushed.total, self._pushed.current, width=_BAR_WIDTH)
            cells += [bar, Text(str(self._pushed))]
        cells.append(Text(short_time(now - self._began), "dim"))
        line.add_row(*cells)
        if not self._passing:
            return line
        return Group(Text(self._passing, overflow="ellipsis", no_wrap=True), line)
