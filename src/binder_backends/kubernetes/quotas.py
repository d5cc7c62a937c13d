"""Whose turn it is to begin, where builds are counted: by us, or by the cluster.

What a waiting build costs nobody but this server: whether there is room is read from the watch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from binder_backends.kubernetes.manifest import repo_hash
from binder_backends.kubernetes.settings import KubernetesSettings
from binder_backends.kubernetes.watching import Pods
from binder_core.plugin import BuildFailed, BuildRequest, Report

_REFUSED: Final = "The cluster's quota for builds is used up."
_FIRST_DELAY: Final = 5.0
"""Seconds after which a quota of the cluster is tried again, twice as many each time."""
_LONGEST_DELAY: Final = 60.0
_SEE_EVERY: Final = 20.0
"""Seconds after which those who wait see whether the watch is well."""


class Quotas:
    """How many builds there are, of all servers, and which of this one may begin.

    Args:
        settings: The operator's.
        pods: What is known of pods.
    """

    def __init__(self, settings: KubernetesSettings, pods: Pods) -> None:
        self._settings = settings
        self._pods = pods
        self._starting: list[BuildRequest] = []
        self._waiting = 0
        # Of a quota that the cluster itself keeps (ResourceQuota), which tells nobody of room.
        self._refused = False
        self._refused_at = 0
        self._try_at = 0.0
        self._delay = _FIRST_DELAY

    @contextmanager
    def turn(self, request: BuildRequest, report: Report) -> Iterator[Turn]:
        """Give a build that wants to begin its turn; with the block it has begun or never will."""
        turn = Turn(self, request, report, self._settings.pending_timeout)
        try:
            yield turn
        finally:
            self.drop(turn)

    async def take(self, turn: Turn) -> bool:
        """Return when it is its turn, or another server began the build; whether that took time.

        Raises:
            BackendUnavailable: The API server has been away for too long.
        """
        waited = False
        self._waiting += 1
        try:
            while trouble := await self._trouble(turn, waited=waited):
                turn.say(trouble)
                waited = True
                again = self._try_at - anyio.current_time()
                await self._pods.change(min(again, _SEE_EVERY) if again > 0 else _SEE_EVERY)
        finally:
            self._waiting -= 1
        return waited

    def accept(self, turn: Turn) -> None:
        """Take note that the cluster took a build: it may take another one."""
        if turn.trial:
            self._refused = self._waiting > 0
            self._try_at, self._delay = 0.0, _FIRST_DELAY

    def refuse(self, turn: Turn) -> None:
        """Take note that the cluster's own quota is used up."""
        self.drop(turn)
        # Those that came in the same moment are refused together.
        self._delay = min(2 * self._delay, _LONGEST_DELAY) if turn.trial else _FIRST_DELAY
        self._refused = True
        self._try_at = anyio.current_time() + self._delay
        self._refused_at = len(self._others(turn.request))

    def drop(self, turn: Turn) -> None:
        """Let others have its place."""
        if turn.taken:
            turn.taken = False
            self._starting.remove(turn.request)
            self._pods.ring()

    async def _trouble(self, turn: Turn, *, waited: bool) -> str:
        """Return why the build has to wait; if it need not, it has its place, or is under way."""
        settings = self._settings
        if self._refused or settings.max_builds or settings.max_builds_per_repo:
            live = {pod.name for pod in await self._pods.there() if not pod.over}
            if waited and turn.request.name in live:
                return ""
            # Nothing is awaited from here on: no other build of this server comes in between.
            if trouble := self._counted(turn.request):
                return trouble
        turn.taken, turn.trial = True, self._refused
        if turn.trial:
            # The others see how it goes.
            self._try_at = anyio.current_time() + self._delay
            self._refused_at = len(self._others(turn.request))
        self._starting.append(turn.request)
        return ""

    def _counted(self, request: BuildRequest) -> str:
        settings, others = self._settings, self._others(request)
        if settings.max_builds and len(others) >= settings.max_builds:
            return f"{len(others)} builds are under way, and no more may be."
        of_repo = list(others.values()).count(repo_hash(request.repo_url))
        if settings.max_builds_per_repo and of_repo >= settings.max_builds_per_repo:
            return f"{of_repo} builds of this repository are under way, and no more may be."
        early = anyio.current_time() < self._try_at
        if self._refused and early and len(others) >= self._refused_at:
            return _REFUSED
        return ""

    def _others(self, request: BuildRequest) -> dict[str, str]:
        """Return which builds there are beside that one, and of which repositories."""
        others = {pod.name: pod.repo for pod in self._pods.known() if not pod.over}
        others |= {one.name: repo_hash(one.repo_url) for one in self._starting}
        others.pop(request.name, None)
        return others


class Turn:
    """A build's way through the quotas."""

    def __init__(
        self, quotas: Quotas, request: BuildRequest, report: Report, patience: float
    ) -> None:
        self.request = request
        self.taken = False
        """Whether it may begin: it is counted as if it had."""
        self.trial = False
        """Whether it tries a quota of the cluster that was used up."""
        self._quotas = quotas
        self._report = report
        self._patience = patience
        self._deadline = anyio.current_time() + patience
        self._told = ""

    async def wait(self) -> bool:
        """Return when the build may begin, or another server began it; whether that took time.

        Raises:
            BuildFailed: It took too long.
            BackendUnavailable: The API server has been away for too long.
        """
        with anyio.move_on_at(self._deadline):
            return await self._quotas.take(self)
        why = self._told or "It is not known how many builds there are."
        raise BuildFailed(
            f"The build could not be started within {self._patience:g} s. {why} Ask again later."
        )

    def accepted(self) -> None:
        """Tell that it has begun."""
        self._quotas.accept(self)

    def refused(self) -> None:
        """Tell that the cluster's own quota is used up: it has to wait for another turn."""
        self._quotas.refuse(self)

    def say(self, trouble: str) -> None:
        """Tell those who wait why."""
        if trouble != self._told:
            self._told = trouble
            self._report.waiting(f"{trouble}\n")
