"""What the builder and the launcher have in common: an engine, and containers to clear up."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Final, Self

import anyio

from binder_backends.docker.engine import Engine, Inspected
from binder_backends.registry import Registry, RegistrySettings
from binder_core.plugin import BackendUnavailable, Plugin

log: Final = logging.getLogger("binder.docker")


class EnginePlugin(Plugin, ABC):
    """A plug-in on a Docker engine that clears up what has ended, whoever started it.

    Args:
        host: Where the engine listens; see `Engine`.
        registry: How registries are asked.
        label: What its containers have.
        sweep_every: Seconds between two looks at what has ended.
    """

    def __init__(
        self, host: str, registry: RegistrySettings, *, label: str, sweep_every: float
    ) -> None:
        self._engine = Engine(host)
        self._registry = Registry(registry)
        self._label = label
        self._stuck: dict[str, str] = {}
        self._settled: set[str] = set()
        """Containers, by id, that need not be looked at again while they run."""
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

    async def sweep(self) -> None:
        """Clear up all that ended long enough ago, whoever started it.

        One container that cannot be removed is told in the log, once, and keeps no other.

        Raises:
            BackendUnavailable: The engine broke.
        """
        found = await self._engine.containers(self._label)
        containers = [str(listed.get("Id")) for listed in found]
        self._settled.intersection_update(containers)
        names = [container[:12] for container in containers]
        for name, listed in zip(names, found, strict=True):
            try:
                await self.tidy(listed)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is of this one alone
                said = _said(error)
                if self._stuck.get(name) != said:
                    log.warning("the container %s is not cleared up: %s", name, said)
                self._stuck[name] = said
        self._stuck = {name: said for name, said in self._stuck.items() if name in names}

    @abstractmethod
    async def tidy(self, listed: Inspected) -> None:
        """Remove a container if it ended long enough ago.

        Args:
            listed: What the engine's list says of it.

        Raises:
            BackendUnavailable: The engine broke.
        """

    async def _sweep_for_ever(self) -> None:
        told = ""
        while True:
            said = ""
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - the server goes on, and so does this
                said = _said(error)
            if said and said != told:
                log.warning("containers that ended are not cleared up: %s", said)
            told = said
            await anyio.sleep(self._sweep_every)


def _said(error: Exception) -> str:
    known = isinstance(error, BackendUnavailable)
    return str(error) if known else f"{type(error).__name__}: {error}"
