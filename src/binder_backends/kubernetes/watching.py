"""One watch for all builds of a server, however many they are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import anyio

from binder_backends.kubernetes.cluster import Cluster, Expired, Outage
from binder_backends.kubernetes.manifest import Object
from binder_backends.kubernetes.pods import Pod, read
from binder_core.plugin import BackendUnavailable

log = logging.getLogger("binder.kubernetes")

_LOOK_AGAIN: Final = 20.0
"""Seconds without news of a pod after which it is asked for by name: a watch may be dead and not
know it."""
_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 5.0
_AT_ONCE: Final = 1.0
"""Seconds within which a watch that ended, and told nothing, is none that was ended for its age."""
_KEEP_GONE: Final = 600.0


class Pods:
    """All build pods of the namespace, as they were last seen, by uid: a name may come again.

    Args:
        cluster: Where they are.
        outage: Seconds without the API server after which those who wait are told.
    """

    def __init__(self, cluster: Cluster, *, outage: float) -> None:
        self._cluster = cluster
        self.outage = outage
        """Seconds without the API server after which those who wait are told."""
        self._pods: dict[str, Pod] = {}
        self._gone: dict[str, float] = {}
        self._first_seen: dict[str, float] = {}
        self._over: dict[str, float] = {}
        self._bells: dict[str, anyio.Event] = {}
        self._change = anyio.Event()
        self._listed = anyio.Event()
        self._lost_at: float | None = None
        self._fault: BackendUnavailable | None = None

    async def run(self) -> None:
        """Keep up with the cluster, until cancelled."""
        version = ""
        delay, expired = _FIRST_DELAY, False
        while True:
            began, pause = anyio.current_time(), False
            try:
                if not version:
                    version = await self._list()
                async with aclosing(self._cluster.watch(version)) as changes:
                    async for what, found in changes:
                        self._well()
                        delay, expired, began = _FIRST_DELAY, False, 0.0
                        version = found["metadata"]["resourceVersion"]
                        if what != "BOOKMARK":
                            self.learn(found, gone=what == "DELETED")
                self._well()
                pause = anyio.current_time() - began < _AT_ONCE
            except Expired:
                # From the same version it would expire again: list, and go on from there.
                version = ""
                expired, pause = True, expired
            except BackendUnavailable as error:
                self._ill(error)
                pause = True
            except Exception:
                # Whatever it was, those who wait would never hear of their pods again.
                log.exception("the watch of build pods broke; it is begun anew")
                version = ""
                delay, pause = _LONGEST_DELAY, True
            if pause:
                await anyio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)

    async def _list(self) -> str:
        # What is learned while the list is made may be missing in it.
        before = set(self._pods)
        items, version = await self._cluster.pods()
        self._well()
        for item in items:
            self.learn(item)
        for uid in before - {item["metadata"]["uid"] for item in items}:
            if (pod := self._pods.get(uid)) is not None:  # nobody forgot it meanwhile
                self._keep(replace(pod, gone=True))
        self._listed.set()
        return version

    def learn(self, found: Object, *, gone: bool = False) -> Pod:
        """Take note of a pod, as the API told it, and return what is known of it now."""
        return self._keep(read(found, gone=gone))

    def _keep(self, pod: Pod) -> Pod:
        known = self._pods.get(pod.uid)
        if known is not None and _how_far(known) > _how_far(pod):
            return known  # an answer that was overtaken by the watch
        if pod == known:
            return pod
        self._pods[pod.uid] = pod
        self._first_seen.setdefault(pod.uid, anyio.current_time())
        if pod.over:
            # What had ended before we came has ended when the cluster says.
            ended = pod.finished if known is None else 0.0
            self._over.setdefault(pod.uid, ended or time.time())
        if pod.gone:
            self._forget(pod.uid)
        if bell := self._bells.pop(pod.uid, None):
            bell.set()
        self.ring()
        return pod

    def ring(self) -> None:
        """Let those who wait for a change look again."""
        self._change.set()
        self._change = anyio.Event()

    def _forget(self, uid: str) -> None:
        now = anyio.current_time()
        self._gone[uid] = now
        for old in [uid for uid, since in self._gone.items() if now - since > _KEEP_GONE]:
            for each in (self._gone, self._pods, self._first_seen, self._over):
                each.pop(old, None)

    def _well(self) -> None:
        self._lost_at = self._fault = None

    def _ill(self, error: BackendUnavailable) -> None:
        if self._lost_at is None:
            self._lost_at = anyio.current_time()
            log.warning("the watch of build pods is interrupted: %s", error.message)
        self._fault = error

    # -- What builds ask for -----------------------------------------------------------------

    async def there(self) -> list[Pod]:
        """Return all pods that are there, once they are known.

        Raises:
            BackendUnavailable: The API server has been away for too long.
        """
        while not self._listed.is_set():
            self._check_outage()
            with anyio.move_on_after(_LOOK_AGAIN):
                await self._listed.wait()
        return self.known()

    def known(self) -> list[Pod]:
        """Return all pods that are there, as far as is known."""
        return [pod for pod in self._pods.values() if not pod.gone]

    async def change(self, within: float) -> None:
        """Return when any pod has changed, or after so many seconds.

        Raises:
            BackendUnavailable: The API server has been away for too long.
        """
        self._check_outage()
        with anyio.move_on_after(within):
            await self._change.wait()

    def now(self, pod: Pod) -> Pod:
        """Return what is known of a pod now."""
        return self._pods.get(pod.uid, pod)

    def known_for(self, pod: Pod) -> float:
        """Return for how many seconds a pod has been known here: no clock but ours has a say."""
        now = anyio.current_time()
        return now - self._first_seen.get(pod.uid, now)

    def over_since(self, pod: Pod) -> float:
        """Return when a pod was over, in seconds since 1970: as was seen, else as it says."""
        return self._over.get(pod.uid) or pod.finished or time.time()

    def said(self, pod: Pod, *, built: bool) -> Pod:
        """Take note that a pod's log has ended with its outcome: the cluster will say so later."""
        return self._keep(replace(self.now(pod), phase="Succeeded" if built else "Failed"))

    async def until(self, pod: Pod, what: Callable[[Pod], bool]) -> Pod:
        """Return the pod when that is true of it, or when it is gone.

        Raises:
            BackendUnavailable: The API server has been away for too long.
        """
        while True:
            pod = self.now(pod)
            if pod.gone or what(pod):
                return pod
            bell = self._bells.get(pod.uid)
            if bell is None or bell.is_set():
                bell = self._bells[pod.uid] = anyio.Event()
            with anyio.move_on_after(_LOOK_AGAIN):
                await bell.wait()
                continue
            self._check_outage()
            await self.look(pod)

    async def until_over(self, pod: Pod, *, within: float) -> Pod:
        """Return the pod when it is over, or what is known of it after so many seconds."""
        with anyio.move_on_after(within):
            return await self.until(pod, lambda pod: pod.over)
        return self.now(pod)

    async def look(self, pod: Pod) -> Pod:
        """Ask for a pod by name, where that is possible now, and return what is known of it."""
        try:
            found = await self._cluster.pod(pod.name)
        except Outage as error:
            self._ill(error)
            return self.now(pod)
        self._well()
        if found is None or found["metadata"]["uid"] != pod.uid:
            return self._keep(replace(self.now(pod), gone=True))
        return self.learn(found)

    def _check_outage(self) -> None:
        if self._fault is None or self._lost_at is None:
            return
        if anyio.current_time() - self._lost_at > self.outage or not isinstance(
            self._fault, Outage
        ):
            raise self._fault


def _how_far(pod: Pod) -> tuple[bool, ...]:
    """Return how far a pod is on its way, which is a way without a return."""
    return (
        pod.gone,
        pod.exit_code is not None or pod.phase in ("Succeeded", "Failed"),
        pod.deleting,
        bool(pod.ended),
        pod.started,
        pod.scheduled,
    )
