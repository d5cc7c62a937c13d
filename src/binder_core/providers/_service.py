"""What every provider's dialogue needs: replies read, and faults told by the service's name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from binder_core.plugin import Asks, HttpReply, ProviderUnavailable, RefNotFound
from binder_core.providers._text import COMMIT, HEADS

T = TypeVar("T")

_SHOWN = 200


class _Inner(msgspec.Struct):
    message: str = ""


class _Said(msgspec.Struct):
    """Where services put what they have to say about an error."""

    message: str = ""
    reason: str = ""
    error: _Inner | str = ""


def unavailable(service: str, reply: HttpReply) -> ProviderUnavailable:
    """Return the error for an answer that is neither yes nor no.

    Args:
        service: Its name, for people.
        reply: What it answered.
    """
    try:
        said = msgspec.json.decode(reply.body, type=_Said)
        inner = said.error if isinstance(said.error, str) else said.error.message
        told = said.message or said.reason or inner
    except msgspec.DecodeError:
        told = ""
    shown = "".join(char if char.isprintable() else " " for char in told[:_SHOWN])
    wait = reply.headers.get("retry-after", "")
    return ProviderUnavailable(
        f"{_named(service, reply)} answered {reply.status}{f': {shown}' if shown else ''}. "
        "Try again in a few minutes.",
        retry_after=float(wait[:6]) if wait.isascii() and wait.isdigit() else None,
    )


def read(service: str, reply: HttpReply, kind: type[T]) -> T:
    """Return what a reply of status 200 says.

    Raises:
        ProviderUnavailable: It has another status, or says something else than a `kind`.
    """
    if reply.status != 200:
        raise unavailable(service, reply)
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except msgspec.DecodeError as error:
        raise ProviderUnavailable(
            f"{_named(service, reply)} answered something that cannot be understood: {error}."
        ) from error


def _named(service: str, reply: HttpReply) -> str:
    host = urlsplit(reply.url).hostname
    return service if host is None or host == service else f"{service} ({host})"


def commit(service: str, value: str) -> str:
    """Return what a service said is a commit.

    Raises:
        ProviderUnavailable: It is none.
    """
    if not COMMIT.fullmatch(value):
        raise ProviderUnavailable(f"{service} answered something that is no commit: {value[:64]!r}")
    return value.lower()


def epoch(service: str, value: str) -> int:
    """Return the seconds since the epoch of a date that a service told, UTC unless it says.

    Raises:
        ProviderUnavailable: It is no date.
    """
    try:
        date = datetime.fromisoformat(value)
    except ValueError:
        raise ProviderUnavailable(
            f"{service} answered something that is no date: {value[:64]!r}"
        ) from None
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


def commit_or_head(
    ask: Callable[[str], Asks[str | None]], ref: str, repo: str, service: str
) -> Asks[tuple[str, str]]:
    """Find the commit of a ref, or of ``HEAD`` where a ``master`` or ``main`` is dead.

    Args:
        ask: Asks the service for the commit of a ref, which is None if there is no such ref.
        ref: What was asked for.
        repo: The repository, for the messages.
        service: Likewise.

    Returns:
        The commit, and what the person should know of it.

    Raises:
        RefNotFound: There is neither.
    """
    found = yield from ask(ref)
    if found is not None:
        return found, ""
    if ref in HEADS:
        found = yield from ask("HEAD")
        if found is not None:
            return found, dead_branch(repo, ref)
    raise no_ref(service, repo, ref)


def dead_branch(repo: str, ref: str) -> str:
    """Return the notice that ``HEAD`` was taken for a branch that is not there."""
    return f'{repo} has no branch "{ref}": its default branch (HEAD) was taken instead.'


def no_ref(service: str, repo: str, ref: str) -> RefNotFound:
    """Return the error for a repository or ref that a service does not know."""
    return RefNotFound(
        f'{service} knows no ref "{ref}" of {repo}, or no such public repository. '
        "Check the spelling of both."
    )
