"""A run: a process that makes one image, writes a numbered log, and ends it with an outcome.

It reads its `Order` from its standard input. Its standard output is the log.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from binder_core.plugin import Line, Outcome, Phase, encode_log


class Order(msgspec.Struct, frozen=True):
    """What to do."""

    repo_url: str
    ref: str
    work: str
    """A folder to work in, which is not there yet."""
    image: str
    """The tarball that shall be there."""
    scan: tuple[str, ...]
    """The command that has to approve of it."""


class _Stopped(Exception):
    """A step went wrong; the message says why."""


class _Run:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._n = 0
        self._phase = Phase.FETCHING
        url = urlsplit(order.repo_url)
        self._secret = url.netloc.rpartition("@")[0]

    def go(self) -> None:
        outcome = self._outcome()
        # Before the last word: who hears it finds nothing left.
        shutil.rmtree(self._order.work, ignore_errors=True)
        self._write(outcome)

    def _outcome(self) -> Outcome:
        try:
            self._make()
        except _Stopped as stopped:
            return Outcome(self._n + 1, built=False, message=str(stopped))
        except OSError as error:
            why = f"The builder could not go on: {error.strerror}."
            return Outcome(self._n + 1, built=False, message=why)
        return Outcome(self._n + 1, built=True)

    def _make(self) -> None:
        order, work = self._order, Path(self._order.work)
        tarball = work / "image.tar"
        self._say(f"Fetching {order.ref} of {order.repo_url}")
        self._command("git", "init", "--quiet", "--bare", order.work)
        git = ("git", "--git-dir", order.work)
        self._command(*git, "fetch", "--depth=1", "--", order.repo_url, order.ref)
        self._phase = Phase.BUILDING
        self._command(*git, "archive", "--verbose", f"--output={tarball}", "FETCH_HEAD")
        self._say(f"The image has {tarball.stat().st_size} bytes")
        if order.scan:
            self._command(*order.scan, str(tarball))
        # Moved whole: nobody ever sees half an image.
        tarball.rename(order.image)

    def _command(self, *arguments: str) -> None:
        with subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self._say(line.decode("utf-8", "replace").rstrip())
        if process.returncode:
            step = " ".join(word for word in arguments[:4] if not word.startswith(("-", "/")))
            raise _Stopped(f"{step} ended with exit status {process.returncode}; see the log.")

    def _say(self, text: str) -> None:
        if self._secret:
            text = text.replace(f"{self._secret}@", "")
        self._n += 1
        self._write(Line(self._n, f"{text}\n", self._phase))

    def _write(self, entry: Line | Outcome) -> None:
        sys.stdout.buffer.write(encode_log(entry))
        sys.stdout.buffer.flush()


def main() -> None:
    """Do what the order on the standard input says."""
    _Run(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)).go()
