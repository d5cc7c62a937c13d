"""The asker, made when the first question comes: its libraries take long to import."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.to_thread

from binder_backends.asker.settings import AskerSettings
from binder_core.plugin import Answer, Question

if TYPE_CHECKING:
    from binder_backends.asker import HttpGitAsker, RateLimit

_MODULE: Final = "binder_backends.asker.asker"


class LateAsker:
    """A `binder_backends.asker.HttpGitAsker` that does not keep the server from starting.

    Args:
        settings: The operator's.
    """

    def __init__(self, settings: AskerSettings) -> None:
        self._settings = settings
        self._lock = anyio.Lock()
        self._stack = AsyncExitStack()
        self._asker: HttpGitAsker | None = None

    @property
    def rate_limits(self) -> Mapping[str, RateLimit]:
        """Return what each host said last of how often it may be asked."""
        return self._asker.rate_limits if self._asker else {}

    async def __aenter__(self) -> Self:
        """Do nothing yet."""
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

        Raises:
            ProviderUnavailable: There was none, or the question is not allowed here.
        """
        asker = self._asker or await self._made()
        return await asker.ask(question)

    async def _made(self) -> HttpGitAsker:
        async with self._lock:
            if self._asker is not None:
                return self._asker
            await anyio.to_thread.run_sync(import_module, _MODULE)
            from binder_backends.asker import HttpGitAsker  # noqa: PLC0415 - late on purpose

            asker = HttpGitAsker(self._settings)
            # Whoever asked first may leave; the next one shall not find half of it.
            with anyio.CancelScope(shield=True):
                self._asker = await self._stack.enter_async_context(asker)
            return asker
