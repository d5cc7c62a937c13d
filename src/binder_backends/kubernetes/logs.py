"""A pod's log, from its first line to its last, across whatever breaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from binder_backends.kubernetes.cluster import Cluster, NotThere, NotYet
from binder_backends.kubernetes.pods import Pod
from binder_backends.kubernetes.watching import Pods
from binder_core.plugin import BackendUnavailable, Line, LogReader, Outcome

_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 5.0
_BREATH: Final = 3.0
"""Seconds without a byte after which it is seen whether there is anything to wait for."""
_SILENT: Final = 45.0
"""Seconds without a byte after which a look is taken whether the log has gone on without us: one
that is followed can stall for good (kubernetes/kubernetes#28369)."""
_LAST_TRIES: Final = 5
"""How often a log without an outcome is read again where its pod ends and its container has not
been told to have."""


class _Stalled(Exception):
    """What is followed stands still, the log does not."""


class PodLog:
    """The log of a build's pod.

    It is always read from its first byte: lines carry numbers, so those that come twice are known
    to whoever takes them, and those of a stock repo2docker are counted.

    Args:
        cluster: Where the pod is.
        pods: What is known of pods.
        pod: This one, whose container has started.
        tell: Takes the lines.
    """

    def __init__(
        self, cluster: Cluster, pods: Pods, pod: Pod, tell: Callable[[Line], None]
    ) -> None:
        self._cluster = cluster
        self._pods = pods
        self._pod = pod
        self._tell = tell
        self._told = 0
        self._last = ""

    async def outcome(self) -> Outcome | None:
        """Tell the log to its end, and return the outcome it ends with, None if there is none.

        Raises:
            BackendUnavailable: The log cannot be had, and the build may well go on.
        """
        delay, tries, since = _FIRST_DELAY, 0, anyio.current_time()
        while True:
            # Before it is read: a log that is read after the end is read to its end.
            still = self._pods.now(self._pod).still
            before, had = self._told, False
            try:
                outcome = await self._read(follow=not still)
                if outcome is not None or still:
                    return outcome
                had, since = True, anyio.current_time()
            except _Stalled:
                continue
            except (NotThere, NotYet):
                if still:
                    return None
                had = True
            except BackendUnavailable:
                # The API server or the node is away; the build goes on as far as we know, or its
                # log is there when they are.
                if anyio.current_time() - since > self._pods.outage:
                    raise
            if self._told > before:
                delay, tries, since = _FIRST_DELAY, 0, anyio.current_time()
            pod = await self._pods.look(self._pod)
            if pod.lost or (pod.gone and not had):
                return None  # nobody has it any more
            if pod.over and had:
                tries += 1
                if tries > _LAST_TRIES:
                    return None
            await anyio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    async def _read(self, *, follow: bool) -> Outcome | None:
        """Tell the log from its first byte to where it ends for now."""
        reader = LogReader()
        async with self._cluster.log(self._pod.name, follow=follow) as read:
            # A log is asked for by name. Asked after it was opened: a uid does not come back.
            if (await self._pods.look(self._pod)).gone:
                return None
            while True:
                piece = await self._piece(read)
                # One that is followed also ends where its node restarts, within a line.
                last = reader.end() if not piece and not follow else []
                for entry in reader.feed(piece) if piece else last:
                    if isinstance(entry, Outcome):
                        return entry
                    self._line(entry)
                if not piece:
                    return None

    def _line(self, line: Line) -> None:
        gone = line.n - 1 - self._told
        if gone > 0:
            # The node has rotated the log: whoever saw these lines has them.
            which = "the first " if self._told == 0 else ""
            lines = "line" if gone == 1 else "lines"
            gap = f"… the cluster has thrown away {which}{gone} {lines} of the log …\n"
            self._tell(Line(line.n - 1, gap, line.phase))
        if line.n >= self._told:
            self._told, self._last = line.n, line.message
        self._tell(line)

    async def _piece(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        silent = 0.0
        while True:
            with anyio.move_on_after(_BREATH):
                return await read()
            if self._pods.now(self._pod).still:
                raise _Stalled
            silent += _BREATH
            if silent >= _SILENT:
                silent = 0.0
                if await self._went_on():
                    raise _Stalled

    async def _went_on(self) -> bool:
        """Return whether the log's last line is beyond what was told of it."""
        reader = LogReader()
        last: Line | Outcome | None = None
        try:
            async with self._cluster.log(self._pod.name, follow=False, tail=1) as read:
                while piece := await read():
                    for entry in reader.feed(piece):
                        last = entry
        except (BackendUnavailable, NotThere, NotYet):
            return False
        if last is None or isinstance(last, Outcome):
            return last is not None
        # A line without a number (a stock repo2docker's) is the first one here.
        return last.n > self._told or (last.n == 1 and last.message != self._last)
