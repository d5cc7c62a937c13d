"""Runs of builds as containers: what the engine's words about one mean.

The container named like the build is its current run, and so the lock; one that ended and made way
for the next is named ``<build>.<run>``.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from binder_backends.containers import LABEL
from binder_backends.docker.engine import Inspected
from binder_core.plugin import BuildRun

BUILD_LABEL: Final = f"{LABEL}.build"
RUNNER_LABEL: Final = f"{LABEL}.runner"

_RUN_ID_LENGTH: Final = 16
_RUN_ID: Final = re.compile(r"[0-9a-f]{16}")
_FRACTION: Final = re.compile(r"\.\d+")


@dataclass(frozen=True, slots=True)
class Run:
    """A container of a build, as the engine told it."""

    container: str
    """Its id."""
    build: str
    """The name of the build."""
    name: str
    """The container's."""
    state: str
    """``created``, ``running``, ``exited`` …"""
    exit_code: int
    out_of_memory: bool
    has_runner: bool
    began: float
    """When it was created; seconds since the epoch."""
    ended: float
    """When it ended; 0 if it has not."""

    @property
    def id(self) -> str:
        """Return what the run is called."""
        return self.container[:_RUN_ID_LENGTH]

    @property
    def fresh(self) -> bool:
        """Return whether it was never started."""
        return self.state == "created"

    @property
    def over(self) -> bool:
        """Return whether it has ended."""
        return self.state in ("exited", "dead", "removing")


def read_run(said: Inspected) -> Run | None:
    """Return the run that an inspected container is, None if it is no build of ours."""
    labels = said["Config"].get("Labels") or {}
    if not _is_run(said["Name"], labels):
        return None
    state = said["State"]
    over = state["Status"] in ("exited", "dead", "removing")
    return Run(
        container=said["Id"],
        build=labels[BUILD_LABEL],
        name=said["Name"].removeprefix("/"),
        state=state["Status"],
        exit_code=state.get("ExitCode") or 0,
        out_of_memory=bool(state.get("OOMKilled")),
        has_runner=labels.get(RUNNER_LABEL) == "yes",
        began=engine_time(said["Created"]),
        ended=engine_time(state.get("FinishedAt", "")) if over else 0.0,
    )


def is_listed_run(said: Inspected) -> bool:
    """Return whether one of the engine's list of containers is a run of a build."""
    return any(_is_run(name, said["Labels"]) for name in said["Names"])


def _is_run(name: str, labels: Mapping[str, str]) -> bool:
    # A container has the labels of its image as well, which are whoever's Dockerfile it was.
    build = labels.get(BUILD_LABEL)
    return build is not None and name.removeprefix("/").partition(".")[0] == build


def listed_run(said: Inspected) -> BuildRun:
    """Return what the engine's list of containers says of a run under way."""
    labels = said["Labels"]
    return BuildRun(
        name=labels[BUILD_LABEL],
        run_id=said["Id"][:_RUN_ID_LENGTH],
        image=labels.get(f"{LABEL}.image", ""),
        repo_url=labels.get(f"{LABEL}.repo", ""),
        ref=labels.get(f"{LABEL}.ref", ""),
        seconds=max(0.0, time.time() - said["Created"]),
    )


def is_run_id(text: str) -> bool:
    """Return whether `text` may be the id of a run: it becomes part of a URL."""
    return _RUN_ID.fullmatch(text) is not None


def engine_time(text: str) -> float:
    """Return seconds since the epoch, 0 for what is no time."""
    # Nanoseconds are more than Python reads.
    try:
        return dt.datetime.fromisoformat(_FRACTION.sub("", text)).timestamp()
    except ValueError:
        return 0.0
