"""Questions to the outside as values, and dialogues made of them.

A dialogue is a generator that yields questions and is sent answers. It reads as straight code::

    def resolve(spec: Spec) -> Asks[Resolved]:
        reply = yield from http_get(f"https://api.example/{spec.repo}")
        if reply.status == 404:
            raise RefNotFound(...)

A status code is an answer; no answer at all is an exception, which whoever performs the question
throws into the dialogue at its ``yield``. Tests drive a dialogue by hand: ``next(flow) ==
HttpGet(...)`` and ``flow.send(HttpReply(...))``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class HttpGet:
    """A GET request. Credentials are not part of it: who performs it adds those of the host."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    redirect_hosts: tuple[str, ...] = ()
    """Hosts beside the URL's own that a redirect may lead to; ``*.example.org`` covers those
    below it, ``*`` any public one."""
    head: bool = False
    """Whether the answer's body is of no interest (HEAD)."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a service answered, at the end of all redirects."""

    status: int
    url: str
    """Where the redirects led."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class GitLsRemote:
    """What ``git ls-remote`` says of a repository."""

    url: str
    patterns: tuple[str, ...] = ()
    """Only these refs, as git matches them; all if empty."""


@dataclass(frozen=True, slots=True)
class GitRefs:
    """The refs of a repository, by full name (``refs/heads/main``, ``HEAD``)."""

    refs: Mapping[str, str]


Question: TypeAlias = HttpGet | GitLsRemote
Answer: TypeAlias = HttpReply | GitRefs
Asks: TypeAlias = Generator[Question, Answer, T]
"""A dialogue that ends with a ``T``."""


def http_get(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    redirect_hosts: tuple[str, ...] = (),
    head: bool = False,
) -> Asks[HttpReply]:
    """Ask for `url` and return the reply, whatever its status."""
    reply = yield HttpGet(url, tuple((headers or {}).items()), redirect_hosts, head)
    assert isinstance(reply, HttpReply), reply  # noqa: S101 - narrows for mypy; the pair is fixed
    return reply


def git_ls_remote(url: str, *patterns: str) -> Asks[GitRefs]:
    """Ask for the refs of the repository at `url` and return them."""
    refs = yield GitLsRemote(url, patterns)
    assert isinstance(refs, GitRefs), refs  # noqa: S101 - narrows for mypy; the pair is fixed
    return refs


def unasked(flow: Asks[T]) -> T | None:
    """Return what the dialogue comes to if nobody has to be asked, else None.

    Raises:
        BinderError: The dialogue's own.
    """
    try:
        next(flow)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        flow.close()
    return None


async def perform(flow: Generator[Q, A, T], ask: Callable[[Q], Awaitable[A]]) -> T:
    """Return what the dialogue comes to, `ask` answering its questions.

    Args:
        flow: A dialogue: `Asks`, or one with questions and answers of its own.
        ask: Answers a question.

    Raises:
        BinderError: The dialogue's own, or what `ask` raised and the dialogue did not handle.
    """
    try:
        question = next(flow)
        while True:
            try:
                answer = await ask(question)
            except Exception as error:  # noqa: BLE001 - the dialogue decides what it means
                question = flow.throw(error)
            else:
                question = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        flow.close()
