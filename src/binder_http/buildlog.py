"""The log of a build as plain text, compressed while it comes in."""

from __future__ import annotations

import zlib


class LogText:
    r"""A text that grows by messages of events.

    A message that ends in ``\r`` is overwritten by the next one, as on a terminal.
    """

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(6)
        self._done = bytearray()
        self._overwritten = ""

    def add(self, message: str) -> None:
        """Add what an event says."""
        if message.endswith("\r"):
            self._overwritten = message[:-1] + "\n"
            return
        self._overwritten = ""
        self._done += self._compressor.compress(message.encode())

    def end(self) -> bytes:
        """Return all of it, compressed by zlib; nothing can be added any more."""
        self._done += self._compressor.compress(self._overwritten.encode())
        self._done += self._compressor.flush()
        return bytes(self._done)


def plain(data: bytes) -> bytes:
    """Return the text, as UTF-8."""
    return zlib.decompress(data)
