"""Finds plug-ins by their entry points."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Final

from binder_core.errors import BackendUnavailable, ConfigError

PROVIDERS: Final = "binder.providers"
BUILDERS: Final = "binder.builders"
LAUNCHERS: Final = "binder.launchers"
STORES: Final = "binder.stores"

GROUPS: Final = (PROVIDERS, BUILDERS, LAUNCHERS, STORES)


def names(group: str) -> list[str]:
    """Return the names of all installed plug-ins of a group, sorted."""
    return sorted(_installed().select(group=group).names)


def find(group: str, name: str) -> Any:
    """Return the plug-in of that name: a class as `binder_core.plugin` describes it.

    Raises:
        ConfigError: No plug-in has that name.
        BackendUnavailable: It is there, but a library that it needs is not.
    """
    for point in _installed().select(group=group):
        if point.name == name:
            return _load(point)
    known = names(group)
    kind = group.removeprefix("binder.").removesuffix("s")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(known) or 'none'}."
    raise ConfigError(f"There is no {kind} named {name!r}; {hint}", status=404)


@cache
def _installed() -> EntryPoints:
    # Every installed distribution is looked at: once is enough. (Any: the type stubs of 3.11 know
    # only what 3.9 returned.)
    found: Any = entry_points()
    points: EntryPoints = found
    return points


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except ImportError as error:
        distribution = point.dist.name if point.dist else point.module.partition(".")[0]
        extras = f"[{','.join(point.extras)}]" if point.extras else ""
        raise BackendUnavailable(
            f"The plug-in {point.name!r} is installed, but a library that it needs is not"
            f" ({error}). Try: pip install '{distribution}{extras}'"
        ) from error
