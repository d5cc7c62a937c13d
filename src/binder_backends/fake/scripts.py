"""What a fake build or launch shall do, as values.

A script is a pure function of time: `Script.entry` says what line `n` is and `Script.time_of` when
it is there, in seconds since the run began. So a run needs no task to make it go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, TypeVar

import msgspec

from binder_core.plugin import LayerProgress, Line, Phase, Progress

S = TypeVar("S", bound="Script | LaunchScript")

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class LogLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a log that is given word for word."""

    message: str
    phase: Phase | None = None
    progress: Progress | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a build goes."""

    delay: _Seconds = 0.0
    """Seconds in a queue before the run begins."""
    waiting: tuple[str, ...] = ()
    """Told while it is in the queue, spread over the delay."""

    lines: _Count = 10
    """Lines of the log, without those of the push."""
    fetching: _Count = 2
    """How many of these, the first ones, are told while fetching."""
    rate: _Seconds = 0.0
    """Lines a second; 0: all are there at once."""
    layers: dict[str, int] = {}
    """Layers to push, by name, and their bytes; none: there is no push."""
    layers_there: tuple[str, ...] = ()
    """Layers that the registry has already."""
    push_steps: Annotated[int, msgspec.Meta(ge=1)] = 4
    """Lines that the push takes."""
    log: tuple[LogLine, ...] = ()
    """The whole log word for word; empty: lines are made up."""

    silent: _Seconds = 0.0
    """Seconds between the last line and the end."""
    fails: str = ""
    """Why the build fails; empty: it does not."""
    ends: bool = True
    """False: after the last line nothing ever happens."""
    exists: bool = False
    """The image is there from the start."""

    start_faults: _Count = 0
    """Calls of `build` that find the engine gone, before anything is started."""
    faults: _Count = 0
    """Calls of `build` whose connection breaks while the run goes on; the later ones hold."""
    fault_after: _Count = 0
    """Lines told before it breaks; 0: the run is started, and not a word comes back."""
    exists_faults: _Count = 0
    """Calls of `exists` that find the engine gone."""
    twice: bool = False
    """Every line is delivered twice."""
    again_after: _Count = 0
    """Lines after which a call delivers all of them again from the first; 0: never."""

    @property
    def total(self) -> int:
        """Return how many lines the whole log has."""
        if self.log:
            return len(self.log)
        return self.lines + (self.push_steps if self.layers or self.layers_there else 0)

    def entry(self, n: int, repo_url: str) -> Line:
        """Return line `n` of the log, from 1."""
        if self.log:
            given = self.log[n - 1]
            return Line(n, given.message, given.phase, given.progress)
        if n <= self.fetching and n <= self.lines:
            return Line(n, f"Fetching {repo_url}: {n}\n", Phase.FETCHING)
        if n <= self.lines:
            return Line(n, f"Step {n} of {self.lines}\n", Phase.BUILDING)
        step = n - self.lines
        message = f"Pushing: step {step} of {self.push_steps}\n"
        return Line(n, message, Phase.PUSHING, self._pushed(step))

    def _pushed(self, step: int) -> Progress:
        progress: Progress = dict.fromkeys(self.layers_there, "Layer already exists")
        for layer, size in self.layers.items():
            done = size * step // self.push_steps
            progress[layer] = "Pushed" if step == self.push_steps else LayerProgress(done, size)
        return progress

    def time_of(self, n: int) -> float:
        """Return when line `n` is there, in seconds since the run began."""
        return (n - 1) / self.rate if self.rate else 0.0

    @property
    def time_of_end(self) -> float | None:
        """Return when the run ends, in seconds since it began; None if it never does."""
        return self.time_of(self.total + 1) + self.silent if self.ends else None

    def lines_at(self, now: float, begins: float = 0.0) -> int:
        """Return how many lines are there at `now`, in a run that began at `begins`."""
        if now < begins:
            return 0
        if not self.rate:
            return self.total
        # An estimate, put right by the very sum that says when a line is due: whoever sleeps until
        # then finds it there, whatever floats do.
        count = min(int((now - begins) * self.rate), self.total)
        while count < self.total and begins + self.time_of(count + 1) <= now:
            count += 1
        while count > 0 and begins + self.time_of(count) > now:
            count -= 1
        return count


class LaunchScript(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a launch goes."""

    messages: tuple[str, ...] = ("Server requested", "Server is starting")
    """Told while the server starts, spread over the delay."""
    delay: _Seconds = 0.0
    """Seconds until the server answers."""
    fails: str = ""
    """Why it never will; told after the delay. Empty: it does not fail."""
    ends: bool = True
    """False: it neither answers nor fails, ever."""
    start_faults: _Count = 0
    """Calls of `launch` that find the engine gone, before anything is started."""
    faults: _Count = 0
    """Calls of `launch` whose connection breaks after the server was started."""
    needs_image: bool = False
    """Fail where the engine has no such image."""


class BuilderSettings(Script, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How builds go, and which ones go another way."""

    down: str = ""
    """Why no build is possible at all; empty: builds are."""
    images: tuple[str, ...] = ()
    """Images that exist already; ``*`` and ``?`` as in file names."""
    scripts: dict[str, Script | tuple[Script, ...]] = {}
    """Other scripts, by build name, image or repository URL; ``*`` and ``?`` as in file names. Of
    several scripts the first is for the first run of a name, and so on; the last one stays."""


class LauncherSettings(LaunchScript, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How launches go, and which ones go another way."""

    down: str = ""
    """Why no launch is possible at all; empty: launches are."""
    base_url: str = "http://127.0.0.1:1/"
    """Where servers seem to be; ends in ``/``."""
    scripts: dict[str, LaunchScript | tuple[LaunchScript, ...]] = {}
    """Other scripts, by server name, image or repository URL; see `BuilderSettings.scripts`."""


def pick(scripts: Mapping[str, S | Sequence[S]], keys: tuple[str, ...], attempt: int) -> S | None:
    """Return the script of the first pattern that matches one of `keys`, None if none does.

    Args:
        scripts: By pattern.
        keys: What the request goes by.
        attempt: How many runs of the name there were before.
    """
    for pattern, found in scripts.items():
        if any(fnmatchcase(key, pattern) for key in keys):
            return found[min(attempt, len(found) - 1)] if isinstance(found, Sequence) else found
    return None
