"""``binder plugins``: what is installed, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Final

from binder_core.engine import discovery
from binder_core.errors import BinderError

_HEAD: Final = ("NAME", "FROM", "STATE")


def table() -> str:
    """Return all plug-ins by group, one a line."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for group in discovery.GROUPS:
        rows = [_HEAD, *_rows(group)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        yield group.removeprefix("binder.").upper()
        for name, source, state in rows:
            yield f"  {name:{widths[0]}}  {source:{widths[1]}}  {state}".rstrip()
        yield ""


def _rows(group: str) -> Iterator[tuple[str, str, str]]:
    points = {point.name: point for point in entry_points(group=group)}
    for name in discovery.names(group):
        dist = points[name].dist
        source = f"{dist.name} {dist.version}" if dist else points[name].module
        yield name, source, _state(group, name)


def _state(group: str, name: str) -> str:
    try:
        discovery.find(group, name)
    except BinderError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - somebody else's module: a broken one hides no other
        return f"broken: {type(error).__name__}: {error}"
    return "ok"
