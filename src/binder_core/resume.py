"""Event ids: made, read, signed.

Whoever reconnects sends the id of the last event it saw (``Last-Event-ID``). An id says all that is
needed to go on, on any server, without a store:

- no id: the build has not begun; a reconnect is a newcomer.
- ``<run>.<n>``: line `n` of that run of the build. Any server finds the run by the build's name,
  reads its log and goes on behind `n`. ``<run>.<n>.built``: the line that says that it is built,
  where nothing is launched behind it.
- ``~<handle>``: a launch, from ``built`` on: who has seen that comes back to this launch, not to
  another one. The handle is signed with a key that all servers share, names the server that is
  being started, and the token of that server is derived from it: ``ready`` can be said again
  without a second launch.
- ``….end``, or a handle that says so: the last event. There is nothing to go on with.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

END: Final = "end"
"""The id of a last event that belongs to no run and no launch, e.g. of a spec that is none."""

_RUN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOG_ID: Final = re.compile(r"([A-Za-z0-9_-]{1,64})\.(\d{1,12})(\.end|\.built)?")
_MAX_ID: Final = 1024
_SIGNATURE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class LogCursor:
    """A line of a run's log."""

    run_id: str
    n: int
    last: bool = False
    """Whether the stream ended there."""
    built: bool = False
    """Whether that line said that the image is built."""


class LaunchCursor(msgspec.Struct, frozen=True, array_like=True):
    """An event of a launch."""

    name: str
    """The server's name, see `binder_core.plugin.LaunchRequest`."""
    ref: str
    """What the spec was resolved to when the launch began: the branch may have moved since."""
    time: int
    """When the launch began, seconds since the epoch."""
    n: int = 0
    """The events of the launch told so far."""
    last: bool = False


Cursor: TypeAlias = LogCursor | LaunchCursor


def check_run_id(run_id: str) -> str:
    """Return `run_id` if it can be part of an event id.

    Raises:
        ValueError: It cannot: a fault of the backend that made it.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"a run id is 1 to 64 of A-Z a-z 0-9 _ -, not {run_id!r}")
    return run_id


def log_id(run_id: str, n: int, *, last: bool = False, built: bool = False) -> str:
    """Return the id of line `n` of a run's log; see `LogCursor`."""
    return f"{run_id}.{n}{'.end' if last else '.built' if built else ''}"


def read_log_id(text: str) -> LogCursor | None:
    """Return what the id of an event of a build says; None if it is none."""
    if text == END:
        return LogCursor("", 0, last=True)
    if match := _LOG_ID.fullmatch(text):
        return LogCursor(match[1], int(match[2]), match[3] == ".end", match[3] == ".built")
    return None


class Signer:
    """Signs handles and derives tokens.

    Args:
        key: At least 16 random bytes, the same on all servers and after a restart.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError(f"the signing key has {len(key)} bytes, expected 16 or more")
        self._key = key

    def launch_id(self, cursor: LaunchCursor, request: str) -> str:
        """Return the id of an event of a launch.

        Args:
            cursor: Where the launch stands.
            request: ``<provider>/<spec>``: the id is good for this request only.
        """
        payload = _b64(msgspec.json.encode(cursor))
        return f"~{payload}.{_b64(self._sign(b'id', payload, request)[:_SIGNATURE_BYTES])}"

    def token(self, name: str, time: int) -> str:
        """Return the token of the server of a launch that began at `time`."""
        return _b64(self._sign(b"token", name, str(time)))

    def read(self, text: str, request: str, *, now: float, max_age: float) -> Cursor | None:
        """Return what an id says; None if it is none of ours, forged, or too old.

        Args:
            text: The ``Last-Event-ID``, as it came.
            request: ``<provider>/<spec>``.
            now: Seconds since the epoch.
            max_age: Seconds for which a handle is good.
        """
        if len(text) > _MAX_ID:
            return None
        if (cursor := read_log_id(text)) is not None:
            return cursor
        if not text.startswith("~") or not text.isascii():
            return None
        return self._read_handle(text, request, now=now, max_age=max_age)

    def _read_handle(
        self, text: str, request: str, *, now: float, max_age: float
    ) -> LaunchCursor | None:
        payload, _, signature = text[1:].partition(".")
        expected = _b64(self._sign(b"id", payload, request)[:_SIGNATURE_BYTES])
        if not hmac.compare_digest(signature, expected):
            return None
        try:
            cursor = msgspec.json.decode(_unb64(payload), type=LaunchCursor)
        except (msgspec.DecodeError, binascii.Error):
            return None
        return cursor if now - cursor.time <= max_age else None

    def _sign(self, purpose: bytes, *parts: str) -> bytes:
        message = b"\0".join((purpose, *(part.encode() for part in parts)))
        return hmac.digest(self._key, message, hashlib.sha256)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
