"""What the builder and the launcher have in common: an engine, and containers to clear up."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import anyio

from binder_backends.docker.engine import Engine
from binder_backends.registry import Registry, RegistrySettings
from binder_core.plugin import BackendUnavailable, Plugin


class EnginePlugin(Plugin, ABC):
    """A plug-in on a Docker engine that clears up what has ended, whoever started it.

    Args:
        host: Where the engine listens; see `Engine`.
        registry: How registries are asked.
        sweep_every: Seconds between two looks at what has ended.
    """

    def __init__(self, host: str, registry: RegistrySettings, *, sweep_every: float) -> None:
        self._engine = Engine(host)
        self._registry = Registry(registry)
        self._sweep_every = max(1.0, sweep_every)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect to the engine, and begin to clear up.

        Raises:
            BackendUnavailable: It is of no use as it is; see `check`.
        """
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._engine)
            await stack.enter_async_context(self._registry)
            await self.check()
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self._sweep_for_ever)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go: what was started goes on."""
        # The body's exception is none of the task group's, which would wrap it.
        await self._stack.__aexit__(None, None, None)

    @abstractmethod
    async def sweep(self) -> None:
        """Remove the containers of what ended long enough ago, whoever started them.

        Raises:
            BackendUnavailable: The engine broke.
        """

    async def _sweep_for_ever(self) -> None:
        while True:
            with contextlib.suppress(BackendUnavailable):
                await self.sweep()
            await anyio.sleep(self._sweep_every)
