"""What every provider's parser needs: pieces of a spec that know where they stand.

A spec arrives as it stood in the URL, escapes kept, so that a part may itself hold a ``/``. Nothing
that a parser lets through starts with ``-``, holds a control character or climbs out of a path:
what a person typed ends up in the arguments of git and repo2docker, and in the URLs of services
(CVE-2021-39159).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from binder_core.plugin import SpecError

MAX_SPEC: Final = 2048
"""The longest spec that is looked at."""

MAX_REF: Final = 255
"""The longest ref: a file name in git's own store."""

COMMIT: Final = re.compile(r"[0-9a-fA-F]{40}(?:[0-9a-fA-F]{24})?")
"""The whole name of a commit, in SHA-1 or SHA-256."""

HEADS: Final = frozenset({"master", "main"})
"""Branches that people name where they mean the default one, whatever its name is by now."""

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_NAME: Final = re.compile(r"[\w.-]+")
_NOT_IN_REF: Final = re.compile(r"[ ~^:?*\[\\]|\.\.|@\{|//")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a spec."""

    text: str
    """The whole spec."""
    start: int
    end: int

    def __str__(self) -> str:
        """Return the piece as it was typed."""
        return self.text[self.start : self.end]

    def error(self, message: str, at: tuple[int, int] | None = None) -> SpecError:
        """Return an error that points at this piece, or at `at` within it."""
        first, last = at or (0, self.end - self.start)
        return SpecError(message, text=self.text, span=(self.start + first, self.start + last))

    def split(self, maxsplit: int) -> list[Part]:
        """Return the pieces between slashes."""
        pieces, at = [], self.start
        for piece in str(self).split("/", maxsplit):
            pieces.append(Part(self.text, at, at + len(piece)))
            at += len(piece) + 1
        return pieces


def whole(text: str) -> Part:
    """Return a spec as one piece.

    Raises:
        SpecError: It is empty, too long, or holds something that cannot be printed.
    """
    part = Part(text, 0, len(text))
    if not text:
        raise part.error("The spec is empty.")
    if len(text) > MAX_SPEC:
        raise part.error(
            f"The spec has {len(text)} characters; more than {MAX_SPEC} are no name of anything.",
            (MAX_SPEC, len(text)),
        )
    _printable(part, text)
    return part


def unescaped(part: Part, what: str) -> str:
    """Return a piece with its URL escapes undone.

    Args:
        part: The piece.
        what: What it is, for the message: ``the ref``.

    Raises:
        SpecError: It is empty, starts with a dash, or an escape is wrong or hides what may not be.
    """
    raw = str(part)
    if bad := _BAD_ESCAPE.search(raw):
        raise part.error(
            "A % starts an escape of two hexadecimal digits; a % itself is written %25.",
            (bad.start(), min(bad.start() + 3, len(raw))),
        )
    try:
        value = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise part.error(f"The escapes in {what} are no UTF-8.") from None
    if not value:
        raise part.error(f"{what[0].upper()}{what[1:]} is empty.")
    _printable(part, value)
    if value.startswith("-"):
        raise part.error(f"{what[0].upper()}{what[1:]} may not start with a dash.", (0, 1))
    return value


def name(part: Part, what: str) -> str:
    """Return a piece that is one name: letters of any alphabet, digits, ``_``, ``-`` and ``.``.

    Raises:
        SpecError: It is something else.
    """
    value = unescaped(part, what)
    return checked_name(part, value, what)


def checked_name(part: Part, value: str, what: str) -> str:
    """Return `value`, which is or comes from `part`, if it is one name; see `name`."""
    if value in {"", ".", ".."} or value.startswith("-") or not _NAME.fullmatch(value):
        raise part.error(
            f"{what[0].upper()}{what[1:]} is made of letters, digits, '_', '-' and '.', "
            "and does not start with a dash."
        )
    return value


def ref(part: Part) -> str:
    """Return a piece that is a ref, by git's own rules (``git check-ref-format``).

    Raises:
        SpecError: git would not take it.
    """
    value = unescaped(part, "the ref")
    if len(value) > MAX_REF:
        raise part.error(f"The ref has more than {MAX_REF} characters.")
    if bad := _NOT_IN_REF.search(value):
        raise part.error(
            f"A ref (branch, tag or commit) holds no {bad[0]!r}.",
            _where(part, bad.span()),
        )
    if any(step.startswith((".", "-")) or step.endswith(".lock") for step in value.split("/")):
        raise part.error("No part of a ref starts with '.' or '-', or ends with '.lock'.")
    if value.startswith("/") or value.endswith(("/", ".")) or value == "@":
        raise part.error("A ref neither starts with '/' nor ends with '/' or '.'.")
    return value


def escape(value: str) -> str:
    """Return `value` as one piece of a URL's path: slashes are escaped as well."""
    return quote(value, safe="")


def _where(part: Part, span: tuple[int, int]) -> tuple[int, int] | None:
    # Offsets into the value are offsets into the text only where nothing was escaped.
    return None if "%" in str(part) else span


def _printable(part: Part, value: str) -> None:
    if value.isprintable():
        return
    at = next(index for index, char in enumerate(value) if not char.isprintable())
    raise part.error(
        f"Character U+{ord(value[at]):04X} cannot be printed and is part of no name.",
        _where(part, (at, at + 1)),
    )
