"""Leaving no process behind.

On Linux the runner is a *subreaper*: whoever loses its parent below it becomes its child, so that
every descendant can be found, also a daemon that made its own session. Elsewhere, and after the
runner was killed itself, processes are found by a mark in their environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable, Collection
from typing import Final

import psutil

_PR_SET_CHILD_SUBREAPER: Final = 36
_PAUSE: Final = 0.01


def become_subreaper() -> bool:
    """Become the parent of all descendants that lose theirs; return whether that is possible."""
    if sys.platform != "linux":
        return False
    status: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return status == 0


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """Return the processes below `pid`, or below this one, that are still running."""
    try:
        return [child for child in psutil.Process(pid).children(recursive=True) if runs(child)]
    except psutil.NoSuchProcess:
        return []


def runs(process: psutil.Process) -> bool:
    """Return whether `process` runs: one that only waits for its parent to look does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find(pid: int, created: float) -> psutil.Process | None:
    """Return the running process `pid` if it was created at that time: pids are used again."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0
    except psutil.NoSuchProcess:
        return None
    return process if same and runs(process) else None


def marked(variable: str, values: Collection[str]) -> list[psutil.Process]:
    """Return the other processes of this user that have a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) in values:
                found.append(process)
    return [process for process in found if runs(process)]


def kill_all(
    look: Callable[[], list[psutil.Process]],
    *,
    within: float = 10.0,
    meanwhile: Callable[[], None] = lambda: None,
) -> bool:
    """Kill what `look` finds until it finds nothing more; return whether that came to be.

    Args:
        look: Finds the processes, also those that appear meanwhile.
        within: Seconds to try.
        meanwhile: Called after each round.
    """
    deadline = time.monotonic() + within
    while processes := look():
        # Stopped ones have no more children: without this a fork bomb could outrun the killing.
        for signal in ("suspend", "kill"):
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    getattr(process, signal)()
        if time.monotonic() > deadline:
            return False
        meanwhile()
        time.sleep(_PAUSE)
    return True


def reap() -> None:
    """Let the kernel forget children that have ended: for a process that waits for no other."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
