"""Performs questions: HTTP and ``git ls-remote``.

Whatever is asked goes through the same steps: a miss that is still remembered is the answer; one
question under way serves all who ask the same; an answer that broke is asked for again, later and
later; a good one is kept, to be asked only whether it changed.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import ClassVar, Final, Protocol, Self, TypeVar, assert_never

import anyio
import msgspec

from binder_backends.asker.git import GitAsker
from binder_backends.asker.guard import Guard, Resolver, resolve
from binder_backends.asker.http import Broken, Fetcher
from binder_backends.asker.limits import Limits, RateLimit
from binder_backends.asker.memory import Flights, Memory
from binder_backends.asker.settings import AskerSettings
from binder_core.plugin import (
    Answer,
    GitLsRemote,
    GitRefs,
    HttpGet,
    HttpReply,
    ProviderUnavailable,
    Question,
    RefNotFound,
)

log = logging.getLogger("binder.asker")

T = TypeVar("T")

_MISSES: Final = frozenset({404, 422})
_FIRST_DELAY: Final = 0.5
"""Seconds before the second try; before each further one, twice as many."""


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Return the seconds since the epoch."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


class HttpGitAsker:
    """Asks services by HTTP, and repositories by git. Entered before its first use.

    Args:
        settings: The operator's.
        clock: Where time comes from.
        resolver: Where the addresses of hosts come from.
    """

    Settings: ClassVar[type[msgspec.Struct]] = AskerSettings

    def __init__(
        self,
        settings: AskerSettings | None = None,
        *,
        clock: Clock | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        self._settings = settings = settings or AskerSettings()
        self._clock = clock or SystemClock()
        self._limits = Limits()
        self._memory = Memory(cache_bytes=settings.cache_bytes, miss_age=settings.miss_age)
        self._flights = Flights()
        self._guard = Guard(settings.allow_networks, resolver)
        self._fetcher = Fetcher(settings, self._guard, self._limits)
        self._stack = AsyncExitStack()
        self._git: GitAsker | None = None

    @property
    def rate_limits(self) -> Mapping[str, RateLimit]:
        """Return what each host said last of how often it may be asked."""
        return MappingProxyType(self._limits.known)

    async def __aenter__(self) -> Self:
        """Make ready."""
        home = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="binder-asker-"))
        await self._stack.enter_async_context(self._fetcher)
        self._git = GitAsker(self._settings, self._guard, self._fetcher, Path(home))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        await self._stack.aclose()

    async def ask(self, question: Question) -> Answer:
        """Return the answer, whatever its status.

        A question with the header ``cache-control: no-cache`` gets no remembered answer, nor is
        its own remembered.

        Raises:
            NotAllowed: The question is not asked, or its answer is too much.
            RefNotFound: git says that there is no such repository.
            ProviderUnavailable: There was no answer, or the service asks to be left alone; then
                ``retry_after`` says for how long.
        """
        remembers = isinstance(question, GitLsRemote) or not any(
            name.lower() == "cache-control" for name, _ in question.headers
        )
        if remembers and (known := self._memory.miss(question, self._clock.now())):
            return known
        return await self._flights.share(
            question, lambda: self._bounded(question, remembers=remembers)
        )

    async def _bounded(self, question: Question, *, remembers: bool) -> Answer:
        try:
            with anyio.fail_after(self._settings.timeout):
                return await self._perform(question, remembers=remembers)
        except TimeoutError as error:
            raise ProviderUnavailable(
                f"No answer within {self._settings.timeout:g} seconds from {question.url}. "
                "Try again in a few minutes."
            ) from error

    async def _perform(self, question: Question, *, remembers: bool) -> Answer:
        match question:
            case HttpGet():
                reply = await self._http(question, remembers=remembers)
                if remembers and reply.status in _MISSES:
                    self._memory.keep_miss(question, reply, self._clock.now())
                elif remembers and reply.status == 200:
                    self._memory.keep(question, reply)
                return reply
            case GitLsRemote():
                try:
                    refs = await self._ls_remote(question)
                except RefNotFound as error:
                    self._memory.keep_miss(question, error, self._clock.now())
                    raise
                if not refs.refs and not question.url.startswith("file:"):
                    self._memory.keep_miss(question, refs, self._clock.now())
                return refs
            case _:
                assert_never(question)

    async def _http(self, question: HttpGet, *, remembers: bool) -> HttpReply:
        known = self._memory.good(question) if remembers else None

        async def get() -> HttpReply:
            reply = await self._fetcher.get(question, known, self._clock.now())
            # Where the service says when to come back, it is not asked before.
            if reply.status < 500 or "retry-after" in reply.headers:
                return reply
            raise _ServerError(reply)

        try:
            return await self._retried(get)
        except _ServerError as error:
            return error.reply

    async def _ls_remote(self, question: GitLsRemote) -> GitRefs:
        if self._git is None:
            raise RuntimeError("the asker has not been entered")
        git = self._git
        return await self._retried(lambda: git.refs(question, self._clock.now()))

    async def _retried(self, ask: Callable[[], Awaitable[T]]) -> T:
        delay = _FIRST_DELAY
        for _ in range(self._settings.tries - 1):
            try:
                return await ask()
            except Broken as error:
                log.info("%s Next try in %g s.", error.message, delay)
            await self._clock.sleep(delay)
            delay *= 2
        return await ask()


class _ServerError(Broken):
    """An answer of 5xx, while there are tries left."""

    def __init__(self, reply: HttpReply) -> None:
        super().__init__(f"{reply.url} answered {reply.status}.")
        self.reply = reply
