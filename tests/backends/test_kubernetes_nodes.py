"""The Kubernetes builder where a node is full, lost, or away for a while."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from watched_builds import GUARD, Watching, absent, building, eventually, off

from binder_backends.kubernetes import KubernetesBuilder, KubernetesSettings
from binder_backends.kubernetes.affinity import rendezvous
from binder_core.plugin import BackendUnavailable, BuildRequest
from binder_core.testing import StrictReport
from engines.docker import DockerEngine
from engines.kubernetes import NODE_LOST_AFTER, KubernetesCluster
from engines.kubernetes_builds import RELEASE, Place
from engines.kubernetes_worker import SOCKET, Worker, second_worker

pytestmark = [pytest.mark.real, pytest.mark.anyio]

TOLERATED = 5
TOLD_WITHIN = NODE_LOST_AFTER + TOLERATED + 30
"""Seconds within which the loss of a node is told: until the cluster has noticed, what pods
tolerate, and a reserve for a machine that is busy."""
TOLERATIONS = [
    {
        "key": f"node.kubernetes.io/{key}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": TOLERATED,
    }
    for key in ("unreachable", "not-ready")
]
STEADY = f"""
for word; do case "$word" in --image-name=*) image=${{word#*=}} ;; esac; done
say() {{ printf '{{"message": "%s\\\\n", "phase": "building"}}\\n' "$1" >&2; }}
n=0
until [ -e {RELEASE} ]; do n=$((n + 1)); say "line $n"; sleep 0.1; done
docker tag busybox:test "$image"
"""
"""In the place of repo2docker: it does not stop talking before it may."""
LINES = 4000
TALKS = f"""
for word; do case "$word" in --image-name=*) image=${{word#*=}} ;; esac; done
for n in $(seq 1 {LINES}); do
  printf '{{"message": "line %s of many that take some room\\\\n", "phase": "building"}}\n' $n >&2
done
until [ -e {RELEASE} ]; do sleep 0.1; done
docker tag busybox:test "$image"
"""
"""It says more than the second node keeps."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # kubernetes-asyncio knows no other


@pytest.fixture(scope="module")
def second(kubernetes_builds: Place, docker_engine: DockerEngine) -> Iterator[Worker]:
    """Give the cluster another node, which can build as well."""
    with second_worker(kubernetes_builds.cluster) as worker:
        worker.load(kubernetes_builds.image, docker_engine)
        yield worker


def steady(place: Place, **options: Any) -> KubernetesSettings:
    command = ["sh", "-c", STEADY, "script"]
    return place.settings(docker_socket=SOCKET, repo2docker=command, **options)


def numbers(watching: Watching) -> list[int]:
    return [int(line.split()[1]) for line in watching.text if line.startswith("line ")]


def gaps(watching: Watching) -> list[int]:
    """Return how many lines are said to be gone, wherever that is said."""
    found = [re.search(r"thrown away (?:the first )?(\d+) line", line) for line in watching.text]
    return [int(gap[1]) for gap in found if gap]


def of_node(place: Place, node: str, nodes: tuple[str, ...]) -> BuildRequest:
    """Return a request whose repository belongs to a node."""
    urls = (f"https://example.org/steady-{number}" for number in range(100))
    return place.request(url=next(url for url in urls if rendezvous(url, nodes) == node))


def node_of(place: Place, request: BuildRequest) -> str:
    pod = place.pod(request.name)
    assert pod is not None
    return str(pod["spec"]["nodeName"])


async def test_a_build_that_writes_too_much_is_evicted_and_says_so(
    kubernetes_builds: Place,
) -> None:
    place = kubernetes_builds
    script = "echo begun; dd if=/dev/zero of=/tmp/big bs=1M count=100; while :; do sleep 1; done"
    writes = ["sh", "-c", script, "script"]
    async with building(place.settings(repo2docker=writes, disk_limit="20M")) as start:
        watching = start(place.request())
        failure = await watching.end()
    assert "wrote more to its node's disk than it may" in failure
    assert "builder.kubernetes.disk_limit" in failure
    assert "begun" in "".join(watching.text), "what it had said is told"


async def test_builds_keep_apart_or_come_home_as_is_asked(
    kubernetes_builds: Place, second: Worker
) -> None:
    place, nodes = kubernetes_builds, (kubernetes_builds.cluster.worker.name, second.name)
    async with building(steady(place, placement="spread")) as start:
        spread = [place.request("steady"), place.request("steady")]
        for request in spread:
            await start(request).until_line()
        assert {await off(node_of, place, request) for request in spread} == set(nodes)
        for request in spread:
            await off(place.release, request)
    async with building(steady(place, placement="repository", nodes=nodes)) as start:
        for node in (*nodes, *nodes):
            request = of_node(place, node, nodes)
            watching = start(request)
            await watching.until_line()
            assert await off(node_of, place, request) == node
            await off(place.release, request)
            assert await watching.end() == ""
            assert await off(place.pushed, request.image)


async def test_lines_that_the_node_has_rotated_away_are_said_to_be(
    kubernetes_builds: Place, second: Worker
) -> None:
    place, nodes = kubernetes_builds, (kubernetes_builds.cluster.worker.name, second.name)
    request = of_node(place, second.name, nodes)
    settings = place.settings(
        docker_socket=SOCKET,
        repo2docker=["sh", "-c", TALKS, "script"],
        placement="repository",
        nodes=nodes,
    )
    async with building(settings) as start, building(settings) as elsewhere:
        watching = start(request)

        async def said() -> bool:
            return LINES in numbers(watching)

        await eventually(said)
        late = elsewhere(request)
        await late.until_line()
        await off(place.release, request)
        assert await watching.end() == ""
        assert await late.end() == ""
    # No line is lost in silence.
    for each in (watching, late):
        assert len(each.text) - len(gaps(each)) + sum(gaps(each)) == max(each.report.lines)
    assert "thrown away the first" in late.text[0]
    told = numbers(late)
    assert told == list(range(told[0], LINES + 1))


async def test_a_node_that_is_away_for_a_while(kubernetes_builds: Place, second: Worker) -> None:
    place, cluster = kubernetes_builds, kubernetes_builds.cluster
    nodes = (cluster.worker.name, second.name)
    request = of_node(place, cluster.worker.name, nodes)
    async with building(steady(place, placement="repository", nodes=nodes)) as start:
        watching = start(request)
        await watching.until_line(20)
        assert await off(node_of, place, request) == cluster.worker.name
        await off(cluster.kill, "kubelet")
        try:
            # The cluster has noticed; after five minutes it would give its pods up.
            await eventually(partial(unready, cluster))
            before = len(watching.text)
            with pytest.raises(BackendUnavailable) as fault, anyio.fail_after(GUARD):
                hasty = steady(place, placement="repository", nodes=nodes, outage=1.0)
                async with KubernetesBuilder(hasty) as other:
                    await other.build(request, StrictReport())
            assert fault.value.message == "The build's node does not answer."
        finally:
            await off(cluster.run, "kubelet")
        await watching.until_line(before + 20)
        await off(place.release, request)
        assert await watching.end() == ""
        again = start(replace(request, follow=watching.report.run_id))
        assert await again.end() == ""
    told = numbers(watching)
    assert told == list(range(1, len(told) + 1)), "no line lost or twice"
    assert again.text == watching.text
    assert await off(place.runs, request.name) == 1
    assert await off(place.pushed, request.image)


async def test_a_node_that_is_lost_for_good(kubernetes_builds: Place, second: Worker) -> None:
    place, cluster = kubernetes_builds, kubernetes_builds.cluster
    nodes = (cluster.worker.name, second.name)
    request = of_node(place, cluster.worker.name, nodes)
    settings = steady(place, placement="repository", nodes=nodes, tolerations=TOLERATIONS)
    async with building(settings) as start:
        watching = start(request)
        await watching.until_line(20)
        assert await off(node_of, place, request) == cluster.worker.name
        await off(cluster.kill, "kubelet")
        try:
            with anyio.fail_after(TOLD_WITHIN):
                failure = await watching.end()
            assert "node that ran the build was lost" in failure
            again = start(request)
            await again.until_line(20)
            assert again.report.run_id != watching.report.run_id
            assert await off(node_of, place, request) == second.name, "where else"
            await off(place.release, request)
            assert await again.end() == ""
            assert await off(containers, cluster.worker, watching), "nobody could end it"
        finally:
            await off(cluster.run, "kubelet")
        # What it ran all the while is ended when it is back.
        await eventually(partial(absent, partial(off, containers, cluster.worker, watching)))
        await eventually(partial(off, cluster.is_ready))
    told = numbers(watching)
    assert told == list(range(1, len(told) + 1))
    assert await off(place.pushed, request.image)


def containers(worker: Worker, watching: Watching) -> list[str]:
    """Return those of a build that its node's engine runs."""
    ours = f"label=io.kubernetes.pod.uid={watching.report.run_id}"
    return worker.engine.docker("ps", "--quiet", "--filter", ours).split()


async def unready(cluster: KubernetesCluster) -> bool:
    return not await off(cluster.is_ready)
