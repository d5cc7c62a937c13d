"""Results as text for people, and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from binder_http.cli_text import clean


def as_json(result: Any) -> str:
    """Return a result as JSON, indented. Its strings hold no character that is an order."""
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
    # JSON itself escapes what is below U+0020; a terminal takes some beyond it for orders as well.
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def as_text(result: Any) -> str:
    """Return a result as text: a table for a list of objects, a line for each field of one."""
    match result:
        case None:
            return ""
        case dict():
            return _aligned((str(name), _cell(value)) for name, value in result.items())
        case list() if result and all(isinstance(each, dict) for each in result):
            return _table(result)
        case list():
            return "\n".join(_cell(each) for each in result) or "(none)"
        case _:
            return _cell(result)


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = tuple(str(name).upper() for name in names)
    return _aligned([head, *(tuple(_cell(row.get(name)) for name in names) for row in rows)])


def _aligned(rows: Iterable[tuple[str, ...]]) -> str:
    cells = [tuple(clean(cell) for cell in row) for row in rows]
    if not cells:
        return "(none)"
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return clean(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _escaped(char: str) -> str:
    code = ord(char)
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"
