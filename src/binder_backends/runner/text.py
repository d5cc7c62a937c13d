"""Bytes to lines, and lines made fit to be told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

MAX_LINE_BYTES: Final = 16 * 1024
"""What is read of one line. Escaped as JSON it still fits into `binder_core.runlog`'s limit."""

_CUT: Final = " … (line cut)".encode()


class Splitter:
    r"""Makes lines of bytes, in whatever pieces these come.

    A line ends in ``\n``, ``\r\n`` or ``\r``; after the last the next one overwrites it. A line
    that does not end costs no more than `max_bytes`.
    """

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_bytes
        self._rest = b""
        self._skipping = False
        self._overwrites = False

    @property
    def unfinished(self) -> tuple[bytes, bool]:
        """Return what has come of a line that has no end yet, and whether it overwrites another."""
        return self._rest.removesuffix(b"\r"), self._overwrites

    @property
    def idle(self) -> bool:
        """Return whether what comes next begins a line like any other."""
        return not (self._rest or self._skipping or self._overwrites)

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """Return the lines that `data` completes, each with whether the next overwrites it."""
        data = self._rest + data
        self._rest = b""
        held = b""
        if data.endswith(b"\r"):
            # Half of "\r\n", or not: the next piece will tell.
            data, held = data[:-1], b"\r"
        if b"\r" in data:
            parts = re.split(rb"(\r\n|\n|\r)", data)
            ends = [end == b"\r" for end in parts[1::2]]
            lines = list(zip(parts[:-1:2], ends, strict=True))
            rest = parts[-1]
        else:
            *plain, rest = data.split(b"\n")
            lines = [(line, False) for line in plain]
        if lines:
            self._overwrites = lines[-1][1]
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        lines = [(self._cut(line), bar) for line, bar in lines if line or not bar]
        if self._skipping:
            rest = b""
        elif len(rest) > self._max:
            lines.append((self._cut(rest), False))
            self._skipping = True
            rest = b""
        self._rest = rest + held
        return lines

    def end(self) -> list[tuple[bytes, bool]]:
        """Return what came last without an end of line."""
        rest, self._rest = self._rest, b""
        skipping, self._skipping = self._skipping, False
        self._overwrites = bar = rest.endswith(b"\r")
        rest = rest.removesuffix(b"\r")
        return [(self._cut(rest), bar)] if rest and not skipping else []

    def _cut(self, line: bytes) -> bytes:
        return cut(line, self._max)


def cut(line: bytes, max_bytes: int = MAX_LINE_BYTES) -> bytes:
    """Return a line, or its beginning with a word that there was more."""
    return line if len(line) <= max_bytes else line[:max_bytes] + _CUT


# What stands between "://" and "@", up to the last "@" before the path. The engine tries only
# behind a "://" and stops at the next "/": linear, whatever the line.
_USERINFO: Final = re.compile(r"(?<=://)[^\s/?#'\"<>|\\]*@")
_MASK: Final = "***"
_SHORTEST_SECRET: Final = 4

# Control characters that a log viewer has no use for. Escape stays: colours are text to a terminal.
_CONTROL: Final = dict.fromkeys([*range(9), *range(0x0B, 0x1B), *range(0x1C, 0x20), 0x7F])


class Redactor:
    """Strips credentials from text.

    Args:
        secrets: Strings that must never be told; shorter ones than four characters are not looked
            for, they would be found everywhere.
        folder: A path of the server's, of which only what is below it is told.
    """

    def __init__(self, secrets: Iterable[str] = (), *, folder: str = "") -> None:
        known = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        # As a part of a URL, and of JSON.
        escaped = [(quote(secret, safe=""), json.dumps(secret)[1:-1]) for secret in known]
        known.update(*escaped)
        # The longest first: one may be part of another.
        self._secrets = sorted(known, key=len, reverse=True)
        self._folder = folder

    def __call__(self, text: str) -> str:
        """Return `text` without credentials in URLs, and without the secrets."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, _MASK)
        if self._folder and self._folder in text:
            text = text.replace(self._folder, "…")
        return strip_userinfo(text) if "://" in text else text


def strip_userinfo(text: str) -> str:
    """Return `text` with the user and password of each URL in it masked (``git@`` is no secret)."""
    return _USERINFO.sub(lambda found: found[0] if found[0] == "git@" else f"{_MASK}@", text)


def readable(line: bytes) -> str:
    """Return a line of output as text: bytes that are no UTF-8 are replaced, controls dropped."""
    text = line.decode("utf-8", "replace")
    return text if text.isprintable() else text.translate(_CONTROL)
