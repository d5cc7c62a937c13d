"""Events as text for people: no control characters, one line each, bytes added up. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from binder_core.events import LayerProgress, Progress, Ready

_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]"
)
_DONE: Final = frozenset({"Pushed", "Layer already exists"})


def clean(text: str) -> str:
    """Return `text` without what a terminal takes for an order: a log may hold anything."""
    text = _ESCAPES.sub("", text).expandtabs()
    return "".join(char for char in text if char.isprintable())


def lines(message: str) -> tuple[list[str], str]:
    r"""Return the finished lines of a message, and the one that the next message overwrites.

    Empty lines are left out; of what ``\r`` overwrites within a line the last is kept.
    """
    *done, rest = message.replace("\r\n", "\n").split("\n")
    return [line for line in map(_last, done) if line], _last(rest)


def _last(line: str) -> str:
    return next((text for part in reversed(line.split("\r")) if (text := clean(part).rstrip())), "")


def short_time(seconds: float) -> str:
    """Return a duration: ``4.2 s``, ``3 min 20 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: int) -> str:
    """Return a number of bytes: ``14.1 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


class Pushed:
    """What was pushed so far, over all layers."""

    def __init__(self) -> None:
        self._layers: dict[str, LayerProgress] = {}
        self._done: set[str] = set()

    def take(self, progress: Progress) -> None:
        """Take the newest word about some layers."""
        for name, layer in progress.items():
            if isinstance(layer, LayerProgress):
                # Docker counts headers as well: a layer may end with more than its total.
                total = max(layer.total, layer.current, 0)
                self._layers[name] = LayerProgress(current=max(layer.current, 0), total=total)
                continue
            self._layers.setdefault(name, LayerProgress(current=0, total=0))
            if layer in _DONE:
                total = self._layers[name].total
                self._layers[name] = LayerProgress(current=total, total=total)
                self._done.add(name)

    @property
    def current(self) -> int:
        """Return the bytes that were pushed."""
        return sum(layer.current for layer in self._layers.values())

    @property
    def total(self) -> int:
        """Return the bytes that there are, as far as is known."""
        return sum(layer.total for layer in self._layers.values())

    def __str__(self) -> str:
        """Return both in words."""
        layers = f"{len(self._done)} of {len(self._layers)} layers done"
        return f"{size(self.current)} of {size(self.total)} pushed, {layers}"


def address(ready: Ready, path: str = "") -> str:
    """Return the URL that opens a notebook server in a browser; empty where there is none.

    Args:
        ready: The last event.
        path: A file or folder in the repository to show.
    """
    if not isinstance(ready.url, str) or not ready.url:
        return ""
    url = urlsplit(ready.url)
    where = url.path if url.path.endswith("/") else f"{url.path}/"
    if path:
        where += f"lab/tree/{quote(path.strip('/'))}"
    token = ready.token if isinstance(ready.token, str) else ""
    query = "&".join(part for part in (url.query, token and f"token={quote(token)}") if part)
    return urlunsplit((url.scheme, url.netloc, where, query, ""))
