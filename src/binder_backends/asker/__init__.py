"""Performs the providers' questions: HTTP by httpx's engine, and ``git ls-remote``.

What needs httpx is imported when it is first used: the settings alone do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from binder_backends.asker.settings import AskerSettings, Credential

if TYPE_CHECKING:
    from binder_backends.asker.asker import Clock, HttpGitAsker
    from binder_backends.asker.guard import NotAllowed, Resolver
    from binder_backends.asker.limits import RateLimit

__all__ = [
    "AskerSettings",
    "Clock",
    "Credential",
    "HttpGitAsker",
    "NotAllowed",
    "RateLimit",
    "Resolver",
]

_WHERE: Final = {
    "Clock": "asker",
    "HttpGitAsker": "asker",
    "NotAllowed": "guard",
    "RateLimit": "limits",
    "Resolver": "guard",
}


def __getattr__(name: str) -> Any:
    """Return what is imported late."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
