"""Performs the providers' questions: HTTP by httpx's engine, and ``git ls-remote``."""

from binder_backends.asker.asker import Clock, HttpGitAsker
from binder_backends.asker.guard import NotAllowed, Resolver
from binder_backends.asker.limits import RateLimit
from binder_backends.asker.settings import AskerSettings, Credential

__all__ = [
    "AskerSettings",
    "Clock",
    "Credential",
    "HttpGitAsker",
    "NotAllowed",
    "RateLimit",
    "Resolver",
]
