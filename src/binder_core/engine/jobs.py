"""Every task and the timer: performs what the dedup machine commands.

A build belongs to `Jobs`, not to the request that began it, so it outlives its watchers. A watcher
is a position in a journal and a task parked at its bell.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar, assert_never

import anyio
import anyio.abc
import msgspec

from binder_core import builds, events
from binder_core.builds import BuildId, Builds, State
from binder_core.engine.bell import Batch, Bell, Flight, Source
from binder_core.engine.limits import Limits
from binder_core.engine.observer import Observer
from binder_core.errors import BackendUnavailable, BinderError, BuildFailed, LaunchFailed
from binder_core.events import Built, Event, Failed, Launching, Progress, Ready, Waiting
from binder_core.journal import Journal, Told
from binder_core.ordering import FINAL, Phase, log_phase
from binder_core.plugin import Builder, BuildRequest, Launcher, LaunchRequest
from binder_core.resume import END, LaunchCursor, LogCursor, Signer, check_run_id, log_id

T = TypeVar("T")

log = logging.getLogger("binder.engine")

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 8.0


class BuildJob:
    """One attempt at a build: its journal, and the `Report` that the builder writes to.

    Args:
        build_id: The attempt.
        request: What is built.
        jobs: Whose it is.
    """

    def __init__(self, build_id: BuildId, request: BuildRequest, jobs: Jobs) -> None:
        self.id = build_id
        self.request = request
        self.provider = ""
        self.bell = Bell()
        self.rung = float("-inf")
        """When the bell was last rung."""
        self.journal = Journal(cap_bytes=jobs.limits.log_cap_bytes)
        self.built = False
        self.ended = False
        self.heard = 0
        """How many words of the builder have come, those that came again included."""
        self.began = anyio.current_time()
        self.scope = anyio.CancelScope()
        self._jobs = jobs
        self._phase: Phase | None = None
        # Mostly one run. A second one, where the first vanished with the engine below it, is told
        # behind it; its lines are numbered on from here.
        self._runs: dict[str, int] = {}
        self._run_id: str | None = None
        self.tell(Waiting(message="Waiting for the build to start...\n"))

    # The `Report` protocol.

    def waiting(self, message: str) -> None:
        """Tell why the build has not begun yet."""
        self.heard += 1
        self.tell_waiting(message)

    def started(self, run_id: str) -> None:
        """Tell which run of the build is reported."""
        self.heard += 1
        if run_id == self._run_id or self.ended:
            return
        check_run_id(run_id)
        if self._runs and run_id not in self._runs:
            lost = events.log_event(log_phase(self._phase, None), "The build starts again.\n")
            self.tell(lost)
        self._run_id = run_id
        self._runs.setdefault(run_id, self.journal.last_number)
        self._jobs.handle(builds.Started(self.id, run_id))
        self.bell.ring()

    def line(
        self,
        n: int,
        message: str,
        *,
        phase: Phase | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Tell line `n` of the log; one that was told already is dropped."""
        if self._run_id is None:
            raise RuntimeError("a builder must report `started` before its first line")
        self.heard += 1
        number = self._runs[self._run_id] + n
        if self.ended or number <= self.journal.last_number:
            return
        now_in = log_phase(self._phase, phase)
        urgent, self._phase = now_in is not self._phase, now_in
        told = Told(events.log_event(now_in, message, progress), log_id(self._run_id, n))
        self.journal.append(told, number)
        self._jobs.news(self, urgent=urgent)

    # For `Jobs` and the watchers.

    def to_build(self) -> BuildRequest:
        """Return what to ask of the builder: where it broke, the same run once more.

        That one may have ended meanwhile; without its id, a failed build would be built again.
        """
        if self._run_id is None:
            return self.request
        return replace(self.request, follow=self._run_id)

    def tell_waiting(self, message: str) -> None:
        """Tell what the watchers wait for, unless the build has begun."""
        if self._run_id is None and not self.ended:
            self.tell(Waiting(message=message))

    def tell(self, event: Event) -> None:
        """Tell what stands between the lines, or the end."""
        event_id, number = "", None
        last = event.phase is Phase.FAILED
        if event.phase is Phase.BUILT or last:
            self.built, self.ended = not last, True
            if self._run_id is not None:
                number = self.journal.last_number + 1
                n = number - self._runs[self._run_id]
                event_id = log_id(self._run_id, n, last=last)
            elif last:
                event_id = END
        self.journal.append(Told(event, event_id), number)
        self.bell.ring()

    def reader(self, cursor: LogCursor | None) -> Source:
        """Return what a watcher reads who has seen `cursor`, or nothing."""
        return _BuildReader(self, cursor)

    def position_after(self, cursor: LogCursor) -> int | None:
        """Return where a watcher goes on who has seen `cursor`; None if that is not known yet."""
        base = self._runs.get(cursor.run_id)
        if base is not None:
            number = base + cursor.n
            if self.journal.last_number >= number or self.ended:
                return self.journal.position_after(number)
            return None  # this server has not read so far itself
        if self._run_id is None:
            # The image was there and no run: the outcome is all that is left to tell.
            return len(self.journal) - 1 if self.ended else None
        return 0  # another run: news from its first word on


class _BuildReader:
    def __init__(self, job: BuildJob, cursor: LogCursor | None) -> None:
        self.bell = job.bell
        self._job = job
        self._cursor = cursor
        self._position = 0 if cursor is None else None

    def read(self) -> Batch | None:
        job = self._job
        if self._position is None and self._cursor is not None:
            self._position = job.position_after(self._cursor)
        if self._position is None:
            return ()
        batch, self._position = job.journal.read(self._position)
        return batch or (None if job.ended else ())


class LaunchJob:
    """One launch: what was told of it, and the `LaunchReport` that the launcher writes to.

    Args:
        cursor: Where it stands: at its beginning, or where another server left it.
        request: What is launched.
        spec: ``<provider>/<spec>``, which its event ids are good for.
        signer: Makes the ids.
    """

    def __init__(
        self, cursor: LaunchCursor, request: LaunchRequest, spec: str, signer: Signer
    ) -> None:
        self.request = request
        self.bell = Bell()
        self.ended = False
        self.heard = 0
        """How many words of the launcher have come."""
        self.retries = 0
        self._cursor = cursor
        self._first = cursor.n
        self._told: list[Told] = []
        self._spec = spec
        self._signer = signer

    def line(self, message: str) -> None:
        """Tell the person who waits what is going on."""
        self.heard += 1
        self.tell_launching(message)

    def tell_launching(self, message: str) -> None:
        """Tell what goes on, unless the launch has ended."""
        if not self.ended:
            self.tell(Launching(message=message))

    def tell(self, event: Event) -> None:
        """Tell an event of the launch."""
        self.ended = event.phase in FINAL
        self._cursor = msgspec.structs.replace(self._cursor, n=self._cursor.n + 1, last=self.ended)
        event_id = self._signer.launch_id(self._cursor, self._spec)
        self._told.append(Told(event, event_id))
        self.bell.ring()

    def reader(self, n: int) -> Source:
        """Return what a watcher reads who has seen the first `n` events of the launch."""
        return _LaunchReader(self, n)

    @property
    def ready(self) -> bool:
        """Return whether it has come to a good end."""
        return bool(self._told) and self._told[-1].phase is Phase.READY

    def after(self, n: int) -> list[Told]:
        """Return what was told behind event `n`."""
        return self._told[max(0, n - self._first) :]


class _LaunchReader:
    def __init__(self, job: LaunchJob, n: int) -> None:
        self.bell = job.bell
        self._job = job
        self._n = n

    def read(self) -> Batch | None:
        batch = self._job.after(self._n)
        self._n += len(batch)
        return batch or (None if self._job.ended else ())


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
        self._builder = builder
        self._launcher = launcher
        self._observer = observer
        self._builds: dict[BuildId, BuildJob] = {}
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
        self._ring_all()

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

    def leave(self, job: BuildJob) -> None:
        """Tell that a watcher went away."""
        self.handle(builds.Left(job.id))

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

    def news(self, job: BuildJob, *, urgent: bool) -> None:
        """Wake the watchers: now, or together with others if they were woken just now."""
        now = anyio.current_time()
        if urgent or now - job.rung >= self.limits.batch:
            job.rung = now
            job.bell.ring()
        elif job not in self._dirty:
            self._dirty.add(job)
            self._poured.ring()
        if self.limits.build_silence is not None:
            self.handle(builds.Spoke(job.id))

    # -- The machine's commands -------------------------------------------------------------------

    def handle(self, fact: builds.Fact) -> BuildJob | None:
        """Tell the machine a fact and do what it says; return the job to follow, if any."""
        followed = None
        before = self.machine.deadline()
        for command in self.machine.handle(fact, anyio.current_time()):
            match command:
                case builds.Open(build_id, request):
                    self._builds[build_id] = BuildJob(build_id, request, self)
                case builds.Start(build_id):
                    self._tasks.start_soon(self._build, self._builds[build_id])
                case builds.Follow(build_id):
                    followed = self._builds[build_id]
                case builds.Wait(build_id, place):
                    message = f"Waiting for a free build slot: number {place} in the queue\n"
                    self._builds[build_id].tell_waiting(message)
                case builds.Stop(build_id, _):
                    self._tasks.start_soon(self._stop, self._builds[build_id])
                case builds.Close(build_id, reason):
                    job = self._builds[build_id]
                    self._failed(job, BuildFailed(reason))
                    job.scope.cancel()
                case builds.Forget(build_id):
                    del self._builds[build_id]
                case _:
                    assert_never(command)
        if self.machine.deadline() != before:
            self._timer.ring()
        return followed

    async def _build(self, job: BuildJob) -> None:
        with job.scope:
            try:
                await self.persist(
                    lambda: self._builder.build(job.to_build(), job),
                    tell=job.tell_waiting,
                    progress=lambda: job.heard,
                )
            except Exception as error:  # noqa: BLE001 - whatever it is, the watchers hear of it
                build = self.machine.get(job.id)
                if build is not None and build.state is State.STOPPING:
                    self._failed(job, BuildFailed(build.stop_reason))
                else:
                    self._failed(job, error)
                self.handle(builds.Failed(job.id))
            else:
                job.tell(
                    Built(message=f"Built image {job.request.image}\n", image=job.request.image)
                )
                self._observe_build(job)
                self.handle(builds.Succeeded(job.id))

    def _failed(self, job: BuildJob, error: Exception) -> None:
        job.tell(failed_event(error))
        self._observe_build(job)

    def _observe_build(self, job: BuildJob) -> None:
        self._observer.build_ended(
            ok=job.built,
            seconds=anyio.current_time() - job.began,
            provider=job.provider,
            repo_url=job.request.repo_url,
        )

    async def _stop(self, job: BuildJob) -> None:
        try:
            await self.persist(lambda: self._builder.stop(job.request))
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
        heapq.heappush(self._alarms, (when, next(self._count), do))
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
        """Ring for lines that came while others were pouring in."""
        while True:
            if not self._dirty:
                await self._poured.wait()
            await anyio.sleep(self.limits.batch)
            now = anyio.current_time()
            dirty, self._dirty = self._dirty, set()
            for job in dirty:
                job.rung = now
                job.bell.ring()

    async def _beat(self) -> None:
        """Ring everywhere: who wakes and finds nothing new sends a heartbeat."""
        while True:
            await anyio.sleep(self.limits.heartbeat)
            self._ring_all()

    def _ring_all(self) -> None:
        for held in (self._builds, self._launches, self._flights):
            for job in held.values():
                job.bell.ring()


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
