"""Pods as the builder follows them: what it knows of them, gives them and clears away."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from played_cluster import PlayedCluster, at, play

from binder_backends.kubernetes import KubernetesBuilder, KubernetesSettings, builder, watching
from binder_backends.kubernetes.cluster import Cluster, Expired, Outage
from binder_backends.kubernetes.manifest import ending
from binder_backends.kubernetes.watching import Pods
from binder_core.plugin import BackendUnavailable, BuildFailed, BuildRequest
from binder_core.testing import StrictReport

pytestmark = pytest.mark.anyio

REQUEST = BuildRequest("a-build", "registry.example/a:1", "https://example.org/a", "1" * 40)
RUNNING = {"name": "build", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
NO_NODE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedCluster:
    return play(monkeypatch)


async def until(true: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not true():  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(0.001)


async def failure_of(builds: KubernetesBuilder, request: BuildRequest = REQUEST) -> str:
    with anyio.fail_after(30), pytest.raises(BuildFailed) as failed:
        await builds.build(request, StrictReport())
    return failed.value.message


# -- The watch -----------------------------------------------------------------------------------


class Ending(PlayedCluster):
    """A cluster whose watches end at once."""

    def __init__(self, fault: Exception | None) -> None:
        super().__init__()
        self._fault = fault

    async def watch(self, version: str) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        self.asked["watch pods"] += 1
        await anyio.lowlevel.checkpoint()
        if self._fault is not None:
            raise self._fault
        for never in self.objects.values():
            yield "", never


@pytest.mark.parametrize("fault", [None, Expired("too old"), Outage("away")], ids=str)
async def test_a_watch_that_ends_at_once_is_not_begun_anew_at_once(
    fault: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds > 0.001:  # the cluster's own
            pauses.append(seconds)
        if len(pauses) == 6:
            tasks.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(watching.anyio, "sleep", sleep)  # type: ignore[attr-defined]
    cluster = Ending(fault)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Pods(cast("Cluster", cluster), outage=300.0).run)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0]
    # An expired one is followed by another at once: its version may have been old indeed.
    assert cluster.asked["watch pods"] == 6 + isinstance(fault, Expired)


async def test_an_api_server_that_answers_is_not_away(played: PlayedCluster) -> None:
    pods = Pods(cast("Cluster", played), outage=0.0)
    pod = pods.learn(played.put("a-build", {"phase": "Running"}))
    asked = played.pod

    async def away(name: str) -> None:
        raise Outage("It is restarted.")

    played.pod = away  # type: ignore[method-assign]
    await pods.look(pod)
    await anyio.sleep(0.002)
    with pytest.raises(Outage):
        await pods.change(0.0)
    played.pod = asked  # type: ignore[method-assign]
    await pods.look(pod)
    await pods.change(0.0)


# -- It cannot begin -----------------------------------------------------------------------------


async def test_a_quota_of_secrets_leaves_no_pod_behind(played: PlayedCluster) -> None:
    played.secret_room = 0
    settings = KubernetesSettings(pending_timeout=0.1)
    async with KubernetesBuilder(settings) as builds:
        assert "quota for builds is used up" in await failure_of(builds)
    assert played.asked["create pods"] == 1
    assert played.objects == {}


async def test_a_build_that_could_not_begin_is_looked_at_before_it_is_ended(
    played: PlayedCluster,
) -> None:
    played.pending = {"phase": "Pending"}
    async with KubernetesBuilder(KubernetesSettings(pending_timeout=0.2)) as builds:
        report = StrictReport()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(builds.build, REQUEST, report)
            await until(lambda: "a-build" in played.objects)
            # It starts, and the watch does not say so.
            played.objects["a-build"] |= {
                "status": {"phase": "Running", "containerStatuses": [RUNNING]}
            }
            await until(lambda: report.run_id)
            played.end("a-build")
    assert played.asked["patch pods"] == 0


@pytest.mark.parametrize(
    ("status", "options", "words"),
    [
        ({}, {}, "was given no node"),
        ({"conditions": [NO_NODE]}, {}, "No node can take the build now: full"),
        (
            {"conditions": [{"type": "PodScheduled", "status": "True"}]},
            {},
            "is builder.kubernetes.docker_socket there",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "True"}]},
            {"docker_host": "tcp://engine.example:2375"},
            "Its node has not started it, and does not say why.",
        ),
    ],
)
async def test_a_build_that_did_not_begin_says_what_is_known(
    played: PlayedCluster, status: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    # By the cluster's clock it has waited for long, or has not been made yet.
    for moment in (time.time() - 3600, time.time() + 3600):
        played.put("a-build", {"phase": "Pending", **status}, creationTimestamp=at(moment))
        began = anyio.current_time()
        settings = KubernetesSettings(pending_timeout=0.1, **options)
        async with KubernetesBuilder(settings) as builds:
            said = await failure_of(builds)
        assert said.startswith("The build could not begin within 0.1 s. ")
        assert words in said
        assert anyio.current_time() - began >= 0.1
        del played.objects["a-build"]


# -- Secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "secrets"),
    [({}, 1), ({"content_provider": "Zenodo"}, 0), ({"ref": "2" * 40}, 0)],
)
async def test_a_pod_whose_server_died_gets_its_secret_from_who_wants_the_same(
    played: PlayedCluster,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, Any],
    secrets: int,
) -> None:
    async def dies(secret: dict[str, Any]) -> None:
        raise Outage("And so is the server.")

    played.pending = {"phase": "Pending", "conditions": [NO_NODE]}
    async with KubernetesBuilder(KubernetesSettings()) as builds:
        with monkeypatch.context() as patch, pytest.raises(Outage):
            patch.setattr(played, "create_secret", dies)
            await builds.build(REQUEST, StrictReport())
        async with anyio.create_task_group() as tasks:
            report = StrictReport()
            tasks.start_soon(builds.build, replace(REQUEST, **other), report)
            await until(lambda: report.queue)
            tasks.cancel_scope.cancel()
    assert len(played.secrets) == secrets


async def test_a_quota_of_secrets_is_no_trouble_for_who_finds_a_build(
    played: PlayedCluster,
) -> None:
    played.pending = {"phase": "Pending", "conditions": [NO_NODE]}
    played.secret_room = 1
    first, second = StrictReport(), StrictReport()
    async with (
        KubernetesBuilder(KubernetesSettings()) as builds,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(builds.build, REQUEST, first)
        await until(lambda: first.queue)
        tasks.start_soon(builds.build, REQUEST, second)
        await until(lambda: second.queue)
        tasks.cancel_scope.cancel()
    assert played.asked["create secrets"] == 2
    assert list(played.objects) == [REQUEST.name]


# -- Housekeeping --------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_TIDY_EVERY", 0.001)


def ended(played: PlayedCluster, name: str, ago: float) -> None:
    """Have a pod that ended so many seconds ago."""
    moments = {"startedAt": at(time.time() - 4000), "finishedAt": at(time.time() - ago)}
    states = [{"name": "build", "state": {"terminated": {"exitCode": 0, **moments}}}]
    played.put(name, {"phase": "Succeeded", "containerStatuses": states})


async def test_what_has_just_ended_is_kept_however_long_it_ran(
    played: PlayedCluster, often: None
) -> None:
    began = at(time.time() - 4000)
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": began}
    status = {"phase": "Running", "containerStatuses": [RUNNING], "conditions": [ready]}
    told = {"creationTimestamp": began}
    played.put("ends", status, **told)
    played.put("is-evicted", status, **told, uid="evicted")
    ended(played, "ended-lately", 3500)
    ended(played, "ended-long-ago", 3700)
    played.early.add("ends")
    async with KubernetesBuilder(KubernetesSettings()) as builds:
        await until(lambda: played.deleted)
        # As its log tells it, before its node does; and as Kubernetes 1.20 tells an eviction.
        await builds.build(replace(REQUEST, name="ends"), StrictReport())
        evicted = {"phase": "Failed", "reason": "Evicted"}
        played.put("is-evicted", evicted, **told, uid="evicted")
        ended(played, "another", 3700)
        await until(lambda: len(played.deleted) > 1)
    assert played.deleted == ["ended-long-ago", "another"]


async def test_what_was_given_up_without_a_node_is_not_kept_for_long(
    played: PlayedCluster, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = ending("There was no node.")["metadata"]
    without = {"phase": "Pending", "conditions": [NO_NODE]}
    played.put("no-node", without, **given_up)
    played.put("failed", {"phase": "Failed"}, **given_up)
    async with KubernetesBuilder(KubernetesSettings()):
        ended(played, "another", 3700)
        await until(lambda: played.deleted)
        assert played.deleted == ["another"]
        monkeypatch.setattr(builder, "_KEEP_PENDING", 0.0)
        await until(lambda: len(played.deleted) > 1)
        ended(played, "one-more", 3700)
        await until(lambda: "one-more" in played.deleted)
    assert played.deleted == ["another", "no-node", "one-more"]


async def test_a_pod_for_which_nobody_waits_is_given_up_in_the_end(
    played: PlayedCluster, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_STOP_WITHIN", 0.05)
    began = {"creationTimestamp": at(time.time() - 4000)}
    played.put("waits", {"phase": "Pending", "conditions": [NO_NODE]}, **began)
    started = played.put("starts", {"phase": "Pending"}, **began)
    # The watch has not said so.
    started["status"] = {"phase": "Running", "containerStatuses": [RUNNING]}
    async with KubernetesBuilder(KubernetesSettings(pending_timeout=0.05)) as builds:
        await until(lambda: played.asked["patch pods"])
        follow = replace(REQUEST, name="waits", follow=played.objects["waits"]["metadata"]["uid"])
        assert "could not begin in time" in await failure_of(builds, follow)
        assert [run.name for run in await builds.under_way()] == ["starts"]
    assert played.asked["patch pods"] == 1


async def test_housekeeping_goes_on_whatever_happened(
    played: PlayedCluster, often: None, caplog: pytest.LogCaptureFixture
) -> None:
    deleted = played.delete_pod
    faults = [BackendUnavailable("Not now."), ValueError("Who would have thought?")]

    async def delete_pod(name: str, uid: str, *, grace: int | None = None) -> None:
        if faults:
            raise faults.pop()
        await deleted(name, uid, grace=grace)

    played.delete_pod = delete_pod  # type: ignore[method-assign]
    ended(played, "ended-long-ago", 3700)
    async with KubernetesBuilder(KubernetesSettings()):
        await until(lambda: played.deleted)
    assert "housekeeping broke" in caplog.text
    assert "could not be removed: Not now." in caplog.text
