"""Every task and the timer: performs what the dedup machine commands.

A build belongs to `Jobs`, not to the request that began it, so it outlives its watchers. A watcher
is a position in a journal and a task parked at its bell.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Generator, Hashable
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar, assert_never

import anyio
import anyio.abc
import anyio.lowlevel

from binder_core import builds
from binder_core.builds import BuildId, Builds
from binder_core.engine.bell import Bell, Flight
from binder_core.engine.build_job import BuildJob
from binder_core.engine.launch_job import LaunchJob
from binder_core.engine.limits import Limits
from binder_core.engine.observer import Observer
from binder_core.errors import BackendUnavailable, BinderError, BuildFailed, LaunchFailed
from binder_core.events import Built, Failed, Ready
from binder_core.plugin import Builder, BuildRequest, Launcher, LaunchRequest
from binder_core.resume import LaunchCursor, Signer

T = TypeVar("T")

log = logging.getLogger("binder.engine")

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 8.0
_ENOUGH = 500
"""So many lines of a build wait for no others. To make them costs more than to write them, and
clients that read them meanwhile are not kept waiting for the end."""


class Jobs:
    """Owns the tasks of builds, launches and questions, and the timer.

    Args:
        builder: Makes images.
        launcher: Starts servers; None where there is none.
        limits: What it all may take.
        observer: Is told of what ended.
    """

    def __init__(
        self, *, builder: Builder, launcher: Launcher | None, limits: Limits, observer: Observer
    ) -> None:
        self.limits = limits
        self.draining = False
        self.machine = Builds(limits.of_builds())
        self._heeds_silence = limits.build_silence is not None
        self._builder = builder
        self._launcher = launcher
        self._observer = observer
        self._builds: dict[BuildId, BuildJob] = {}
        self._apart: set[BuildJob] = set()
        self._launches: dict[str, LaunchJob] = {}
        self._flights: dict[Hashable, Flight[Any]] = {}
        self._dirty: set[BuildJob] = set()
        self._poured = Bell()
        self._timer = Bell()
        self._alarms: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()
        self._stack = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup

    async def __aenter__(self) -> Self:
        """Start the timer."""
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        for service in (self._keep_time, self._pour, self._beat):
            self._tasks.start_soon(service)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all tasks. Builds go on where their builder lets them."""
        self.drain()
        self._tasks.cancel_scope.cancel()
        # The body's exception is none of the task group's, which would wrap it.
        await self._stack.__aexit__(None, None, None)

    def drain(self) -> None:
        """Let every stream end without a last event, and begin nothing new."""
        self.draining = True
        for bell in self._bells():
            bell.ring()

    @property
    def launching(self) -> int:
        """Return how many launches are under way."""
        return sum(not job.ended for job in self._launches.values())

    # -- What a request's story asks for ----------------------------------------------------------

    def once(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> Flight[T]:
        """Return the answer under way to `question`, which is asked now if nobody does.

        Args:
            question: What makes two questions the same one.
            ask: Finds the answer.
        """
        flight = self._flights.get(question)
        if flight is None:
            flight = self._flights[question] = Flight(anyio.current_time())

            async def fly(flight: Flight[T] = flight) -> None:
                try:
                    await flight.fly(ask)
                finally:
                    del self._flights[question]

            self._tasks.start_soon(fly)
        return flight

    def join(self, request: BuildRequest, *, looked: float, provider: str) -> BuildJob:
        """Return the build of `request.name`, begun now if there is none. `leave` it at the end.

        Args:
            request: What to build.
            looked: When it was found out whether the image exists.
            provider: For the observer.
        """
        job = self.handle(builds.Joined(request, looked))
        assert job is not None  # noqa: S101 - who joins follows
        job.provider = job.provider or provider
        return job

    def job(self, build_id: BuildId) -> BuildJob | None:
        """Return what is told of an attempt, while that is remembered."""
        return self._builds.get(build_id)

    @contextmanager
    def read_apart(self, request: BuildRequest) -> Generator[BuildJob]:
        """Return what is told of a run that nobody here follows, read while the context lasts.

        It is none of the machine's builds: who only reads shall neither start a build, nor be taken
        for proof that there is an image.

        Args:
            request: Names the run to follow, and says that the image exists.
        """
        job = BuildJob(
            BuildId(request.name, 0),
            request,
            log_cap_bytes=self.limits.log_cap_bytes,
            on_start=lambda *_: None,
            on_news=lambda job: job.bell.ring(),
        )
        self._apart.add(job)
        self._tasks.start_soon(self._read, job)
        try:
            yield job
        finally:
            self._apart.discard(job)
            job.scope.cancel()

    async def _read(self, job: BuildJob) -> None:
        with job.scope:
            try:
                await self._persist_build(job, lambda: self._builder.build(job.request, job))
                built = job.begun and await self._builder.exists(job.request.image)
            except Exception as error:  # noqa: BLE001 - whatever it is, who reads hears of it
                job.end(failed_event(error), of_run=isinstance(error, BuildFailed))
                return
            image = job.request.image
            if built:
                job.end(Built(message=f"Built image {image}\n", image=image), of_run=True)
            else:
                gone = "The run has ended, and nobody knows how."
                job.end(Failed(message=gone), of_run=False)

    def leave(self, job: BuildJob) -> None:
        """Tell that a watcher went away."""
        # Rule 7: it changes nothing, whenever it happens. There is nothing to do.
        self.machine.handle(builds.Left(job.id), 0.0)

    def launch(
        self,
        cursor: LaunchCursor,
        request: LaunchRequest,
        ready: Callable[[str], Ready],
        *,
        spec: str,
        provider: str,
        signer: Signer,
    ) -> LaunchJob:
        """Return the launch of `request.name`, begun now if there is none.

        Args:
            cursor: Where it stands.
            request: What to launch.
            ready: Makes the last event of the server's URL.
            spec: ``<provider>/<spec>``, which the event ids are good for.
            provider: For the observer.
            signer: Makes the ids.
        """
        job = self._launches.get(request.name)
        if job is None:
            job = self._launches[request.name] = LaunchJob(cursor, request, spec, signer)
            self._tasks.start_soon(self._launch, job, ready, provider)
        return job

    def stop(self, key: str, reason: str) -> bool:
        """End the build of `key`; return whether there was one."""
        live = self.machine.live(key) is not None
        self.handle(builds.StopAsked(key, reason))
        return live

    async def ended(self, build_id: BuildId) -> None:
        """Return when that attempt has ended."""
        while (job := self._builds.get(build_id)) is not None and not job.ended:
            await job.bell.wait()

    def _started(self, job: BuildJob, run_id: str) -> None:
        self.handle(builds.Started(job.id, run_id))

    def _news(self, job: BuildJob) -> None:
        """Wake the watchers in a moment, together with those of other builds."""
        job.untold += 1
        if job.untold == 1:
            self._dirty.add(job)
            self._poured.ring()
        elif job.untold == _ENOUGH:
            self._dirty.discard(job)
            self._tell(job)
        if self._heeds_silence:
            self.handle(builds.Spoke(job.id))

    # -- The machine's commands -------------------------------------------------------------------

    def handle(self, fact: builds.Fact) -> BuildJob | None:
        """Tell the machine a fact and do what it says; return the job to follow, if any."""
        followed = None
        before = self.machine.deadline()
        for command in self.machine.handle(fact, anyio.current_time()):
            match command:
                case builds.Open(build_id, request):
                    self._builds[build_id] = BuildJob(
                        build_id,
                        request,
                        log_cap_bytes=self.limits.log_cap_bytes,
                        on_start=self._started,
                        on_news=self._news,
                    )
                case builds.Start(build_id):
                    self._builds[build_id].may_start.set()
                    self._work(self._builds[build_id])
                case builds.Look(build_id):
                    self._work(self._builds[build_id])
                case builds.Follow(build_id):
                    followed = self._builds[build_id]
                case builds.Wait(build_id, place):
                    message = f"Waiting for a free build slot: number {place} in the queue\n"
                    self._builds[build_id].tell_waiting(message)
                case builds.Stop(build_id, reason):
                    self._tasks.start_soon(self._stop, self._builds[build_id], reason)
                case builds.Close(build_id, reason):
                    job = self._builds[build_id]
                    self._failed(job, BuildFailed(reason), of_run=False)
                    job.scope.cancel()
                case builds.Forget(build_id):
                    del self._builds[build_id]
                case _:
                    assert_never(command)
        if self.machine.deadline() != before:
            self._timer.ring()
        return followed

    def _work(self, job: BuildJob) -> None:
        """Give a build its task, if it has none."""
        if not job.tasked:
            job.tasked = True
            self._tasks.start_soon(self._build, job)

    async def _build(self, job: BuildJob) -> None:
        async def attempt() -> None:
            build = self.machine.get(job.id)
            if build is not None and build.stop_reason and not job.begun:
                # Nobody knows of a run: another call might start the very build that was stopped.
                raise BuildFailed(build.stop_reason)
            await self._builder.build(job.to_build(), job)

        with job.scope:
            try:
                if job.may_start.is_set() or not await self._look(job):
                    if not job.begun:
                        await job.may_start.wait()
                    await self._persist_build(job, attempt)
            except Exception as error:  # noqa: BLE001 - whatever it is, the watchers hear of it
                if self.machine.is_queued(job.id):
                    # The run that it looked for was there, and came to nothing before it began.
                    self.handle(builds.StopAsked(job.id.key, str(error)))
                    return
                self._failed(job, error, of_run=isinstance(error, BuildFailed))
                self.handle(builds.Failed(job.id))
            else:
                image = job.request.image
                job.end(Built(message=f"Built image {image}\n", image=image), of_run=True)
                self._observe_build(job)
                self.handle(builds.Succeeded(job.id))

    async def _look(self, job: BuildJob) -> bool:
        """Follow a run of a queued build if there is one; return whether its image is there now.

        Raises:
            BuildFailed: The run came to a bad end.
            BackendUnavailable: The engine broke, and stayed away, while it was followed.
        """

        async def attempt() -> None:
            # Of one that was found it has to be known whether the image is there; for all others
            # no run may be started before their turn has come.
            found = job.begun
            request = job.to_build() if found else replace(job.to_build(), image_exists=True)
            await self._builder.build(request, job)

        try:
            await self._persist_build(job, attempt)
        except BuildFailed:
            raise
        except Exception as error:
            if job.begun:
                raise
            # Nobody knows: it waits for its turn, and hears then what is wrong.
            log.warning("looking for a run of %s failed: %r", job.request.name, error)
            return False
        if not job.begun:
            job.looked_in_vain = True
            job.bell.ring()
            return False
        # It was told that the image is there, which it may have believed.
        return await self.persist(lambda: self._builder.exists(job.request.image))

    async def _persist_build(self, job: BuildJob, attempt: Callable[[], Awaitable[None]]) -> None:
        await self.persist(attempt, tell=job.tell_waiting, progress=lambda: job.heard)

    def _failed(self, job: BuildJob, error: Exception, *, of_run: bool) -> None:
        job.end(failed_event(error), of_run=of_run)
        self._observe_build(job)

    def _observe_build(self, job: BuildJob) -> None:
        self._observer.build_ended(
            ok=job.built,
            seconds=anyio.current_time() - job.began,
            provider=job.provider,
            repo_url=job.request.repo_url,
        )

    async def _stop(self, job: BuildJob, reason: str) -> None:
        try:
            await self.persist(lambda: self._builder.stop(job.request, reason))
        except Exception:
            # The machine gives the attempt up when its grace is over.
            log.exception("stopping %s failed", job.request.name)

    async def _launch(self, job: LaunchJob, ready: Callable[[str], Ready], provider: str) -> None:
        launcher = self._launcher
        assert launcher is not None  # noqa: S101 - `Binder` refuses to launch without one
        began = anyio.current_time()
        attempts = itertools.count(-1)

        async def attempt() -> str:
            job.retries = next(attempts) + 1
            return await launcher.launch(job.request, job)

        try:
            with anyio.fail_after(self.limits.launch_timeout):
                url = await self.persist(
                    attempt, tell=job.tell_launching, progress=lambda: job.heard
                )
        except TimeoutError:
            seconds = self.limits.launch_timeout
            with anyio.move_on_after(self.limits.stop_grace):
                await self._give_up(launcher, job.request)
            job.tell(failed_event(LaunchFailed(f"The server did not start within {seconds:g} s.")))
        except Exception as error:  # noqa: BLE001 - whatever it is, the watchers hear of it
            job.tell(failed_event(error))
            if isinstance(error, BackendUnavailable):
                # It may well come up: with a token that nobody was told.
                self._tasks.start_soon(self._clean_up, launcher, job.request)
        else:
            job.tell(ready(url))
        self._observer.launch_ended(
            ok=job.ready,
            seconds=anyio.current_time() - began,
            retries=job.retries,
            provider=provider,
            repo_url=job.request.repo_url,
        )
        self._at(
            anyio.current_time() + self.limits.keep_ended,
            lambda: self._launches.pop(job.request.name, None),
        )

    async def _give_up(self, launcher: Launcher, request: LaunchRequest) -> None:
        try:
            await launcher.stop(request)
        except Exception:
            log.exception("stopping %s failed", request.name)

    async def _clean_up(self, launcher: Launcher, request: LaunchRequest) -> None:
        with anyio.move_on_after(self.limits.keep_ended):
            while True:
                try:
                    await launcher.stop(request)
                except BackendUnavailable:
                    await anyio.sleep(_LONGEST_DELAY)
                    continue
                except Exception:
                    log.exception("stopping %s failed", request.name)
                return

    async def persist(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        tell: Callable[[str], None] = lambda _: None,
        progress: Callable[[], object] = lambda: None,
    ) -> T:
        """Return what `attempt` does, tried again while the backend is broken.

        "Nothing is reported `failed` because a connection, a watch or this server broke."

        Args:
            attempt: What to try.
            tell: Says that it is tried again.
            progress: Changes with every word from the backend: patience begins anew.
        """
        delay, broke, seen = _FIRST_DELAY, None, progress()
        while True:
            try:
                return await attempt()
            except BackendUnavailable as error:
                now = anyio.current_time()
                if broke is None or seen != progress():
                    delay, broke, seen = _FIRST_DELAY, now, progress()
                if now + delay - broke > self.limits.retry_for:
                    raise
                log.warning("trying again in %g s: %s", delay, error)
                tell(f"{error} Trying again...\n")
            await anyio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    # -- The timer --------------------------------------------------------------------------------

    def _at(self, when: float, do: Callable[[], object]) -> None:
        alarm = (when, next(self._count), do)
        heapq.heappush(self._alarms, alarm)
        if self._alarms[0] is alarm:
            self._timer.ring()

    async def _keep_time(self) -> None:
        while True:
            deadlines = [alarm[0] for alarm in self._alarms[:1]]
            if (machines := self.machine.deadline()) is not None:
                deadlines.append(machines)
            due = min(deadlines, default=float("inf"))
            with anyio.move_on_at(due):
                await self._timer.wait()
                continue
            now = anyio.current_time()
            while self._alarms and self._alarms[0][0] <= now:
                heapq.heappop(self._alarms)[2]()
            self.handle(builds.Ticked())

    async def _pour(self) -> None:
        """Ring for lines, in rounds.

        What a round of writes took says how far behind the server is: the longer, the longer lines
        wait for others, so that writing leaves most of the time to everything else.
        """
        rung, patience = -math.inf, 0.0
        while True:
            if not self._dirty:
                await self._poured.wait()
            await anyio.sleep_until(max(anyio.current_time() + self.limits.burst, rung + patience))
            rung = anyio.current_time()
            dirty, self._dirty = self._dirty, set()
            if not dirty:
                continue  # each of them had enough lines not to wait
            for job in dirty:
                self._tell(job)
            # Those who were woken write before this task goes on.
            await anyio.lowlevel.checkpoint()
            patience = self.limits.patience(anyio.current_time() - rung)

    def _tell(self, job: BuildJob) -> None:
        job.untold = 0
        job.bell.ring()

    async def _beat(self) -> None:
        """Ring everywhere: who wakes and finds nothing new sends a heartbeat."""
        while True:
            await anyio.sleep(self.limits.heartbeat)
            for bell in self._bells():
                bell.beat()

    def _bells(self) -> list[Bell]:
        held = (self._builds, self._launches, self._flights)
        bells = [job.bell for jobs in held for job in jobs.values()]
        return bells + [job.bell for job in self._apart]


def failed_event(error: Exception) -> Failed:
    """Return the last event that tells a person of `error`.

    What is no `BinderError` is a fault of ours: it is logged, and its text stays here.
    """
    match error:
        case BuildFailed():
            return Failed(message=str(error))
        case BinderError():
            return Failed(message=str(error), status_code=error.status)
        case _:
            log.error("internal error", exc_info=error)
            return Failed(
                message="Internal error: the operator of this server finds it in the log.",
                status_code=500,
            )
