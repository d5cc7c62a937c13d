"""The runs of one build: started, found, repaired, cleaned. All of it is plain files.

Everything that changes a run's files happens under the build's lock: by the runner, which holds it
for as long as it lives, or by whoever took it after the runner was gone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import psutil

from binder_backends.local.layout import Layout
from binder_backends.local.locking import Lock
from binder_backends.runner import LocalRecipe, RunnerOptions
from binder_backends.runner.local import read_built, remove_image
from binder_backends.runner.performing import read_reason
from binder_backends.runner.processes import descendants, find, kill_all, marked, runs
from binder_backends.runner.text import strip_userinfo
from binder_core.plugin import BuildRun, LogReader, Outcome, encode_log

MARK: Final = "BINDER_RUN"
"""The environment variable that marks all processes of a run."""

_PYTHON: Final = ("-P", "-X", "utf8")
_GRACE: Final = 3.0
_PAUSE: Final = 0.02
_READ_BYTES: Final = 256 * 1024
_TAIL_BYTES: Final = 64 * 1024

Started = subprocess.Popen[bytes]


class Made(msgspec.Struct, frozen=True):
    """What a run makes."""

    image: str
    folder: str
    repo_url: str = ""
    """Without credentials."""
    ref: str = ""


class _Pid(msgspec.Struct, frozen=True):
    pid: int
    created: float


class Runs:
    """The runs of one build.

    Args:
        layout: Where things are.
        name: The build's.
    """

    def __init__(self, layout: Layout, name: str) -> None:
        self._layout = layout
        self._folder = layout.build(name)
        self._runs = self._folder / "runs"

    def exist(self) -> bool:
        """Return whether there ever was a run."""
        return self._folder.is_dir()

    def log(self, run_id: str) -> Path:
        """Return the log file of a run."""
        return self._runs / f"{run_id}.log"

    def lock(self) -> Lock | None:
        """Return the build's lock, None if a run is under way."""
        self._runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Lock.take(self._folder / "lock")

    def current(self) -> str:
        """Return the last run that was started, empty if there is none."""
        try:
            return (self._folder / "current").read_text()
        except FileNotFoundError:
            return ""

    def known(self, run_id: str) -> bool:
        """Return whether there is a log of this run."""
        return run_id.isalnum() and self.log(run_id).is_file()

    def outcome(self, run_id: str) -> Outcome | None:
        """Return how a run ended, None if its log does not say so."""
        try:
            with self.log(run_id).open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - _TAIL_BYTES))
                last = log.read().rstrip(b"\n").rpartition(b"\n")[2]
        except FileNotFoundError:
            return None
        entry = next(iter(LogReader().feed(last + b"\n")), None)
        return entry if isinstance(entry, Outcome) else None

    def start(self, lock: Lock, options: RunnerOptions, env: dict[str, str]) -> Started:
        """Start a run that inherits the lock.

        Args:
            lock: The build's; the caller closes its own afterwards.
            options: What to do; run id, folder and pid file are filled in here.
            env: The environment of the build.

        Raises:
            OSError: It cannot be started; nothing of it is left.
        """
        recipe = options.recipe
        assert isinstance(recipe, LocalRecipe), recipe  # noqa: S101 - the only one here
        run_id = recipe.run_id
        url = strip_userinfo(recipe.repo_url)
        made = Made(recipe.image, recipe.folder, url, recipe.ref)
        self._file(run_id, "json").write_bytes(msgspec.json.encode(made))
        options = msgspec.structs.replace(
            options,
            pid_file=str(self._file(run_id, "pid")),
            stop_file=str(self._file(run_id, "stop")),
        )
        log = os.open(self.log(run_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600)
        try:
            half = self._folder / "current.half"
            half.write_text(run_id)
            half.replace(self._folder / "current")
            process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
                [sys.executable, *_PYTHON, "-m", "binder_backends.runner", "--options", "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # The runner is found as this module was, also where nothing is installed; it keeps
                # this variable to itself.
                env={**env, "PYTHONPATH": str(Path(__file__).parents[2]), MARK: run_id},
                cwd=self._folder,
                pass_fds=(lock.fd,),
                start_new_session=True,
            )
        except OSError:
            self.forget(run_id)
            raise
        finally:
            os.close(log)
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        # A runner that died at once cannot read; its log will say so.
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(msgspec.json.encode(options))
        return process

    def alive(self, run_id: str) -> bool:
        """Return whether the runner of a run still runs, if only to end."""
        return self._runner(run_id) is not None

    def under_way(self, now: float) -> BuildRun | None:
        """Return the run whose runner runs and has not said how it ended, if there is one.

        Args:
            now: Seconds since the epoch.
        """
        run_id = self.current()
        if not run_id or not self.alive(run_id) or self.outcome(run_id) is not None:
            return None
        made = self._made(run_id) or Made("", "")
        try:
            began = self._file(run_id, "json").stat().st_mtime
        except FileNotFoundError:
            return None  # it ended, and was cleared away just now
        return BuildRun(
            name=self._folder.name,
            run_id=run_id,
            image=made.image,
            repo_url=made.repo_url,
            ref=made.ref,
            seconds=max(0.0, now - began),
        )

    def end(self, run_id: str, reason: str) -> None:
        """End the runner of a run with all it started, also where it does not listen.

        The caller sees from the lock whether it is gone.

        Args:
            run_id: The run.
            reason: What its log shall say of that.
        """
        runner = self._runner(run_id)
        if runner is None:
            return
        self._file(run_id, "stop").write_text(reason, encoding="utf-8")
        with contextlib.suppress(psutil.NoSuchProcess):
            runner.terminate()
            deadline = time.monotonic() + _GRACE
            while runs(runner):
                if time.monotonic() > deadline:
                    # It hangs. While it is stopped it still collects all who lose their parent.
                    runner.suspend()
                    kill_all(lambda: descendants(runner.pid))
                    runner.kill()
                time.sleep(_PAUSE)

    def repair(self, run_id: str, reason: str) -> None:
        """Give a run an outcome whose runner ended without one. Call it under the lock.

        Args:
            run_id: The run.
            reason: Why it has no image, unless somebody ended it for a reason.
        """
        if not run_id or not self.known(run_id) or self.outcome(run_id) is not None:
            return
        kill_all(lambda: marked(MARK, {run_id}))
        made = self._made(run_id)
        built = read_built(self._layout.built_file(made.image)) if made else None
        exists = built is not None and built.run_id == run_id
        if made and not exists:
            remove_image(Path(made.folder))
        # Behind a line that was cut off in the middle, which counts as well.
        number = _last_number(self.log(run_id)) + 2
        reason = "" if exists else read_reason(self._file(run_id, "stop")) or reason
        text = b"\n" + encode_log(Outcome(number, exists, reason))
        with self.log(run_id).open("ab") as log:
            log.write(text)

    def clean(self, *, keep: int, keep_for: float, now: float) -> None:
        """Forget finished runs that are too many or too old. Call it under the lock."""
        files = sorted(
            ((file.stat().st_mtime, file) for file in self._runs.glob("*.log")), reverse=True
        )
        for place, (changed, file) in enumerate(files):
            if place >= keep or now - changed > keep_for:
                self.forget(file.stem)

    def forget(self, run_id: str) -> None:
        """Remove the files of a run."""
        for suffix in ("json", "pid", "stop", "half", "log"):
            self._file(run_id, suffix).unlink(missing_ok=True)

    def all(self) -> list[str]:
        """Return all runs of which there is a log."""
        return [file.stem for file in self._runs.glob("*.log")]

    def _runner(self, run_id: str) -> psutil.Process | None:
        try:
            pid = msgspec.json.decode(self._file(run_id, "pid").read_bytes(), type=_Pid)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return find(pid.pid, pid.created)

    def _made(self, run_id: str) -> Made | None:
        try:
            return msgspec.json.decode(self._file(run_id, "json").read_bytes(), type=Made)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _file(self, run_id: str, suffix: str) -> Path:
        return self._runs / f"{run_id}.{suffix}"


def new_run_id() -> str:
    """Return an id that no other run has."""
    return secrets.token_hex(8)


def _last_number(file: Path) -> int:
    reader, last = LogReader(), 0
    with file.open("rb") as log:
        while data := log.read(_READ_BYTES):
            last = max([last, *(entry.n for entry in reader.feed(data))])
    return last
