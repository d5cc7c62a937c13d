"""Builds of one server that wait for each other, or for a quota of the cluster's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from played_cluster import PlayedCluster, play

from binder_backends.kubernetes import KubernetesBuilder, KubernetesSettings, quotas
from binder_backends.kubernetes.watching import Pods
from binder_core.plugin import BuildFailed, BuildRequest
from binder_core.testing import StrictReport

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedCluster:
    return play(monkeypatch)


def request(number: int, repo: str = "https://example.org/one") -> BuildRequest:
    return BuildRequest(f"build-{number}", f"registry.example/{number}:1", repo, "1" * 40)


class Builds:
    """Builds of one server."""

    def __init__(self, builder: KubernetesBuilder) -> None:
        self._builder = builder
        self.reports: dict[str, StrictReport] = {}
        self.ended: dict[str, str] = {}

    async def build(self, wanted: BuildRequest) -> None:
        report = self.reports[wanted.name] = StrictReport()
        try:
            await self._builder.build(wanted, report)
        except BuildFailed as failure:
            self.ended[wanted.name] = failure.message
        else:
            self.ended[wanted.name] = ""

    def waiting(self) -> list[str]:
        return [name for name, report in self.reports.items() if report.queue and not report.run_id]


@asynccontextmanager
async def building(requests: list[BuildRequest], **settings: Any) -> AsyncGenerator[Builds]:
    async with KubernetesBuilder(KubernetesSettings(**settings)) as builder:
        builds = Builds(builder)
        async with anyio.create_task_group() as tasks:
            for wanted in requests:
                tasks.start_soon(builds.build, wanted)
            yield builds
            tasks.cancel_scope.cancel()


async def until(true: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not true():  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(0.001)


def first_running(played: PlayedCluster) -> str:
    return next(n for n, pod in played.objects.items() if pod["status"]["phase"] == "Running")


async def end_one(played: PlayedCluster, builds: Builds) -> None:
    """Let a build end, and return when that was told. It wakes all who wait."""
    ended = len(builds.ended)
    await until(lambda: played.running)
    played.end(first_running(played))
    await until(lambda: len(builds.ended) > ended)


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"max_builds": 1}, 1),
        ({"max_builds": 3}, 3),
        ({"max_builds": 3, "max_builds_per_repo": 1}, 1),
        ({"max_builds_per_repo": 2}, 2),
    ],
)
async def test_quotas_hold_for_builds_that_come_in_one_moment(
    played: PlayedCluster, limits: dict[str, int], most: int
) -> None:
    async with building([request(n) for n in range(10)], **limits) as builds:
        await until(lambda: len(builds.waiting()) == 10 - most)
        await until(lambda: played.running == most)
        while len(builds.ended) < 10:
            await end_one(played, builds)
    assert played.most == most
    assert set(builds.ended.values()) == {""}
    assert played.asked["create pods"] == 10, "none was tried in vain"


async def test_a_quota_of_one_repository_holds_no_other_back(played: PlayedCluster) -> None:
    wanted = [request(n) for n in range(3)] + [request(9, "https://example.org/other")]
    async with building(wanted, max_builds_per_repo=1) as builds:
        await until(lambda: played.running == 2)
        await until(lambda: len(builds.waiting()) == 2)
        assert "build-9" in played.objects


async def test_a_build_that_cannot_begin_gives_its_place_back(
    played: PlayedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = played.create_pod

    async def create_pod(pod: dict[str, Any]) -> dict[str, Any]:
        if pod["metadata"]["name"] == "build-0":
            await anyio.sleep(0.01)
            raise BuildFailed("No such thing.")
        return await created(pod)

    monkeypatch.setattr(played, "create_pod", create_pod)
    async with building([request(n) for n in range(4)], max_builds=1) as builds:
        await until(lambda: builds.ended)
        assert builds.ended == {"build-0": "No such thing."}
        await until(lambda: played.running)
    assert played.most == 1


async def test_a_build_that_another_server_began_does_not_wait_on(played: PlayedCluster) -> None:
    played.put("elsewhere", {"phase": "Running"})
    async with building([request(0)], max_builds=1) as builds:
        await until(builds.waiting)
        running = {"startedAt": "2026-01-01T00:00:00Z"}
        states = [{"name": "build", "state": {"running": running}}]
        pod = played.put("build-0", {"phase": "Running", "containerStatuses": states})
        report = builds.reports["build-0"]
        await until(lambda: report.run_id)
        assert report.run_id == pod["metadata"]["uid"]
        assert played.asked["create pods"] == 0


async def test_a_build_that_waits_for_others_asks_nobody(played: PlayedCluster) -> None:
    played.put("elsewhere", {"phase": "Running"})
    async with building([request(n) for n in range(20)], max_builds=1) as builds:
        await until(lambda: len(builds.waiting()) == 20)
        before = Counter(played.asked)
        for number in range(50):
            played.annotate("elsewhere", f"{number}")
            await anyio.sleep(0.002)  # so that each is heard of by itself
        assert played.asked - before == Counter()


async def test_a_build_that_waited_too_long_says_for_what(played: PlayedCluster) -> None:
    played.put("elsewhere", {"phase": "Running"})
    async with building([request(0)], max_builds=1, pending_timeout=0.05) as builds:
        await until(lambda: builds.ended)
    assert "within 0.05 s. 1 builds are under way" in builds.ended["build-0"]


# -- A quota of the cluster's own ----------------------------------------------------------------


async def test_a_quota_of_the_cluster_is_tried_by_one_build_at_a_time(
    played: PlayedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "_FIRST_DELAY", 3600.0)
    played.room = 2
    async with building([request(n) for n in range(10)]) as builds:
        await until(lambda: len(builds.waiting()) == 8)
        # All have looked for their pods, and two have looked whose log they read.
        await until(lambda: played.asked["get pods"] == 12)
        before = Counter(played.asked)
        for number in range(20):
            played.annotate(first_running(played), f"{number}")
            await anyio.sleep(0.002)
        assert played.asked - before == Counter(), "what is no news costs nothing"
        while len(builds.ended) < 10:
            tried = played.asked["create pods"]
            await end_one(played, builds)
            await until(lambda: played.running == min(2, 10 - len(builds.ended)))
            # One has its place, and one more was refused.
            assert played.asked["create pods"] <= tried + 2
    assert set(builds.ended.values()) == {""}


async def test_a_quota_of_the_cluster_is_tried_more_and_more_rarely(
    played: PlayedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(quotas, "_LONGEST_DELAY", 0.5)
    played.room = 0
    tries: list[float] = []
    created = played.create_pod

    async def create_pod(pod: dict[str, Any]) -> dict[str, Any]:
        tries.append(anyio.current_time())
        return await created(pod)

    monkeypatch.setattr(played, "create_pod", create_pod)
    async with building([request(n) for n in range(3)]) as builds:
        await until(lambda: len(tries) >= 9)
        # All three in one moment, and then one after 0.01 s, one after 0.02 s and so on.
        assert tries[8] - tries[3] >= 0.02 + 0.04 + 0.08 + 0.16 + 0.32
        played.room = 3
        await until(lambda: played.running == 3)
        assert set(builds.reports) == set(played.objects)


async def test_who_waits_does_so_in_peace_once_the_cluster_has_room(
    played: PlayedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "_FIRST_DELAY", 0.01)
    waits = 0
    change = Pods.change

    async def counted(pods: Pods, within: float) -> None:
        nonlocal waits
        waits += 1
        await change(pods, within)

    monkeypatch.setattr(Pods, "change", counted)
    played.room = 1
    async with building([request(n) for n in range(4)], max_builds=2) as builds:
        await until(lambda: len(builds.waiting()) == 3)
        played.room = 4
        await until(lambda: played.running == 2)
        before = waits
        for number in range(10):
            played.annotate(first_running(played), f"{number}")
            await anyio.sleep(0.002)
        assert waits - before <= 2 * 10 + 6
