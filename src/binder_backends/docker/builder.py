"""Builds images in containers on a Docker engine.

The container named like the build is the lock, its log the journal: any server that shares the
engine finds it, and reads the same. The runner in it has repo2docker build on the same engine,
whose socket it is given.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import ClassVar, Final

import anyio
import msgspec

from binder_backends.containers import LABEL, STOP_FILE, BuildPlan, plan_build
from binder_backends.docker.container import HANDED_OVER, container_config, handed_over, log_bytes
from binder_backends.docker.engine import DEFAULT_SOCKET, Conflict, Inspected, NotThere
from binder_backends.docker.engine_plugin import EnginePlugin
from binder_backends.docker.reading import (
    LogFeed,
    TooLong,
    follow_log,
    last_outcome,
    read_log,
)
from binder_backends.docker.runs import (
    BUILD_LABEL,
    RUNNER_LABEL,
    Run,
    is_listed_run,
    is_run_id,
    listed_run,
    read_run,
)
from binder_backends.docker.settings import DockerSettings
from binder_backends.docker.slots import Slots
from binder_backends.docker.verdicts import too_late, too_long, verdict
from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    BuildRun,
    Report,
)

_PAUSE: Final = 0.05
_FIND_WITHIN: Final = 60.0
_START_WITHIN: Final = 10.0
"""Seconds that another server may take between making a container and starting it."""
_END_WITHIN: Final = 10.0
"""Seconds that a container may take to end after its last line."""
_STOP_WITHIN: Final = 12.0
"""Seconds that a runner may take to end what it started."""
_SWEEP_EVERY: Final = 60.0
_NEVER_STARTED: Final = 600.0
"""Seconds after which a container that was not started never will be."""


class DockerBuilder(EnginePlugin):
    """Builds images in containers on a Docker engine.

    Args:
        settings: What the operator set.
    """

    Settings: ClassVar[type[msgspec.Struct]] = DockerSettings

    def __init__(self, settings: DockerSettings) -> None:
        every = min(_SWEEP_EVERY, settings.keep_builds_for)
        super().__init__(settings.host, settings.registry, label=BUILD_LABEL, sweep_every=every)
        self._settings = settings
        self._slots = Slots(self._engine, settings.max_builds)
        self._version = ""

    async def check(self) -> None:
        """Return if the engine answers, is new enough, and has the builder image and network.

        Raises:
            BackendUnavailable: One of these is not so.
        """
        self._version = await self._engine.version()
        image = await self._engine.image(self._settings.builder_image)
        if image is None:
            raise self._no_builder_image()
        if self._settings.runner:
            self._check_runner((image.get("Config") or {}).get("Labels") or {})
        if (name := self._settings.network) and not await self._engine.has_network(name):
            raise self._no_network()

    def _check_runner(self, labels: Mapping[str, str]) -> None:
        image = self._settings.builder_image
        if labels.get(f"{LABEL}.runner") != "yes":
            raise BackendUnavailable(
                f"The builder image {image} does not hold the runner. Make one from"
                " deploy/builder/Dockerfile, or set runner = false for an image of repo2docker's"
                " own."
            )
        ours = version("binderkit")
        # (One of somebody's own make need not say it.)
        theirs = labels.get(f"{LABEL}.version", ours)
        if theirs != ours:
            raise BackendUnavailable(
                f"The builder image {image} holds the runner of binderkit {theirs}, and this is"
                f" {ours}. Make it again (docker build -t {image} -f deploy/builder/Dockerfile .)."
            )

    def versions(self) -> Mapping[str, str]:
        """Return the engine's version, and which builder image is used."""
        found = {"docker": self._version, "builder_image": self._settings.builder_image}
        return {name: text for name, text in found.items() if text}

    async def exists(self, image: str) -> bool:
        """Return whether `image` is in its registry; where nothing is pushed, on the engine.

        Raises:
            BackendUnavailable: Nobody knows.
        """
        if self._settings.push:
            return await self._registry.exists(image)
        return await self._engine.image(image) is not None

    async def under_way(self) -> Sequence[BuildRun]:
        """Return the builds under way on the engine, whichever server started them."""
        return [
            listed_run(said)
            for said in await self._engine.containers(BUILD_LABEL)
            if said["State"] == "running" and is_listed_run(said)
        ]

    async def build(self, request: BuildRequest, report: Report) -> None:
        """Start or find the build; see `binder_core.plugin.Builder.build`."""
        run = await self._find_or_start(request, report)
        if run is None:
            return
        report.started(run.id)
        try:
            await self._tell(run, request, report)
        finally:
            self._slots.wake()

    async def stop(self, request: BuildRequest, reason: str) -> None:
        """End the run under way of this name, with all it started."""
        self._slots.stop(request.name, reason)
        with anyio.CancelScope(shield=True):
            run = await self._current(request)
            if run is not None and run.fresh:
                run = await self._started(run)
            if run is not None and not run.over:
                await self._end(run, reason)

    # -- Finding and starting ----------------------------------------------------------------

    async def _find_or_start(self, request: BuildRequest, report: Report) -> Run | None:
        """Return the run to report, None if there is nothing to report."""
        deadline = time.monotonic() + _FIND_WITHIN
        while time.monotonic() < deadline:
            if followed := await self._followed(request):
                return followed
            run = await self._current(request)
            if run is not None and run.fresh:
                # Another server is just starting it, or did not come to that.
                run = await self._started(run) or await self._take_over(run, request)
            if run is not None and not run.over and not await self._ending(run):
                return run
            if run is None or run.over:
                if request.image_exists or await self.exists(request.image):
                    return None
                began = time.monotonic()
                started = await self._start_in_turn(request, run, report)
                if started is not None:
                    return started
                deadline += time.monotonic() - began
            await anyio.sleep(_PAUSE)
        raise BackendUnavailable(
            f"The build container {request.name} neither ends nor makes way for a new one: look at"
            " it on the Docker engine, and remove it."
        )

    async def _followed(self, request: BuildRequest) -> Run | None:
        """Return the run that is asked for, if it is known and has something to tell."""
        if not request.follow or not is_run_id(request.follow):
            return None
        run = await self._inspect(request.follow)
        if run is None or run.build != request.name or run.fresh:
            return None
        if run.over and run.exit_code == 0 and not request.image_exists:
            # It built, but that is long ago.
            return run if await self.exists(request.image) else None
        return run

    async def _current(self, request: BuildRequest) -> Run | None:
        run = await self._inspect(request.name)
        if run is None or run.name != request.name:
            return None  # found by its id, which begins like the name
        return run

    async def _inspect(self, name: str) -> Run | None:
        try:
            said = await self._engine.inspect(name)
        except NotThere:
            return None
        run = read_run(said)
        if run is None:
            raise BackendUnavailable(
                f"There is a container {name} on the Docker engine that is no build: rename or"
                " remove it."
            )
        return run

    async def _ending(self, run: Run) -> bool:
        """Return whether a run has nothing more to say, and give it the time to end."""
        if not run.has_runner:
            return False
        with contextlib.suppress(NotThere):
            if await last_outcome(self._engine, run.container) is None:
                return False
            await self._until_over(run, _END_WITHIN)
        return True

    async def _started(self, run: Run) -> Run | None:
        """Return a run as soon as whoever made it has started it; None if nobody does."""
        deadline = time.monotonic() + _START_WITHIN
        now: Run | None = run
        while now is not None and now.fresh:
            if time.monotonic() > deadline:
                return None
            await anyio.sleep(_PAUSE)
            now = await self._inspect(run.container)
        return now

    async def _take_over(self, run: Run, request: BuildRequest) -> Run | None:
        """Remove what another server has left, half made; it stays if it has just been started."""
        await self._engine.remove(run.container, force=False)
        return await self._current(request)

    async def _start_in_turn(
        self, request: BuildRequest, before: Run | None, report: Report
    ) -> Run | None:
        """Start a run when there is a place for it; return None where another server was first."""
        told = ""
        with self._slots.turn(request.name) as turn:
            while why := await self._slots.claim(turn):
                if why != told:
                    told = why
                    report.waiting(why)
                await self._slots.change()
                if turn.stopped is not None:
                    raise BuildFailed(turn.stopped)
                before = await self._current(request)
                if before is not None and not before.over:
                    return None
        try:
            if turn.stopped is not None:
                raise BuildFailed(turn.stopped)
            if told and await self.exists(request.image):
                return None
            return await self._start(request, before)
        finally:
            self._slots.release(request.name)

    async def _start(self, request: BuildRequest, before: Run | None) -> Run | None:
        """Start a run; return None where another server was first."""
        login = await self._registry.push_config(request.image) if self._settings.push else b""
        plan = await anyio.to_thread.run_sync(self._plan, request, login)
        started = None
        # As a whole or not at all, whoever goes away meanwhile.
        with anyio.CancelScope(shield=True):
            if before is None or await self._make_way(before):
                container = await self._create(request, plan)
                started = await self._inspect(container) if container else None
        return started

    async def _make_way(self, ended: Run) -> bool:
        """Give another name to a run that ended; return whether it was we who did."""
        return await self._engine.rename(ended.container, f"{ended.build}.{ended.id}")

    async def _create(self, request: BuildRequest, plan: BuildPlan) -> str | None:
        try:
            container = await self._engine.create(
                request.name, container_config(self._settings, plan, self._socket())
            )
        except Conflict:
            return None
        except NotThere as error:
            raise self._no_builder_image() from error
        try:
            await self._engine.put_files(container, handed_over(plan), folders=[HANDED_OVER])
            await self._engine.start(container)
        except (NotThere, Conflict) as error:
            if "network" not in str(error):
                return None  # somebody removed it, or is about to: the build was stopped
            await self._remove_vainly_made(container)
            raise self._no_network() from error
        except BackendUnavailable:
            await self._remove_vainly_made(container)
            raise
        return container

    async def _remove_vainly_made(self, container: str) -> None:
        with contextlib.suppress(BackendUnavailable):
            await self._engine.remove(container)

    def _plan(self, request: BuildRequest, login: bytes) -> BuildPlan:
        return plan_build(self._settings, request, push_config=login)

    def _socket(self) -> str:
        return self._settings.engine_socket or self._engine.socket or DEFAULT_SOCKET

    def _no_builder_image(self) -> BackendUnavailable:
        image = self._settings.builder_image
        return BackendUnavailable(
            f"The Docker engine at {self._engine.host} has no builder image {image}. Make it"
            f" (docker build -t {image} -f deploy/builder/Dockerfile .), pull it, or set"
            " builder_image."
        )

    def _no_network(self) -> BackendUnavailable:
        name = self._settings.network
        return BackendUnavailable(
            f"The Docker engine at {self._engine.host} has no network {name}. Make it (docker"
            f" network create {name}), or set network."
        )

    # -- Telling -----------------------------------------------------------------------------

    async def _tell(self, run: Run, request: BuildRequest, report: Report) -> None:
        """Report a run to its end."""
        feed = self._feed(run, report)
        ended: Run | None = run
        try:
            await follow_log(self._engine, run.container, feed)
            if feed.outcome is None:
                ended = await self._until_over(run, _END_WITHIN)
                if ended is not None and not ended.over:
                    raise BackendUnavailable("The Docker engine let go of the build's log.")
                # Of a container that is just ending, not all may have been told.
                feed = self._feed(run, report)
                await read_log(self._engine, run.container, feed)
            else:
                await self._until_over(run, _END_WITHIN)
        except NotThere:
            ended = None
        except TooLong:
            await self._end(run, too_long(log_bytes(self._settings)))
            ended = await self._inspect(run.container)
        reason = b""
        if feed.outcome is None and ended is not None:
            reason = await self._reason(ended)
        # Why a build failed is told though nobody knew whether there is an image.
        failed = feed.outcome is not None and not feed.outcome.built
        there = not failed and await self.exists(request.image)
        failure = verdict(ended, feed, reason.decode("utf-8", "replace"), there=there)
        if failure:
            raise BuildFailed(failure)

    def _feed(self, run: Run, report: Report) -> LogFeed:
        return LogFeed(report, numbered=run.has_runner, max_bytes=log_bytes(self._settings))

    async def _reason(self, run: Run) -> bytes:
        with contextlib.suppress(NotThere):
            return await self._engine.read_file(run.container, STOP_FILE) or b""
        return b""

    async def _until_over(self, run: Run, within: float) -> Run | None:
        """Return the run when it has ended, is gone (None), or does not end in time."""
        with anyio.move_on_after(within), contextlib.suppress(NotThere):
            await self._engine.wait(run.container)
        return await self._inspect(run.container)

    # -- Ending ------------------------------------------------------------------------------

    async def _end(self, run: Run, reason: str) -> None:
        """End a run, with all it started."""
        with contextlib.suppress(NotThere):
            await self._engine.put_files(run.container, {STOP_FILE: reason.encode()})
        now: Run | None = run
        if run.has_runner:
            deadline = time.monotonic() + _STOP_WITHIN
            while now is not None and not now.over and time.monotonic() < deadline:
                # More than once: a runner that has only just been started does not listen yet.
                await self._engine.kill(run.container, "SIGTERM")
                now = await self._until_over(run, 1.0)
        if now is not None and not now.over:
            await self._engine.kill(run.container)
            now = await self._until_over(run, _END_WITHIN)
        if now is not None and not now.over:
            raise BackendUnavailable("The build container could not be ended.")

    # -- Clearing up -------------------------------------------------------------------------

    async def tidy(self, listed: Inspected) -> None:
        """Remove the container of a build that ended long enough ago; see `sweep`.

        One that runs without a runner is ended when it has taken too long: it has no clock of its
        own, and it may be that no server follows it.
        """
        state, keep = listed["State"], self._settings.keep_builds_for
        limits = {"created": _NEVER_STARTED, "running": self._settings.build_timeout or math.inf}
        age = time.time() - listed["Created"]
        if age <= limits.get(state, keep) or not is_listed_run(listed):
            return
        if state == "running" and listed["Labels"].get(RUNNER_LABEL) == "yes":
            return
        run = await self._inspect(listed["Id"])
        if run is None:
            return
        if run.state == state == "running":
            await self._end(run, too_late(self._settings.build_timeout))
        elif run.fresh or (run.over and time.time() - run.ended > keep):
            await self._engine.remove(run.container, force=False)
