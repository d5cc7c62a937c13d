"""The folder that is the shared memory: images, logs, and a lock for each build.

::

    images/<digest>.tar             an image
    builds/<name>/gate              held for moments, by who starts, finds or stops a run
    builds/<name>/lock              held by a run as long as it lives
    builds/<name>/current.json      the newest run, and its process
    builds/<name>/<run id>.log      the log of a run

The lock is an ``flock``. It belongs to the open file, which the run inherits: it is free when the
run has ended, however that came about, a power cut included.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from binder_core.plugin import BuildRequest, LogReader, Outcome, encode_log
from binderkit_copy_builder.runner import Order

_RUN = "from binderkit_copy_builder.runner import main; main()"

_KEPT_RUNS = 5
"""Logs kept of each build, so that who watched a run can be told its end."""


class _Current(msgspec.Struct):
    run_id: str
    pid: int
    image: str


class Store:
    """The folder. Its methods block for moments: call them in a thread.

    Args:
        folder: Where it is.
        protocols: What git may fetch over.
        scan: The command that approves of images.
    """

    def __init__(self, folder: Path, protocols: tuple[str, ...], scan: tuple[str, ...]) -> None:
        self._images = folder / "images"
        self._builds = folder / "builds"
        self._protocols = protocols
        self._scan = scan

    def prepare(self) -> None:
        """Make the folders."""
        self._images.mkdir(parents=True, exist_ok=True)
        self._builds.mkdir(parents=True, exist_ok=True)

    def image(self, image: str) -> Path:
        """Return where the tarball of an image is, or would be."""
        return self._images / f"{hashlib.sha256(image.encode()).hexdigest()}.tar"

    def has_image(self, image: str) -> bool:
        """Return whether the tarball is there: it is moved there whole."""
        return self.image(image).is_file()

    def log(self, name: str, run_id: str) -> Path:
        """Return where the log of a run is."""
        return self._builds / name / f"{run_id}.log"

    def start_or_find(self, request: BuildRequest) -> str | None:
        """Return the run to report, in the order that the contract says; None if there is none."""
        build = self._builds / request.name
        build.mkdir(exist_ok=True)
        with _locked(build / "gate"):
            # Compared with what is there, never made a path of: it came from outside.
            if request.follow in {log.stem for log in build.glob("*.log")}:
                return request.follow
            with (build / "lock").open("a") as lock:
                if not _try_lock(lock):
                    current = _read_current(build)
                    if not _has_outcome(self.log(request.name, current.run_id)):
                        return current.run_id
                    # It has said its last word and is about to exit.
                    fcntl.flock(lock, fcntl.LOCK_EX)
                run_id = None
                try:
                    if not request.image_exists and not self.has_image(request.image):
                        run_id = self._start(request, build, lock)
                finally:
                    if run_id is None:
                        fcntl.flock(lock, fcntl.LOCK_UN)
                return run_id

    def settle(self, name: str, run_id: str) -> bool:
        """Return whether the log of a run has an outcome; give it one if the run was cut off."""
        build = self._builds / name
        with _locked(build / "gate"), (build / "lock").open("a") as lock:
            free = _try_lock(lock)
            try:
                current = _read_current(build)
                if not free and current.run_id == run_id:
                    return False
                self._end(self.log(name, run_id), current, "The build was cut off.")
                return True
            finally:
                if free:
                    fcntl.flock(lock, fcntl.LOCK_UN)

    def stop(self, name: str, reason: str) -> None:
        """Kill the run under way; its log says why."""
        build = self._builds / name
        if not build.is_dir():
            return
        with _locked(build / "gate"), (build / "lock").open("a") as lock:
            if not _try_lock(lock):
                current = _read_current(build)
                log = self.log(name, current.run_id)
                if not _has_outcome(log):
                    # The lock is held, so the process lives, and the number is still its own. It
                    # leads its session: what it started dies with it.
                    os.killpg(current.pid, signal.SIGKILL)
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._end(log, current, reason)
                shutil.rmtree(build / "work", ignore_errors=True)
            fcntl.flock(lock, fcntl.LOCK_UN)

    def _start(self, request: BuildRequest, build: Path, lock: IO[str]) -> str:
        shutil.rmtree(build / "work", ignore_errors=True)
        logs = sorted(build.glob("*.log"), key=lambda log: log.stat().st_mtime)
        for old in logs[: 1 - _KEPT_RUNS]:
            old.unlink()
        run_id = secrets.token_hex(12)
        order = Order(
            repo_url=request.repo_url,
            ref=request.ref,
            work=str(build / "work"),
            image=str(self.image(request.image)),
            scan=self._scan,
        )
        with self.log(request.name, run_id).open("xb") as log:
            run = subprocess.Popen(
                # Without warnings: among numbered lines there must be none without a number.
                [sys.executable, "-W", "ignore", "-c", _RUN],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(self._protocols),
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
        # What there is to fetch goes over a pipe: arguments can be read by all on the machine.
        assert run.stdin is not None
        with run.stdin as pipe:
            pipe.write(msgspec.json.encode(order))
        current = _Current(run_id, run.pid, order.image)
        (build / "current.json").write_bytes(msgspec.json.encode(current))
        # Somebody has to take note of its end, or it stays as a zombie. Nothing waits for that.
        threading.Thread(target=run.wait, daemon=True).start()
        return run_id

    def _end(self, log: Path, current: _Current, message: str) -> None:
        """Write the outcome of a run whose process is gone, if it did not do so itself."""
        reader = LogReader()
        entries = reader.feed(log.read_bytes())
        if entries and isinstance(entries[-1], Outcome):
            return
        # It may have died in the middle of a line: that one is a line as well.
        cut = reader.end()
        n = (cut or entries)[-1].n + 1 if cut or entries else 1
        # And it may have died between its last two steps, with the image in its place.
        built = log.stem == current.run_id and Path(current.image).exists()
        outcome = Outcome(n, built, "" if built else message)
        with log.open("ab") as file:
            file.write((b"\n" if cut else b"") + encode_log(outcome))


def _has_outcome(log: Path) -> bool:
    entries = LogReader().feed(log.read_bytes())
    return bool(entries) and isinstance(entries[-1], Outcome)


def _environment(protocols: tuple[str, ...]) -> dict[str, str]:
    """Return what git needs, and none of the server's own variables: they may hold secrets."""
    kept = {"HOME", "LANG", "PATH", "PYTHONPATH", "SSL_CERT_FILE", "TMPDIR"}
    return {name: value for name, value in os.environ.items() if name in kept} | {
        "GIT_ALLOW_PROTOCOL": ":".join(protocols),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Said in words: a child that is being started just now may have a copy of the file.
            fcntl.flock(file, fcntl.LOCK_UN)


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_current(build: Path) -> _Current:
    return msgspec.json.decode((build / "current.json").read_bytes(), type=_Current)
