"""How a build ended, from what is known of its container. Pure."""

from __future__ import annotations

import re
from typing import Final

from binder_backends.docker.reading import LogFeed
from binder_backends.docker.runs import Run

# (Every traceback of the runner has its name.)
_NO_RUNNER: Final = re.compile(r"No module named '?binder_backends")
_TORN: Final = "Error grabbing logs"
"""The engine's own word, where it could not write a log to its end."""
_AGAIN: Final = "Ask again, and it is built anew."


def verdict(run: Run | None, feed: LogFeed, reason: str, *, there: bool) -> str:
    """Return why a build failed, empty if it did not.

    Args:
        run: As it ended; None if its container is gone.
        feed: What was read of its log.
        reason: What whoever stopped it gave as the reason.
        there: Whether the image exists.
    """
    outcome = feed.outcome
    if outcome is not None and not outcome.built:
        return outcome.message or f"The build failed. {_AGAIN}"
    if there and (outcome is not None or run is None or run.exit_code == 0 or run.has_runner):
        return ""
    if outcome is not None or (run is not None and run.exit_code == 0):
        return (
            "The build came to a good end, but its image is not there. Was it removed at once, or"
            f" does repo2docker put it elsewhere (extra_args)? {_AGAIN}"
        )
    if run is None:
        return f"The build's container was removed while it was built. {_AGAIN}"
    return reason or _cut_off(run, feed)


def too_long(limit: int) -> str:
    """Return why a build is stopped whose log is longer than `limit` bytes."""
    return (
        f"The build printed more than {limit // 2**20} MiB, and was ended. Make its steps print"
        " less."
    )


def too_late(limit: float) -> str:
    """Return why a build is ended that took more than `limit` seconds."""
    return f"The build took longer than the {limit:g} s that it may take, and was ended."


def _cut_off(run: Run, feed: LogFeed) -> str:
    strays = [line for line in feed.strays if not line.startswith(_TORN)]
    if run.out_of_memory:
        return (
            "The build ran out of memory, and was ended. Does the repository need less, or may"
            " builds have more (memory_limit)?"
        )
    if run.has_runner and any(_NO_RUNNER.search(line) for line in strays):
        return (
            "The builder image does not hold the runner. Make one from deploy/builder/Dockerfile,"
            " or set runner = false."
        )
    if run.has_runner and strays:
        return f"The builder itself failed: {strays[-1][:300]}"
    if run.has_runner and run.exit_code == 1:
        # A runner that failed says why as its last word.
        return (
            "The build failed, and why is lost: its log was cut. Is the disk of the Docker engine"
            " full (make room, for instance with `docker image prune` and `docker builder prune`),"
            f" or was the engine restarted? {_AGAIN}"
        )
    if run.has_runner or run.exit_code in (137, 143):
        return (
            "The build was cut off: its container was ended from outside (was the engine or the"
            f" machine restarted, is there enough memory?). {_AGAIN}"
        )
    return f"The build failed: repo2docker ended with exit status {run.exit_code}. See its log."
