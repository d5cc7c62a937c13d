"""What can go wrong, each with the HTTP status that says it best.

Every error of ours is a `BinderError`. Its message is meant for the person who asked: it says what
was given, what was expected and what to try, and names no internals. ``status`` is a hint that
spares the HTTP layer a mapping table.

A fault of a network, an engine or a server is never a `BuildFailed`: that one means that the build
itself ran and came to a bad end.
"""

from __future__ import annotations

from typing import ClassVar


class BinderError(Exception):
    """Something went wrong, told in words for the person who asked.

    Args:
        message: What was given, what was expected, what to try.
        status: The HTTP status, where this one error differs from its class.
    """

    status_hint: ClassVar[int] = 500

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = self.status_hint if status is None else status


class SpecError(BinderError):
    """A spec that cannot be parsed.

    Args:
        message: What was expected, and what to try.
        text: The spec as it was given.
        span: Where in ``text`` the trouble is, as start and end offsets.
    """

    status_hint = 400

    _SHOWN = 72

    def __init__(self, message: str, *, text: str, span: tuple[int, int]) -> None:
        super().__init__(message)
        self.text = text
        self.span = span

    def __str__(self) -> str:
        """Return the message, and below it the text with the trouble underlined."""
        start, end = self.span
        # A window around the span, so that 10 kB of text make a message of a few lines.
        left = max(0, min(start, len(self.text)) - self._SHOWN // 2)
        shown = self.text[left : left + self._SHOWN]
        before, after = "…" if left else "", "…" if left + self._SHOWN < len(self.text) else ""
        # repr's escapes for what would break the line or the terminal; a character stays one.
        shown = "".join(char if char.isprintable() else "�" for char in shown)
        marks = "~" * max(0, min(end, left + self._SHOWN) - start - 1) + "^"
        indent = " " * (4 + len(before) + start - left)
        return f"{self.message}\n    {before}{shown}{after}\n{indent}{marks}"


class UnknownProvider(BinderError):
    """A provider prefix that is not enabled here."""

    status_hint = 404


class RefNotFound(BinderError):
    """The service knows no such repository or no such ref."""

    status_hint = 404


class ProviderUnavailable(BinderError):
    """The service did not answer, or said to come back later.

    Args:
        message: Which service, and what it answered.
        retry_after: Seconds until it is worth another try, where the service said so.
    """

    status_hint = 503

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(BinderError):
    """The operator does not allow this request."""

    status_hint = 403


class NoSuchBuild(BinderError):
    """No build of that name is under way, nor was a while ago."""

    status_hint = 404


class ShuttingDown(BinderError):
    """This server takes no new builds any more; another one will."""

    status_hint = 503


class BuildFailed(BinderError):
    """The build came to an end, and there is no image."""


class LaunchFailed(BinderError):
    """The image exists, but no server could be started from it."""


class BackendUnavailable(BinderError):
    """A plug-in, the engine below it or a library it needs is not there."""

    status_hint = 503


class RegistryUnavailable(BackendUnavailable):
    """The image registry refused us or did not answer: whether an image exists is unknown."""


class ConfigError(BinderError):
    """A setting that is unknown or has the wrong type; the message names the setting."""


class IllegalTransition(BinderError):
    """A fact that the machine's table does not allow in this state: a fault of ours.

    Args:
        state: The state the build was in.
        fact: What was reported.
        recent: The facts before it, oldest first.
    """

    def __init__(self, *, state: object, fact: object, recent: tuple[object, ...] = ()) -> None:
        told = "".join(f"\n  {earlier!r}" for earlier in recent)
        super().__init__(f"{fact!r} is not possible in {state}; before it:{told or ' nothing'}")
        self.state = state
        self.fact = fact
        self.recent = recent
