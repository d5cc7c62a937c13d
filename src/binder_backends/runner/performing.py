"""Performs a recipe: runs its programs, reads what they print, leaves no process behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from binder_backends.runner.options import FROM_OUTSIDE
from binder_backends.runner.pipeline import Pipeline
from binder_backends.runner.processes import descendants, kill_all, reap
from binder_backends.runner.recipes import Breath, Recipe, RecipeFailed, Say, Step, StepResult
from binder_backends.runner.sorting import PlainLines, Repo2dockerLines
from binder_backends.runner.text import Redactor

_READ_BYTES: Final = 256 * 1024
_PIPE_BYTES: Final = 1024 * 1024
_DRAIN: Final = 2.0
"""Seconds in which the pipes of a program that has ended must come to their end."""


class Performer:
    """Performs a recipe.

    Args:
        pipeline: Makes the log.
        write: Takes the log's bytes.
        redact: Strips credentials.
        time_limit: Seconds after which the build is ended; 0: never.
        silence_limit: Seconds without output after which it is ended; 0: never.
        stop_file: Where whoever ends the build writes why, before the signal.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        write: Callable[[bytes], None],
        redact: Redactor,
        *,
        time_limit: float = 0.0,
        silence_limit: float = 0.0,
        stop_file: str = "",
    ) -> None:
        self._pipeline = pipeline
        self._write = write
        self._redact = redact
        self._time_limit = time_limit
        self._silence_limit = silence_limit
        self._stop_file = stop_file
        self._began = self._heard = time.monotonic()
        self._doing = "The build"
        self._stopped = False
        # A signal, the end of a child included, makes the wait for output return.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def watch_signals(self) -> None:
        """End the build on SIGTERM or SIGINT."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def stop(self) -> None:
        """End the build at the next occasion."""
        self._stopped = True

    def perform(self, recipe: Recipe) -> bool:
        """Perform `recipe` and write the outcome; return whether the image exists."""
        built, message = False, ""
        try:
            self._drive(recipe)
            built = True
        except RecipeFailed as failure:
            message = self._redact(str(failure))
        except Exception as error:  # noqa: BLE001 - whatever it is, the log must have an outcome
            message = f"The builder itself failed while at this: {self._doing} ({_said(error)})."
            message = self._redact(message)
        finally:
            kill_all(descendants, meanwhile=reap)
            recipe.close()
        self._pipeline.outcome(built=built, message=message, now=time.monotonic())
        self._write(self._pipeline.take())
        return built

    def _drive(self, recipe: Recipe) -> None:
        result: StepResult | None = None
        while True:
            try:
                todo = recipe.send(result)
            except StopIteration:
                return
            result = None
            now = time.monotonic()
            match todo:
                case Step():
                    result = self._step(todo)
                case Say(message, phase):
                    self._pipeline.say(phase, self._redact(message), now)
                    self._write(self._pipeline.take())
                case Breath():
                    self._heard = now
                    self._check(now)

    def _step(self, step: Step) -> StepResult:
        self._doing = step.what
        self._heard = time.monotonic()
        self._check(self._heard)
        speaks = Repo2dockerLines(self._redact) if step.speaks == "repo2docker" else None
        self._pipeline.begin(speaks or PlainLines(step.phase, self._redact))
        # Two pipes: what one program writes in halves to both would else be mixed up in one line.
        pipes = [_pipe(), _pipe()]
        try:
            process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
                step.argv,
                stdin=subprocess.DEVNULL,
                stdout=pipes[0][1],
                stderr=pipes[1][1],
                cwd=step.cwd,
                env=step.env,
                start_new_session=True,
            )
        except OSError as error:
            for read, write in pipes:
                os.close(read)
                os.close(write)
            return StepResult(step, 127, (_not_started(step.argv[0], error),))
        for _, write in pipes:
            os.close(write)
        selector = selectors.DefaultSelector()
        selector.register(self._wake_read, selectors.EVENT_READ)
        for source, (read, _) in enumerate(pipes):
            selector.register(read, selectors.EVENT_READ, source)
        try:
            while process.poll() is None:
                self._turn(selector, self._timeout())
                self._check(time.monotonic())
        finally:
            tail = self._wind_up(process, selector, [read for read, _ in pipes])
        return StepResult(step, process.returncode, tuple(tail))

    def _wind_up(
        self, process: subprocess.Popen[bytes], selector: selectors.BaseSelector, pipes: list[int]
    ) -> list[str]:
        """End what the program left running, and read what there is to its end."""
        kill_all(descendants, meanwhile=reap)
        process.wait()
        deadline = time.monotonic() + _DRAIN
        with selector:
            selector.unregister(self._wake_read)
            while selector.get_map() and time.monotonic() < deadline:
                self._turn(selector, deadline - time.monotonic())
        for pipe in pipes:
            os.close(pipe)
        tail = self._pipeline.finish(time.monotonic())
        self._write(self._pipeline.take())
        return tail

    def _turn(self, selector: selectors.BaseSelector, timeout: float | None) -> None:
        """Wait for output and pass it on."""
        for key, _ in selector.select(timeout):
            if key.fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)
                continue
            data = os.read(key.fd, _READ_BYTES)
            now = time.monotonic()
            if data:
                self._heard = now
                self._pipeline.feed(key.data, data, now)
            else:
                selector.unregister(key.fd)
        self._pipeline.tick(time.monotonic())
        self._write(self._pipeline.take())

    def _timeout(self) -> float | None:
        waits = [self._pipeline.deadline()]
        if self._time_limit:
            waits.append(self._began + self._time_limit)
        if self._silence_limit:
            waits.append(self._heard + self._silence_limit)
        deadline = min((wait for wait in waits if wait is not None), default=None)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _check(self, now: float) -> None:
        if self._stopped:
            nobody = FROM_OUTSIDE if self._stop_file else "The build was stopped."
            raise RecipeFailed(read_reason(self._stop_file) or nobody)
        if self._time_limit and now - self._began >= self._time_limit:
            raise RecipeFailed(
                f"The build took longer than the {self._time_limit:g} s that it may take,"
                f" and was ended while at this: {self._doing}."
            )
        if self._silence_limit and now - self._heard >= self._silence_limit:
            raise RecipeFailed(
                f"The build printed nothing for {self._silence_limit:g} s,"
                f" and was ended while at this: {self._doing}."
            )


def read_reason(stop_file: str | Path) -> str:
    """Return why a build was ended, empty if nobody has said so."""
    try:
        return Path(stop_file).read_text(encoding="utf-8") if stop_file else ""
    except FileNotFoundError:
        return ""


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # the user's limit for pipes is used up
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return read, write


def _not_started(program: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and Path(program).exists():
        return (
            "It is there, but its first line names a program that is not there"
            " (or its lines end as those of Windows do)."
        )
    return _said(error)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
