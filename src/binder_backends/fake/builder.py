"""The builder that only says it builds."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import ClassVar

import msgspec
from anyio.lowlevel import checkpoint

from binder_backends.fake.engine import FakeEngine, Run
from binder_backends.fake.scripts import BuilderSettings, Script, pick
from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    BuildRun,
    Plugin,
    Report,
)

_AT_ONCE = 256
"""Lines told before others get a turn, as they do when a log comes in over a connection."""


class FakeBuilder(Plugin):
    """Builds nothing, as its script says.

    Args:
        settings: How builds go.
        engine: What it shares with the builders of other servers; its own if None.
    """

    Settings: ClassVar[type[msgspec.Struct]] = BuilderSettings

    def __init__(self, settings: BuilderSettings, engine: FakeEngine | None = None) -> None:
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

    async def exists(self, image: str) -> bool:
        """Return whether a run made `image`, or it was said to be there."""
        await self.check()
        engine = self.engine
        engine.exists_calls[image] += 1
        engine.changed()
        script = self.script_for(image)
        if engine.fault("exists", image, script.exists_faults):
            raise BackendUnavailable("the fake registry does not answer")
        there = any(fnmatchcase(image, pattern) for pattern in self.settings.images)
        return there or script.exists or engine.has_image(image)

    async def build(self, request: BuildRequest, report: Report) -> None:
        """Tell what the script says."""
        await self.check()
        ticket = self.engine.reach()
        script = self.script_for(request.name, request.image, request.repo_url)
        if self.engine.fault("start", request.name, script.start_faults):
            raise BackendUnavailable("the fake engine does not answer")
        run = self.engine.find_run(request)
        if run is None:
            if request.image_exists or script.exists or self._has(request.image):
                return
            run = self.engine.start_run(request, script)
        self.engine.watching[request.name] += 1
        self.engine.changed()
        try:
            await self._follow(run, report, ticket)
        finally:
            self.engine.watching[request.name] -= 1
            self.engine.changed()

    async def stop(self, request: BuildRequest, reason: str) -> None:
        """End the run under way."""
        await self.check()
        run = self.engine.under_way(request.name)
        if run is not None:
            run.stopped, run.stop_reason = self.engine.clock(), reason
            self.engine.changed()

    async def under_way(self) -> list[BuildRun]:
        """Return the runs of the engine that have not ended."""
        await self.check()
        now = self.engine.clock()
        return [
            BuildRun(
                name=run.name,
                run_id=run.id,
                image=run.request.image,
                repo_url=run.request.repo_url,
                ref=run.request.ref,
                seconds=now - run.asked,
            )
            for run in self.engine.runs
            if not run.ended(now)
        ]

    def script_for(self, *keys: str) -> Script:
        """Return the script for what goes by these: name, image, repository URL."""
        attempt = self.engine.runs_started[keys[0]]
        return (
            pick(self.engine.scripts, keys, attempt)
            or pick(self.settings.scripts, keys, attempt)
            or self.settings
        )

    def _has(self, image: str) -> bool:
        there = any(fnmatchcase(image, pattern) for pattern in self.settings.images)
        return there or self.engine.has_image(image)

    async def _follow(self, run: Run, report: Report, ticket: int) -> None:
        engine, script = self.engine, run.script
        breaks = engine.fault("build", run.id, script.faults)
        if breaks and not script.fault_after:
            raise BackendUnavailable("the connection to the fake engine broke")
        last = script.fault_after if breaks else script.total
        again = script.again_after
        queue = told = 0
        started = False
        while True:
            now = engine.clock()
            for message in script.waiting[queue : run.queue(now)]:
                report.waiting(message)
            queue = run.queue(now)
            if run.begun(now) and not started:
                report.started(run.id)
                started = True
            while told < min(run.lines(now), last):
                told += 1
                self._tell(run, told, report)
                if told == again:
                    again = told = 0
                    report.started(run.id)
                elif told % _AT_ONCE == 0:
                    await checkpoint()
            if told > engine.told.get(run.id, 0):
                engine.told[run.id] = told
                engine.changed()
            if breaks and (told == last or run.ended(now)):
                raise BackendUnavailable("the connection to the fake engine broke")
            if run.ended(now):
                break
            await engine.wait(run.next_change(now))
            engine.hold(ticket)
        if failure := run.failure(now):
            raise BuildFailed(failure)

    def _tell(self, run: Run, n: int, report: Report) -> None:
        line = run.script.entry(n, run.request.repo_url)
        for _ in range(2 if run.script.twice else 1):
            report.line(n, line.message, phase=line.phase, progress=line.progress)
