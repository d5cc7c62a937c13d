"""What a recipe is: a generator that yields what is to be done, and says how it ended.

It yields `Step` (run a program) and is sent a `StepResult`, `Say` (tell a line) or `Breath` (look
whether to go on). It returns when the image exists and raises `RecipeFailed` when it never will::

    def recipe() -> Recipe:
        result = yield Step("Installing", ("uv", "pip", "install", "numpy"))
        if result.status:
            raise result.failure()

Whatever way a build ends, the generator is closed: what it made in vain, it removes.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from binder_core.plugin import Phase


class RecipeFailed(Exception):
    """The build came to an end, and there is no image; the message is for the person who asked."""


@dataclass(frozen=True, slots=True)
class Step:
    """Run a program and tell what it prints."""

    what: str
    """What it does, for messages: "Installing requirements.txt"."""
    argv: tuple[str, ...]
    phase: Phase = Phase.BUILDING
    speaks: Literal["plain", "repo2docker"] = "plain"
    """What its lines are: text, or the JSON lines of ``repo2docker --json-logs``."""
    cwd: str | None = None
    env: Mapping[str, str] | None = field(default=None, repr=False)
    """Its whole environment; None is the runner's own."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a program ended."""

    step: Step
    status: int
    """Its exit status; below zero the signal that ended it."""
    tail: tuple[str, ...] = ()
    """The last lines it printed, credentials stripped."""

    def failure(self, hint: str = "") -> RecipeFailed:
        """Return the failure that tells of this end.

        Args:
            hint: What to try, as a sentence.
        """
        program = self.step.argv[0].rpartition("/")[2]
        if self.status < 0:
            how = f"{program} was killed by {_signal_name(-self.status)}"
            if -self.status == signal.SIGKILL:
                how += " (is there enough memory?)"
        else:
            how = f"{program} ended with exit status {self.status}"
        text = f"{self.step.what} failed: {how}."
        if hint:
            text += f" {hint}"
        if self.tail:
            text += " Its last lines:" + "".join(f"\n  {line[:400]}" for line in self.tail[-8:])
        return RecipeFailed(text)


@dataclass(frozen=True, slots=True)
class Say:
    """Tell a line."""

    message: str
    phase: Phase = Phase.BUILDING


@dataclass(frozen=True, slots=True)
class Breath:
    """Nothing to do: a long piece of work asks whether the build was stopped."""


Todo: TypeAlias = Step | Say | Breath
Recipe: TypeAlias = Generator[Todo, StepResult | None, None]


def run_step(step: Step) -> Generator[Todo, StepResult | None, StepResult]:
    """Run a program and return how it ended."""
    result = yield step
    assert result is not None, step  # noqa: S101 - narrows for mypy: a Step is sent its result
    return result


def must(step: Step, hint: str = "") -> Generator[Todo, StepResult | None, StepResult]:
    """Run a program that has to succeed.

    Raises:
        RecipeFailed: It did not.
    """
    result = yield from run_step(step)
    if result.status:
        raise result.failure(hint)
    return result


def repo2docker(argv: tuple[str, ...]) -> Recipe:
    """Run repo2docker, or another program that logs as it does.

    Args:
        argv: The whole command, ``--json-logs`` included.
    """
    yield from must(Step("The build", argv, Phase.FETCHING, speaks="repo2docker"))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
