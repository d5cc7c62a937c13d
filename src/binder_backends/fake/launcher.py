"""The launcher that only says it launches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from anyio.lowlevel import checkpoint

from binder_backends.fake.engine import FakeEngine, Server
from binder_backends.fake.scripts import LauncherSettings, LaunchScript, pick
from binder_core.plugin import (
    BackendUnavailable,
    LaunchFailed,
    LaunchReport,
    LaunchRequest,
    Plugin,
)


class FakeLauncher(Plugin):
    """Starts nothing, as its script says. Nobody answers at the URLs it returns.

    Args:
        settings: How launches go.
        engine: What it shares with the launchers of other servers; its own if None.
    """

    Settings: ClassVar[type[msgspec.Struct]] = LauncherSettings

    def __init__(self, settings: LauncherSettings, engine: FakeEngine | None = None) -> None:
        self.settings = settings
        self.engine = FakeEngine() if engine is None else engine

    async def check(self) -> None:
        """Return unless the settings or the engine say otherwise."""
        await checkpoint()
        if self.settings.down:
            raise BackendUnavailable(self.settings.down)
        self.engine.reach()

    def versions(self) -> Mapping[str, str]:
        """Return that this is the fake."""
        return {"fake": "1"}

    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        """Tell what the script says and return ``<base_url>user/<name>/``.

        The engine keeps the request, so that a test can compare tokens. A name that is there
        already with another token is a fault of the caller's, told as `LaunchFailed`.
        """
        await self.check()
        engine = self.engine
        ticket = engine.reach()
        server = engine.servers.get(request.name)
        if server is None:
            server = self._start(request)
        elif server.request.token != request.token:
            raise LaunchFailed(f"the server {request.name} has another token")
        if engine.fault("launch", request.name, server.script.faults):
            raise BackendUnavailable("the connection to the fake engine broke")
        engine.watching[request.name] += 1
        engine.changed()
        try:
            await self._follow(server, report, ticket)
        finally:
            engine.watching[request.name] -= 1
            engine.changed()
        return f"{self.settings.base_url}user/{request.name}/"

    async def stop(self, request: LaunchRequest) -> None:
        """End the server."""
        await self.check()
        if self.engine.servers.pop(request.name, None) is not None:
            self.engine.changed()

    async def running(self, request: LaunchRequest) -> bool:
        """Return whether the server is there."""
        await self.check()
        return request.name in self.engine.servers

    async def preload(self, image: str) -> None:
        """Note that it was asked for."""
        await self.check()
        self.engine.preloaded.append(image)
        self.engine.changed()

    def _start(self, request: LaunchRequest) -> Server:
        keys = (request.name, request.image, request.repo_url)
        attempt = self.engine.servers_started[request.name]
        script: LaunchScript = (
            pick(self.engine.launch_scripts, keys, attempt)
            or pick(self.settings.scripts, keys, attempt)
            or self.settings
        )
        if self.engine.fault("start server", request.name, script.start_faults):
            raise BackendUnavailable("the fake engine does not answer")
        if script.needs_image and not self.engine.has_image(request.image):
            raise LaunchFailed(f"there is no image {request.image}")
        return self.engine.start_server(request, script)

    async def _follow(self, server: Server, report: LaunchReport, ticket: int) -> None:
        engine, script, name = self.engine, server.script, server.request.name
        told = 0
        while True:
            now = engine.clock()
            messages = server.messages(now)
            for message in script.messages[told:messages]:
                report.line(message)
            told = messages
            if engine.servers.get(name) is not server:
                raise LaunchFailed(script.fails or "the server was stopped")
            if now >= server.settled:
                break
            await engine.wait(server.next_change(now))
            engine.hold(ticket)
        if script.fails:
            del engine.servers[name]
            raise LaunchFailed(script.fails)
