"""What an operator sees of builds, and does with them."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar

import anyio

from binder_core.builds import Build, State
from binder_core.engine.bell import Batch, Source
from binder_core.engine.jobs import Jobs
from binder_core.engine.values import BuildInfo, Overview
from binder_core.errors import BackendUnavailable, NoSuchBuild, ShuttingDown
from binder_core.ordering import Phase
from binder_core.plugin import Builder, BuildRequest, BuildRun
from binder_core.resume import LogCursor

T = TypeVar("T")

_QUIET: Final = 1.0
"""Seconds without a line after which the log of a run of another server is all there is now."""


class Operator:
    """Lists, reads and stops builds, those that other servers started included.

    Args:
        jobs: What this server does.
        builder: Knows what else is under way on the engine.
    """

    def __init__(self, jobs: Jobs, builder: Builder) -> None:
        self._jobs = jobs
        self._builder = builder

    def here(self) -> list[BuildInfo]:
        """Return the builds that this server knows of, oldest first; ended ones for a while."""
        return [self._info(build) for build in self._jobs.machine.all()]

    async def list(self) -> Overview:
        """Return these, and behind them the runs under way that this server does not follow."""
        try:
            runs = await self._builder.under_way()
        except BackendUnavailable as error:
            return Overview(self.here(), complete=False, message=str(error))
        here = self.here()
        if runs is None:
            return Overview(here, complete=False, message="The builder cannot tell what else runs.")
        known = {(build.name, build.run_id) for build in here}
        # A build whose run this server has not heard of yet is that of the same name.
        starting = {build.name for build in here if not build.state.ended and build.run_id is None}
        elsewhere = [
            _elsewhere(run)
            for run in runs
            if (run.name, run.run_id) not in known and run.name not in starting
        ]
        return Overview([*here, *elsewhere], complete=True)

    async def log(
        self, name: str, *, follow: bool, after: LogCursor | None = None, image: str = ""
    ) -> AsyncGenerator[Batch]:
        """Yield the events of a build.

        Args:
            name: The build's.
            follow: Go on until it ends, with heartbeats (empty); else end with what there is now.
                Of a run that another server started that is what comes without a pause.
            after: Whence to go on, as long as that run is known; None: from its first line.
            image: What the build makes. With it the run of `after` is found though it has ended,
                and another server followed it.

        Raises:
            NoSuchBuild: There is none.
            BackendUnavailable: The engine does not say.
        """
        build = self._latest(name)
        if build is not None and (job := self._jobs.job(build.id)) is not None:
            reading = self._read(job.reader(after), follow=follow)
        else:
            if after is not None and image:
                run = BuildRun(name, after.run_id, image)
            else:
                run = await self._run(name)
            reading = self._read_run(run, after, follow=follow)
        if after is not None:
            yield ()  # found: who comes back hears that now, not with the next line
        async with aclosing(reading) as batches:
            async for batch in batches:
                yield batch

    async def stop(self, name: str, reason: str) -> bool:
        """End a build, wherever it was started, and return when it has ended.

        Returns whether there was one under way. It is ended though who asked goes away.

        Raises:
            BackendUnavailable: The engine does not answer.
        """
        live = self._jobs.machine.live(name)
        if live is not None:
            self._jobs.stop(name, reason)
            await self._jobs.ended(live.id)
            return True
        try:
            run = await self._run(name)
        except NoSuchBuild:
            return False
        await self._flown(("stop", name), lambda: self._builder.stop(_request(run), reason))
        return True

    async def _flown(self, question: object, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what `ask` returns, done by a task of its own."""
        flight = self._jobs.once((type(self), question), lambda: self._jobs.persist(ask))
        while flight.read() is not None:
            if self._jobs.draining:
                raise ShuttingDown("This Binder is shutting down; ask again, here or elsewhere.")
            await flight.bell.wait()
        return flight.result()

    def _latest(self, name: str) -> Build | None:
        """Return the attempt that is live, or the last that ended."""
        known = [build for build in self._jobs.machine.all() if build.id.key == name]
        return known[-1] if known else None

    async def _run(self, name: str) -> BuildRun:
        for run in await self._builder.under_way() or ():
            if run.name == name:
                return run
        raise NoSuchBuild(f"There is no build {name[:80]!r} under way; see: binder builds")

    async def _read(
        self, source: Source, *, follow: bool, patience: float = 0.0
    ) -> AsyncGenerator[Batch]:
        """Yield what is told, to the end or, where it is not followed, until nothing comes."""
        bell, beats = source.bell, source.bell.beats
        while (batch := source.read()) is not None:
            if batch or (follow and bell.beats != beats):
                beats = bell.beats
                yield batch
            elif self._jobs.draining:
                return
            else:
                with anyio.move_on_after(math.inf if follow else patience) as waiting:
                    await bell.wait()
                if waiting.cancelled_caught:
                    return

    async def _read_run(
        self, run: BuildRun, after: LogCursor | None, *, follow: bool
    ) -> AsyncGenerator[Batch]:
        """Yield what a run says that nobody here follows."""
        same = after is not None and after.run_id == run.run_id
        with self._jobs.read_apart(_request(run)) as job:
            source = job.reader(after if same else LogCursor(run.run_id, 0))
            async with aclosing(self._read(source, follow=follow, patience=_QUIET)) as batches:
                async for batch in batches:
                    yield batch

    def _info(self, build: Build) -> BuildInfo:
        now = anyio.current_time()
        job = self._jobs.job(build.id)
        return BuildInfo(
            name=build.request.name,
            image=build.request.image,
            repo_url=build.request.repo_url,
            ref=build.request.ref,
            state=build.state,
            watchers=build.watchers,
            seconds=now - build.since,
            age=now - (job.began if job else build.since),
            provider=job.provider if job else "",
            phase=job.phase if job else Phase.WAITING,
            place=build.place if build.state is State.QUEUED else None,
            run_id=build.run_id,
        )


def _elsewhere(run: BuildRun) -> BuildInfo:
    return BuildInfo(
        name=run.name,
        image=run.image,
        repo_url=run.repo_url,
        ref=run.ref,
        state=State.RUNNING,
        watchers=0,
        seconds=run.seconds,
        age=run.seconds,
        run_id=run.run_id,
        elsewhere=True,
    )


def _request(run: BuildRun) -> BuildRequest:
    """Return the request that follows a run and starts none."""
    return BuildRequest(
        name=run.name,
        image=run.image,
        repo_url=run.repo_url,
        ref=run.ref,
        follow=run.run_id,
        image_exists=True,
    )
