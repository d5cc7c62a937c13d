"""The older protocol, imported when its first request comes: its modules take a while."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
from quart import Response

from binder_core.engine import Binder
from binder_http.config import Config
from binder_http.security import Guard

if TYPE_CHECKING:
    from binder_http.protocol_api import ProtocolApi

PREFIXES: Final = ("builds", "templates", "applications", "preload", "health")
"""What the declared paths begin with; a test compares."""


class LateProtocol:
    """A `binder_http.protocol_api.ProtocolApi` that does not keep the server from starting.

    Args:
        binder: Does the work.
        config: If a store of records is set up in it, everything is opened at the start.
        guard: Who may ask.
    """

    def __init__(self, binder: Binder, config: Config, guard: Guard) -> None:
        self._binder = binder
        self._config = config
        self._guard = guard
        self._wanted = anyio.Event()
        self._made = anyio.Event()
        self._api: ProtocolApi

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Answer requests while the context lasts."""
        if self._config.store is not None:
            self._wanted.set()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            yield
            tasks.cancel_scope.cancel()

    async def answer(self, rest: str = "") -> Response:
        """Answer any request below one of `PREFIXES`."""
        return await (await self._there()).answer(rest)

    async def log(self, name: str) -> Response:
        """Answer ``/builds/<name>/log``."""
        return await (await self._there()).log(name)

    async def _there(self) -> ProtocolApi:
        self._wanted.set()
        await self._made.wait()
        return self._api

    async def _run(self) -> None:
        await self._wanted.wait()
        self._api = await anyio.to_thread.run_sync(self._make)
        async with self._api.recorder:
            self._made.set()
            await anyio.sleep_forever()

    def _make(self) -> ProtocolApi:
        from binder_http.assembly import make_store  # noqa: PLC0415 - late on purpose, as the next
        from binder_http.protocol_api import ProtocolApi  # noqa: PLC0415
        from binder_http.recording import Recorder  # noqa: PLC0415

        config = self._config
        recorder = Recorder(
            self._binder,
            lambda: make_store(config),
            config.records,
            early=config.store is not None,
        )
        return ProtocolApi(recorder, config.protocol, self._guard)
