"""A cluster that is played: pods as the API tells them, a watch, and what was asked of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any, Self

import anyio
import pytest
from anyio.streams.memory import MemoryObjectSendStream

from binder_backends.kubernetes import builder as module
from binder_backends.kubernetes.cluster import Denied, Exists, NotYet
from binder_core.plugin import Outcome, encode_log

Object = dict[str, Any]


def at(moment: float) -> str:
    """Return a moment as the API writes it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class PlayedCluster:
    """Has what `Cluster` has. Its pods run as soon as they are made."""

    namespace = "played"

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.asked: Counter[str] = Counter()
        self.most = 0
        """The largest number of pods that ran at once."""
        self.room: float = math.inf
        """How many pods a quota of the cluster's own lets run."""
        self.secret_room: float = math.inf
        """How many secrets it takes."""
        self.secrets: list[Object] = []
        self.images: set[str] = set()
        self.deleted: list[str] = []
        self.pending: Object | None = None
        """The status of pods that are made; None: they run."""
        self.early: set[str] = set()
        """Names of pods whose logs end before their nodes say that they have."""
        self._numbers = count(1)
        self._watches: list[MemoryObjectSendStream[tuple[str, Object]]] = []

    # -- What a test does --------------------------------------------------------------------

    @property
    def running(self) -> int:
        return sum(one["status"]["phase"] == "Running" for one in self.objects.values())

    def _runs(self, name: str) -> bool:
        return name in self.objects and self.objects[name]["status"]["phase"] == "Running"

    def put(self, name: str, status: Mapping[str, Any], **metadata: Any) -> Object:
        """Have a pod of that name."""
        pod = {"metadata": {"name": name, **metadata}, "spec": {}, "status": dict(status)}
        return self._keep(pod, "ADDED")

    def end(self, name: str, code: int = 0) -> None:
        """Let a pod end."""
        pod = self.objects[name]
        now = at(datetime.now(UTC).timestamp())
        ended = {"exitCode": code, "startedAt": now, "finishedAt": now}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "build", "state": {"terminated": ended}}],
        }
        self._keep({**pod, "status": status}, "MODIFIED")

    def annotate(self, name: str, text: str) -> None:
        """Change something of a pod that is of no matter."""
        pod = self.objects[name]
        annotations = {**pod["metadata"].get("annotations", {}), "text": text}
        self._keep({**pod, "metadata": {**pod["metadata"], "annotations": annotations}}, "MODIFIED")

    def _keep(self, pod: Object, what: str) -> Object:
        metadata = {
            "creationTimestamp": at(datetime.now(UTC).timestamp()),
            "uid": f"u-{next(self._numbers)}",
            **pod["metadata"],
            "resourceVersion": str(next(self._numbers)),
        }
        pod = {**pod, "metadata": metadata}
        if what == "DELETED":
            del self.objects[metadata["name"]]
        else:
            self.objects[metadata["name"]] = pod
        self.most = max(self.most, self.running)
        for watch in self._watches:
            watch.send_nowait((what, pod))
        return pod

    # -- What the builder asks ---------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        pass

    async def _ask(self, what: str) -> None:
        self.asked[what] += 1
        await anyio.sleep(0.001)

    async def version(self) -> str:
        return "v0"

    async def may(self, verb: str, resource: str) -> bool:
        del verb, resource
        return True

    async def pod(self, name: str) -> Object | None:
        await self._ask("get pods")
        return self.objects.get(name)

    async def pods(self) -> tuple[list[Object], str]:
        await self._ask("list pods")
        return list(self.objects.values()), "0"

    async def create_pod(self, pod: Object) -> Object:
        await self._ask("create pods")
        if pod["metadata"]["name"] in self.objects:
            raise Exists
        if self.running >= self.room:
            raise Denied("pods is forbidden: exceeded quota: few")
        state = {"running": {"startedAt": at(datetime.now(UTC).timestamp())}}
        states = [{"name": "build", "state": state}]
        running = {"phase": "Running", "containerStatuses": states}
        return self._keep({**pod, "status": self.pending or running}, "ADDED")

    async def create_secret(self, secret: Object) -> None:
        await self._ask("create secrets")
        if len(self.secrets) >= self.secret_room:
            raise Denied("secrets is forbidden: exceeded quota: few")
        if secret["metadata"]["name"] not in [one["metadata"]["name"] for one in self.secrets]:
            self.secrets.append(secret)

    async def patch_pod(self, name: str, uid: str, patch: Object) -> Object | None:
        await self._ask("patch pods")
        pod = self.objects.get(name)
        if pod is None or pod["metadata"]["uid"] != uid:
            return None
        annotations = pod["metadata"].get("annotations", {}) | patch["metadata"]["annotations"]
        metadata = {**pod["metadata"], "annotations": annotations}
        return self._keep({**pod, "metadata": metadata}, "MODIFIED")

    async def delete_pod(self, name: str, uid: str, *, grace: int | None = None) -> None:
        await self._ask(f"delete pods {grace}")
        pod = self.objects.get(name)
        if pod is not None and pod["metadata"]["uid"] == uid:
            self.deleted.append(name)
            self._keep(pod, "DELETED")

    async def watch(self, version: str) -> AsyncGenerator[tuple[str, Object], None]:
        del version
        self.asked["watch pods"] += 1
        send, receive = anyio.create_memory_object_stream[tuple[str, Object]](math.inf)
        self._watches.append(send)
        try:
            with send, receive:
                async for change in receive:
                    yield change
        finally:
            self._watches.remove(send)

    @asynccontextmanager
    async def log(
        self, name: str, *, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[Callable[[], Awaitable[bytes]]]:
        await self._ask("get pods/log")
        if name not in self.objects or self.objects[name]["status"]["phase"] == "Pending":
            raise NotYet
        pieces = [encode_log(Outcome(1, built=True)), b""]

        async def read() -> bytes:
            if follow and tail is None and name not in self.early:
                while self._runs(name):  # noqa: ASYNC110 - it tells nobody
                    await anyio.sleep(0.001)
            return pieces.pop(0)

        yield read


class PlayedRegistry:
    """Has what `Registry` has."""

    def __init__(self, cluster: PlayedCluster) -> None:
        self._cluster = cluster

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        pass

    async def exists(self, image: str) -> bool:
        self._cluster.asked["registry"] += 1
        await anyio.sleep(0.001)
        return image in self._cluster.images

    async def push_config(self, image: str) -> bytes:
        del image
        return b""


def play(monkeypatch: pytest.MonkeyPatch) -> PlayedCluster:
    """Return the cluster of all builders that are made."""
    cluster = PlayedCluster()
    monkeypatch.setattr(module, "Cluster", lambda _: cluster)
    monkeypatch.setattr(module, "Registry", lambda _: PlayedRegistry(cluster))
    return cluster
