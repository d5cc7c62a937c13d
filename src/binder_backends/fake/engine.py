"""The engine below the fakes: what Docker or a cluster is for the real ones."""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import anyio
from anyio.lowlevel import checkpoint

from binder_backends.fake.clock import FakeClock
from binder_backends.fake.scripts import LaunchScript, Script
from binder_core.plugin import BackendUnavailable, BuildRequest, LaunchRequest


@dataclass(eq=False, slots=True)
class Run:
    """One run of a build. What it has come to is a function of the clock."""

    id: str
    request: BuildRequest
    script: Script
    begins: float
    """When it leaves the queue."""
    asked: float
    """When it was put there."""
    stopped: float | None = None
    """When somebody stopped it."""
    stop_reason: str = ""

    @property
    def name(self) -> str:
        """Return the name of the build."""
        return self.request.name

    @property
    def end(self) -> float:
        """Return when it ends; infinity if never."""
        after = self.script.time_of_end
        planned = math.inf if after is None else self.begins + after
        return planned if self.stopped is None else min(planned, self.stopped)

    def begun(self, now: float) -> bool:
        """Return whether it has left the queue."""
        return self.begins <= min(now, self.end)

    def ended(self, now: float) -> bool:
        """Return whether it is over."""
        return now >= self.end

    def built(self, now: float) -> bool:
        """Return whether its image is there."""
        return self.ended(now) and not self.failure(now)

    def failure(self, now: float) -> str:
        """Return why there will be no image; empty if nobody knows of a reason."""
        if not self.ended(now):
            return ""
        if self.stopped is not None and self.end == self.stopped:
            return self.stop_reason
        return self.script.fails

    def lines(self, now: float) -> int:
        """Return how many lines its log has."""
        return self.script.lines_at(min(now, self.end), self.begins)

    def next_change(self, now: float) -> float:
        """Return when there will be something new, if nobody stops it; infinity if never."""
        if now < self.begins:
            marks = [self.asked + mark for mark in _spread(self.script.waiting, self.script.delay)]
            return min([mark for mark in marks if mark > now] + [self.begins])
        told = self.lines(now)
        if told < self.script.total:
            return min(self.begins + self.script.time_of(told + 1), self.end)
        return self.end

    def queue(self, now: float) -> int:
        """Return how many of the words of its script about the queue are to be told."""
        script = self.script
        return sum(self.asked + mark <= now for mark in _spread(script.waiting, script.delay))


@dataclass(eq=False, slots=True)
class Server:
    """One server."""

    request: LaunchRequest
    script: LaunchScript
    asked: float
    """When it was asked for."""

    @property
    def settled(self) -> float:
        """Return when it answers or fails; infinity if never."""
        return self.asked + self.script.delay if self.script.ends else math.inf

    def messages(self, now: float) -> int:
        """Return how many of its script's messages are to be told."""
        script = self.script
        return sum(self.asked + mark <= now for mark in _spread(script.messages, script.delay))

    def next_change(self, now: float) -> float:
        """Return when there will be something new; infinity if never."""
        script = self.script
        marks = [self.asked + mark for mark in _spread(script.messages, script.delay)]
        return min([mark for mark in marks if mark > now] + [self.settled])


def _spread(words: Sequence[str], delay: float) -> list[float]:
    return [delay * index / len(words) for index in range(len(words))]


@dataclass(eq=False)
class FakeEngine:
    """What the fakes of several servers share: runs, their logs, images, notebook servers.

    It outlives the fakes: a fake made anew on the same engine is a server that came back. A run
    that nobody watches goes on. Nothing is ever forgotten, unless a test asks for it.
    """

    clock: Callable[[], float] = time.monotonic
    """Seconds, from anywhere."""
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    """What waits on that clock; that of a `FakeClock` if the clock is one."""
    ident: str = field(default_factory=lambda: secrets.token_hex(4))
    """What its run ids start with: another engine must not have the same."""

    scripts: dict[str, Script | Sequence[Script]] = field(default_factory=dict)
    """What a test plans for builds; it goes before the builders' settings, and is keyed alike."""
    launch_scripts: dict[str, LaunchScript | Sequence[LaunchScript]] = field(default_factory=dict)
    """The same for launches."""
    images: set[str] = field(default_factory=set)
    """Images that exist beside those built here; ``*`` and ``?`` as in file names."""

    runs: list[Run] = field(default_factory=list)
    """All runs, oldest first."""
    servers: dict[str, Server] = field(default_factory=dict)
    """The servers that are there or coming, by name."""
    preloaded: list[str] = field(default_factory=list)
    """Images that were asked to be wherever servers start, in that order."""
    runs_started: Counter[str] = field(default_factory=Counter)
    """By name, those that never left the queue included."""
    servers_started: Counter[str] = field(default_factory=Counter)
    """By name."""
    exists_calls: Counter[str] = field(default_factory=Counter)
    """By image."""
    watching: Counter[str] = field(default_factory=Counter)
    """Calls of `build` and `launch` that wait right now, by name."""
    told: dict[str, int] = field(default_factory=dict)
    """The highest line told to anybody, by run id."""

    def __post_init__(self) -> None:
        if isinstance(self.clock, FakeClock):
            self.sleep = self.clock.sleep
        self._cuts = 0
        self._down = ""
        self._faults: Counter[tuple[str, str]] = Counter()
        self._waiters: set[anyio.Event] = set()

    # -- What tests do to it -----------------------------------------------------------------

    def cut(self) -> None:
        """Break the connection of every call under way. What runs goes on."""
        self._cuts += 1
        self.changed()

    def disconnect(self, message: str = "the fake engine does not answer") -> None:
        """Break every connection, and let none in until `reconnect`. What runs goes on."""
        self._down = message
        self.cut()

    def reconnect(self) -> None:
        """Let calls in again."""
        self._down = ""

    def forget(self, run_id: str) -> None:
        """Sweep a run that ended, as an operator or a cluster does; its image stays."""
        for run in self.runs:
            if run.id == run_id and run.ended(self.clock()):
                if run.built(self.clock()):
                    self.images.add(run.request.image)
                self.runs.remove(run)
                return
        raise LookupError(f"no run {run_id!r} has ended here")

    def remove_image(self, image: str) -> None:
        """Delete an image, wherever it came from."""
        self.images.discard(image)
        for run in [run for run in self.runs if run.request.image == image]:
            if run.built(self.clock()):
                self.runs.remove(run)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as `condition` holds, asked anew whenever a fake did something.

        For conditions on the counters, on `told` and `watching`.
        """
        while not condition():
            await self.wait(math.inf)
        await checkpoint()

    def under_way(self, name: str) -> Run | None:
        """Return the run of this name that has not ended."""
        now = self.clock()
        return next((run for run in self.runs if run.name == name and not run.ended(now)), None)

    # -- What the fakes do with it -----------------------------------------------------------

    def reach(self) -> int:
        """Return a ticket for `hold`.

        Raises:
            BackendUnavailable: The engine is disconnected.
        """
        if self._down:
            raise BackendUnavailable(self._down)
        return self._cuts

    def hold(self, ticket: int) -> None:
        """Return if nothing cut the connection since.

        Raises:
            BackendUnavailable: Something did.
        """
        if ticket != self._cuts:
            raise BackendUnavailable(self._down or "the connection to the fake engine broke")

    def fault(self, kind: str, key: str, count: int) -> bool:
        """Return whether this call is one of the first `count` of its kind, which shall break."""
        self._faults[kind, key] += 1
        return self._faults[kind, key] <= count

    def has_image(self, image: str) -> bool:
        """Return whether `image` is there."""
        now = self.clock()
        return any(fnmatchcase(image, pattern) for pattern in self.images) or any(
            run.request.image == image and run.built(now) for run in self.runs
        )

    def find_run(self, request: BuildRequest) -> Run | None:
        """Return the run to follow while it is known, else the one under way."""
        if request.follow is not None:
            for run in self.runs:
                if run.id == request.follow and run.name == request.name:
                    return run
        return self.under_way(request.name)

    def start_run(self, request: BuildRequest, script: Script) -> Run:
        """Return a new run."""
        now = self.clock()
        self.runs_started[request.name] += 1
        run_id = f"{self.ident}-{self.runs_started.total()}"
        run = Run(run_id, request, script, begins=now + script.delay, asked=now)
        self.runs.append(run)
        self.changed()
        return run

    def start_server(self, request: LaunchRequest, script: LaunchScript) -> Server:
        """Return a new server."""
        self.servers_started[request.name] += 1
        server = self.servers[request.name] = Server(request, script, asked=self.clock())
        self.changed()
        return server

    async def wait(self, until: float) -> None:
        """Return at that time on the clock, or earlier: when anything changed since the call."""
        # One event for each who waits, made where it is waited for: an engine may outlive its
        # event loop. It is known before anybody else gets a turn, so that no change is missed.
        waiter = anyio.Event()
        self._waiters.add(waiter)

        async def alarm() -> None:
            await self.sleep(max(0.0, until - self.clock()))
            waiter.set()

        try:
            async with anyio.create_task_group() as tasks:
                if until < math.inf:
                    tasks.start_soon(alarm)
                await waiter.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._waiters.discard(waiter)

    def changed(self) -> None:
        """Wake all who wait for a change."""
        for waiter in self._waiters:
            waiter.set()
