"""The dedup machine: what happened goes in, what to do comes out.

The rules it keeps, whatever happens in whatever order:

- One build per key at a time, however many watchers, servers and retries. The second who asks for
  a key follows the build that is there.
- A watcher that leaves changes nothing for the others. The last one leaving does not stop a build;
  only `StopAsked` and the limits do.
- Word about a finished attempt never touches its successor: facts name an attempt, `BuildId`.
- No build is started while `BuildLimits.max_builds` run; it queues, first come, first served, and
  hears of its place when it changes. A watcher takes no slot. Nor does who asks for a run that is
  under way elsewhere, or was: each that queues has the builder look for one (`Look`), and leaves
  the queue when it is found. An id that somebody made up finds none, and gets nobody past it.
- An attempt that ended is remembered for a while, so that those who reconnect hear the rest.

Which state may follow which is `TABLE`, run by `transitions.Machine`; what follows from a move is
a ``match`` below. The machine has no clock: each fact comes with the time, and `Builds.deadline`
says when `Ticked` is due.
"""

from __future__ import annotations

import enum
import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias, assert_never

import transitions

from binder_core.errors import IllegalTransition
from binder_core.plugin import BuildRequest


class State(enum.Enum):
    """Where an attempt at a build stands."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    BUILT = "built"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Return whether nothing can follow."""
        return self in _ENDED


_ENDED: Final = frozenset({State.BUILT, State.FAILED})

TABLE: Final = (
    {"trigger": "start", "source": State.QUEUED, "dest": State.RUNNING},
    {"trigger": "succeed", "source": [State.RUNNING, State.STOPPING], "dest": State.BUILT},
    {"trigger": "fail", "source": [State.RUNNING, State.STOPPING], "dest": State.FAILED},
    {"trigger": "stop", "source": State.QUEUED, "dest": State.FAILED},
    {"trigger": "stop", "source": State.RUNNING, "dest": State.STOPPING},
    {"trigger": "stop", "source": State.STOPPING, "dest": "="},
    {"trigger": "abandon", "source": State.STOPPING, "dest": State.FAILED},
)
"""Every legal move."""


def machine(model: object = None) -> transitions.Machine:
    """Return the table as a machine, e.g. to draw it or to check a model against it."""
    return transitions.Machine(
        model=model,
        states=State,
        transitions=list(TABLE),
        initial=State.QUEUED,
        auto_transitions=False,
    )


# A trigger of the library costs 18 µs, a model 64 µs. Its machine owns the table; we read the moves
# from it once. A test lets both judge every state and trigger.
_MOVES: Final[dict[tuple[State, str], State]] = {
    (State[str(move.source)], event.name): State[str(move.dest)]
    for event in machine().events.values()
    for moves in event.transitions.values()
    for move in moves
}


@dataclass(frozen=True, slots=True)
class BuildId:
    """One attempt at a build."""

    key: str
    """What is built: the build's name."""
    attempt: int
    """Which try, counted from 1 over all keys."""


# -- Facts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """Somebody wants to watch the build of `request.name`."""

    request: BuildRequest
    looked: float
    """When it was found out whether the image exists: a build that ended since is news."""


@dataclass(frozen=True, slots=True)
class Left:
    """A watcher of this attempt went away."""

    id: BuildId


@dataclass(frozen=True, slots=True)
class Started:
    """The attempt turned out to be this run."""

    id: BuildId
    run_id: str


@dataclass(frozen=True, slots=True)
class Spoke:
    """The build said something."""

    id: BuildId


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The image exists."""

    id: BuildId


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no image."""

    id: BuildId


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody with the right to do so wants the build of `key` to end."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


Fact: TypeAlias = Joined | Left | Started | Spoke | Succeeded | Failed | StopAsked | Ticked


# -- Commands ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Begin the journal of a new attempt."""

    id: BuildId
    request: BuildRequest


@dataclass(frozen=True, slots=True)
class Start:
    """Let the builder start or find the build."""

    id: BuildId


@dataclass(frozen=True, slots=True)
class Look:
    """Let the builder find a run of the build that there is already, and start none."""

    id: BuildId


@dataclass(frozen=True, slots=True)
class Follow:
    """Let who joined read the journal of this attempt."""

    id: BuildId


@dataclass(frozen=True, slots=True)
class Wait:
    """Tell the attempt's watchers its place in the queue, from 1."""

    id: BuildId
    place: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Let the builder end the build."""

    id: BuildId
    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """Tell the attempt's watchers that it failed, and let go of it: nobody else will."""

    id: BuildId
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the journal."""

    id: BuildId


Command: TypeAlias = Open | Start | Look | Follow | Wait | Stop | Close | Forget


# -- The machine ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLimits:
    """What builds may take. Durations are seconds; None is no limit."""

    max_builds: int | None = None
    """How many may be started. Runs that others started can be followed beside them."""
    max_age: float | None = None
    """From start to end."""
    max_silence: float | None = None
    """Without a line."""
    stop_grace: float = 30.0
    """From `Stop` until the attempt is given up."""
    keep_ended: float = 300.0
    """For which an ended attempt can be joined again."""


@dataclass(slots=True)
class Build:
    """An attempt, as it stands now."""

    id: BuildId
    request: BuildRequest
    state: State = State.QUEUED
    since: float = 0.0
    """When it came into its state."""
    run_id: str | None = None
    watchers: int = 0
    spoke: float = 0.0
    """When it last said something."""
    stop_reason: str = ""
    place: int = field(default=0, repr=False)
    """Its place in the queue, as last told."""


_REMEMBERED_FACTS: Final = 16


class Builds:
    """All builds of one server, and the only door to them: `handle`.

    Args:
        limits: What builds may take.
    """

    def __init__(self, limits: BuildLimits | None = None) -> None:
        self._limits = limits or BuildLimits()
        self._builds: dict[BuildId, Build] = {}
        self._latest: dict[str, Build] = {}
        self._by_run: dict[tuple[str, str], Build] = {}
        self._queue: OrderedDict[BuildId, Build] = OrderedDict()
        self._running = 0
        self._attempts = 0
        self._alarms: list[tuple[float, int, BuildId]] = []
        self._recent: deque[Fact] = deque(maxlen=_REMEMBERED_FACTS)

    @property
    def running(self) -> int:
        """Return how many builds run, those being stopped included."""
        return self._running

    @property
    def queued(self) -> int:
        """Return how many wait for a slot."""
        return len(self._queue)

    def all(self) -> list[Build]:
        """Return every attempt that is remembered, oldest first. They are not yours to change."""
        return list(self._builds.values())

    def live(self, key: str) -> Build | None:
        """Return the attempt at `key` that has not ended, if there is one."""
        build = self._latest.get(key)
        return build if build and build.state not in _ENDED else None

    def get(self, build_id: BuildId) -> Build | None:
        """Return an attempt that is remembered."""
        return self._builds.get(build_id)

    def is_queued(self, build_id: BuildId) -> bool:
        """Return whether an attempt waits for a slot."""
        return build_id in self._queue

    def deadline(self) -> float | None:
        """Return when `Ticked` is due at the latest, None if there is nothing to wait for."""
        return self._alarms[0][0] if self._alarms else None

    def handle(self, fact: Fact, now: float) -> list[Command]:
        """Return what to do, in this order, now that `fact` has happened.

        Args:
            fact: What happened.
            now: Seconds on a clock that never goes back.

        Raises:
            IllegalTransition: It cannot have happened. Nothing is changed.
        """
        match fact:
            case Joined():
                commands = self._joined(fact, now)
            case Left(build_id):
                if build := self._builds.get(build_id):
                    build.watchers -= 1
                commands = []
            case Spoke(build_id):
                if build := self._builds.get(build_id):
                    build.spoke = now
                commands = []
            case Started(build_id, run_id):
                commands = self._started(fact, build_id, run_id, now)
            case Succeeded(build_id):
                commands = self._ended(fact, build_id, "succeed", now)
            case Failed(build_id):
                commands = self._ended(fact, build_id, "fail", now)
            case StopAsked(key, reason):
                build = self.live(key)
                commands = self._stop(fact, build, reason, now) if build else []
            case Ticked():
                return self._ticked(fact, now)
            case _:
                assert_never(fact)
        self._recent.append(fact)
        return commands

    def _move(self, build: Build, trigger: str, fact: Fact, now: float) -> None:
        before = build.state
        try:
            build.state = _MOVES[before, trigger]
        except KeyError:
            raise IllegalTransition(state=before, fact=fact, recent=tuple(self._recent)) from None
        if build.state is not before:
            build.since = now

    def _joined(self, fact: Joined, now: float) -> list[Command]:
        request = fact.request
        build = self._latest.get(request.name)
        if request.follow and (build is None or build.state in _ENDED):
            # The run somebody followed, though it ended; a live attempt comes first.
            build = self._by_run.get((request.name, request.follow), build)
        if build is not None and (
            build.state not in _ENDED
            or (request.follow is not None and build.run_id == request.follow)
            or (build.state is State.BUILT and build.since >= fact.looked)
        ):
            build.watchers += 1
            return [Follow(build.id)]

        self._attempts += 1
        build = Build(BuildId(request.name, self._attempts), request, since=now, watchers=1)
        self._builds[build.id] = build
        self._latest[request.name] = build
        opened = Open(build.id, request)
        # For an image that is there no run may be started: reading takes no slot.
        if request.image_exists or self._has_room():
            self._run(build, fact, now)
            return [opened, Start(build.id), Follow(build.id)]
        self._queue[build.id] = build
        build.place = len(self._queue)
        return [opened, Wait(build.id, build.place), Look(build.id), Follow(build.id)]

    def _has_room(self) -> bool:
        return self._limits.max_builds is None or self._running < self._limits.max_builds

    def _run(self, build: Build, fact: Fact, now: float) -> None:
        self._move(build, "start", fact, now)
        self._running += 1
        build.spoke = now
        if self._limits.max_age is not None:
            self._alarm(now + self._limits.max_age, build)
        if self._limits.max_silence is not None:
            self._alarm(now + self._limits.max_silence, build)

    def _started(self, fact: Fact, build_id: BuildId, run_id: str, now: float) -> list[Command]:
        build = self._builds.get(build_id)
        if build is None or build.state in _ENDED:
            return []
        before, build.run_id = build.run_id, run_id
        build.spoke = now
        self._by_run[build_id.key, run_id] = build
        if build.state is State.STOPPING and run_id != before:
            # When it was to be stopped there may have been nothing to stop yet.
            return [Stop(build_id, build.stop_reason)]
        if build.state is not State.QUEUED:
            return []
        # It looked and found a run, which goes on whether or not somebody reads it.
        del self._queue[build_id]
        self._run(build, fact, now)
        return self._fill(fact, now)

    def _ended(self, fact: Fact, build_id: BuildId, trigger: str, now: float) -> list[Command]:
        build = self._builds.get(build_id)
        if build is None or build.state in _ENDED:
            return []  # late word about an attempt that is over
        self._move(build, trigger, fact, now)
        self._running -= 1
        self._alarm(now + self._limits.keep_ended, build)
        return self._fill(fact, now)

    def _fill(self, fact: Fact, now: float) -> list[Command]:
        """Give free slots to those who wait longest, and tell the others their new places."""
        commands: list[Command] = []
        while self._queue and self._has_room():
            _, build = self._queue.popitem(last=False)
            self._run(build, fact, now)
            commands.append(Start(build.id))
        for place, build in enumerate(self._queue.values(), 1):
            if build.place != place:
                build.place = place
                commands.append(Wait(build.id, place))
        return commands

    def _stop(self, fact: Fact, build: Build, reason: str, now: float) -> list[Command]:
        before = build.state
        self._move(build, "stop", fact, now)
        if before is State.STOPPING:
            return []
        build.stop_reason = reason
        if before is State.QUEUED:
            del self._queue[build.id]
            self._alarm(now + self._limits.keep_ended, build)
            return [Close(build.id, reason), *self._fill(fact, now)]
        self._alarm(now + self._limits.stop_grace, build)
        return [Stop(build.id, reason)]

    def _alarm(self, when: float, build: Build) -> None:
        heapq.heappush(self._alarms, (when, build.id.attempt, build.id))

    def _ticked(self, fact: Fact, now: float) -> list[Command]:
        commands: list[Command] = []
        while self._alarms and self._alarms[0][0] <= now:
            _, _, build_id = heapq.heappop(self._alarms)
            if build := self._builds.get(build_id):
                commands += self._due(fact, build, now)
        return commands

    def _due(self, fact: Fact, build: Build, now: float) -> list[Command]:
        """Return what is due for an attempt: an alarm only says that something may be."""
        limits = self._limits
        match build.state:
            case State.RUNNING:
                if limits.max_age is not None and now >= build.since + limits.max_age:
                    reason = f"The build was stopped: it took longer than {limits.max_age:g} s."
                    return self._stop(fact, build, reason, now)
                if limits.max_silence is None:
                    return []
                if now >= build.spoke + limits.max_silence:
                    reason = f"The build was stopped: no word of it for {limits.max_silence:g} s."
                    return self._stop(fact, build, reason, now)
                self._alarm(build.spoke + limits.max_silence, build)
                return []
            case State.STOPPING if now >= build.since + limits.stop_grace:
                self._move(build, "abandon", fact, now)
                self._running -= 1
                self._alarm(now + limits.keep_ended, build)
                return [Close(build.id, build.stop_reason), *self._fill(fact, now)]
            case State.BUILT | State.FAILED if now >= build.since + limits.keep_ended:
                self._forget(build)
                return [Forget(build.id)]
            case _:
                return []

    def _forget(self, build: Build) -> None:
        del self._builds[build.id]
        if self._latest.get(build.id.key) is build:
            del self._latest[build.id.key]
        if build.run_id and self._by_run.get((build.id.key, build.run_id)) is build:
            del self._by_run[build.id.key, build.run_id]
