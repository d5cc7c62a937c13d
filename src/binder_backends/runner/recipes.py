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

import re
import signal
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal, TypeAlias

from binder_backends.runner.options import CommandRecipe, EngineOptions, PushOptions
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


def repo2docker(recipe: CommandRecipe) -> Recipe:
    """Run repo2docker, or another program that logs as it does; push what it made.

    Args:
        recipe: The whole command, ``--json-logs`` included, and where to push.
    """
    if recipe.engine.wait:
        options = (*_where(recipe.engine), f"--retry-for={recipe.engine.wait}")
        yield from _own("engine", "The way to the Docker engine", Phase.FETCHING, options)
    argv = recipe.argv
    if recipe.memory_limit and _limits_memory():
        end = argv.index("--") if "--" in argv else len(argv)
        argv = (*argv[:end], f"--build-memory-limit={recipe.memory_limit}", *argv[end:])
    step = Step("The build", argv, Phase.FETCHING, speaks="repo2docker")
    result = yield from run_step(step)
    if result.status:
        raise result.failure(_hint(result.tail))
    if recipe.push is not None:
        yield from _push(recipe.push, recipe.engine)


def _push(push: PushOptions, engine: EngineOptions) -> Recipe:
    options = (f"--image={push.image}", f"--config={push.config_file}", *_where(engine))
    options = (*options, f"--retry-for={push.retry_for}")
    yield from _own("pushing", "The push", Phase.PUSHING, options)


def _where(engine: EngineOptions) -> tuple[str, ...]:
    return f"--host={engine.host}", f"--certs={engine.certs}"


def _own(module: str, what: str, phase: Phase, options: tuple[str, ...]) -> Recipe:
    """Run a program of the runner's own, which has to succeed."""
    argv = (sys.executable, "-m", f"binder_backends.runner.{module}", *options)
    result = yield from run_step(Step(what, argv, phase, speaks="repo2docker"))
    if result.status:
        # Its last line is meant for the person who waits.
        if result.status == 1 and result.tail:
            raise RecipeFailed(result.tail[-1])
        raise result.failure()


def _limits_memory() -> bool:
    """Return whether repo2docker can: with ``docker buildx``, since 2025.8, it refuses to."""
    try:
        year, month = version("jupyter-repo2docker").split(".")[:2]
        return (int(year), int(month)) < (2025, 8)
    except (PackageNotFoundError, ValueError):
        return False


_HINTS: Final = (
    (
        r"buildx plugin must be installed",
        (
            "The builder image has no docker buildx, which this repo2docker needs: use another"
            " builder_image, such as the one made from deploy/builder/Dockerfile."
        ),
    ),
    (
        r"commandline client must be installed",
        (
            "Either the builder image has no docker command (use another builder_image), or the"
            " engine cannot be reached from the build container (is engine_socket, or docker_host,"
            " right?)."
        ),
    ),
    (
        (
            r"Cannot connect to the Docker daemon|Error while fetching server API version|"
            r"Check if docker is running"
        ),
        (
            "The build container cannot reach the Docker engine: is engine_socket, or docker_host,"
            " right?"
        ),
    ),
    (
        # Of buildx itself: what the steps of an image print has a number before it.
        r"(?m)^ERROR: .*(Unavailable: |code = Unavailable |error reading from server)",
        "The connection to the Docker engine broke (was it restarted?). Ask again to build anew.",
    ),
    (
        r"(?i)no space left on device|ENOSPC",
        (
            "The disk of the Docker engine is full: make room, for instance with `docker image"
            " prune` and `docker builder prune`."
        ),
    ),
    (
        r"could not read Username|Authentication failed|terminal prompts disabled",
        (
            "The repository is private, or there is none: does the server have git credentials"
            " for its host (git_credentials)?"
        ),
    ),
)


def _hint(tail: tuple[str, ...]) -> str:
    """Return what to try where the last lines of repo2docker say what it lacks."""
    text = "\n".join(tail)
    return next((hint for words, hint in _HINTS if re.search(words, text)), "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
