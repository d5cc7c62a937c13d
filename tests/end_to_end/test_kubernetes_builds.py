"""From a link to a cell that runs, with builds in pods; and what a request costs a full cluster."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpx
import pytest
from docker_host import expect_growth, image_of, phases
from kernels import open_notebook
from real_server import RealServer, hear

from binder_backends.kubernetes import KubernetesBuilder
from binder_backends.kubernetes.manifest import MANAGED
from binder_core.testing import StrictReport
from engines import images
from engines.docker import DockerEngine
from engines.git_server import GitServer
from engines.kubernetes import KubernetesCluster
from engines.kubernetes_builds import Place

pytestmark = [pytest.mark.real, pytest.mark.anyio]

DOCKERFILE = """\
FROM jupyter-base:test
COPY . /srv/demo
WORKDIR /srv/demo
RUN dd if=/dev/urandom of=/srv/big bs=1M count=8 2>/dev/null
"""
PASSWORD = "pass-word-of-git"
CALLS = Counter({"get pods": 3, "create pods": 1, "create secrets": 1, "get pods/log": 1})
"""Of a build: is there one of that name? Begin it. Is the log that of this very pod? How did it
end?"""
AGAIN = ("get pods", "get pods/log")
"""Of a log that was asked for too early."""


@pytest.fixture
def git(own_kubernetes_cluster: KubernetesCluster, tmp_path: Path) -> Iterator[GitServer]:
    address = own_kubernetes_cluster.outside
    with GitServer(tmp_path / "git", address, login=f"reader:{PASSWORD}") as server:
        yield server


@pytest.fixture
def server(
    kubernetes_builds: Place, docker_engine: DockerEngine, git: GitServer, tmp_path: Path
) -> Iterator[Callable[[], RealServer]]:
    place = kubernetes_builds
    made: list[RealServer] = []
    settings = {
        "security.auth": "token",
        "security.key": secrets.token_hex(16),
        "builder.kind": "kubernetes",
        "builder.image_prefix": f"{place.registry.address}/whole-way-",
        "builder.kubernetes.kubeconfig": str(place.cluster.kubeconfig),
        "builder.kubernetes.namespace": place.namespace,
        "builder.kubernetes.builder_image": place.image,
        "builder.kubernetes.docker_socket": str(place.engine.socket),
        "builder.kubernetes.registry.plain_http": [place.registry.address],
        "builder.kubernetes.git_credentials": {
            f"http://{git.host}": {"user": "reader", "password": PASSWORD}
        },
        # Another engine than the one that builds: it has the image from the registry.
        "launcher.kind": "docker",
        "launcher.docker.host": docker_engine.host,
        "launcher.docker.pull": True,
        "asker.allow_networks": [str(place.cluster.engine.bridge.block)],
        "providers.git.schemes": ["http", "https"],
    }

    def make() -> RealServer:
        one = RealServer(tmp_path / f"server-{len(made)}", settings)
        made.append(one)
        one.start()
        return one

    yield make
    for one in made:
        one.stop()
    servers = docker_engine.docker("ps", "-aq", "--filter", "label=io.binderkit.server").split()
    if servers:
        docker_engine.docker("rm", "-f", "-v", *servers)
    for one in made:
        assert one.left_behind() == []


async def test_a_repository_goes_all_the_way(
    kubernetes_builds: Place,
    docker_engine: DockerEngine,
    jupyter_base: str,
    git: GitServer,
    server: Callable[[], RealServer],
) -> None:
    place = kubernetes_builds
    await anyio.to_thread.run_sync(place.cluster.load, jupyter_base, docker_engine)
    files = {"Dockerfile": DOCKERFILE, "index.ipynb": "{}", "told.txt": "by the repository"}
    url, commit = git.repository("demo", files)
    spec = f"git/{quote(url, safe='')}/{commit}"
    async with server().client() as client:
        heard = await hear(client, spec, within=300)
        assert phases(heard) == [
            *("waiting", "fetching", "building", "pushing", "built", "launching", "ready")
        ], heard[-1].data
        expect_growth(heard, at_least=8 * 2**20)
        image = image_of(heard)
        assert await anyio.to_thread.run_sync(place.pushed, image)
        await expect_notebook(heard[-1].data)
        again = await hear(client, spec, within=120)
        assert phases(again) == ["built", "launching", "ready"], "a hit"
    [pod] = await anyio.to_thread.run_sync(place.pods)
    told = json.dumps(pod) + "".join(one.message for one in heard)
    assert PASSWORD not in told
    assert pod["metadata"]["annotations"]["io.binderkit/image"] == image


async def expect_notebook(ready: dict[str, str]) -> None:
    code = "print(6 * 7, open('told.txt').read())"
    assert await open_notebook(ready["url"], ready["token"], code) == "42 by the repository\n"


async def test_a_thousand_pods_cost_a_request_nothing(kubernetes_place: Place) -> None:
    with kubernetes_place.cluster.namespace() as name:
        place = replace(kubernetes_place, namespace=name)
        await fill(place, 10)
        few = await calls_of_a_build(place)
        await fill(place, 990)
        many = await calls_of_a_build(place)
        quotas = {"max_builds": 2000, "max_builds_per_repo": 1000}
        counted = await calls_of_a_build(place, **quotas)
    for asked in (few, many, counted):
        too_early = asked["get pods/log"] - 1
        assert asked == CALLS + Counter(dict.fromkeys(AGAIN, too_early)), asked
        assert too_early <= 2


async def calls_of_a_build(place: Place, **options: Any) -> Counter[str]:
    """Build, and return what the API server was asked for its sake."""
    request = place.request()
    before = len(place.cluster.requests("OpenAPI-Generator"))
    async with KubernetesBuilder(place.settings(**options)) as builder:
        await builder.under_way()  # the list of all is there
        with anyio.fail_after(120):
            await builder.build(request, StrictReport())
    asked: Counter[str] = Counter()
    # Of one that lasts there are two records.
    records = place.cluster.requests("OpenAPI-Generator")[before:]
    for record in {record["auditID"]: record for record in records}.values():
        subject = record.get("objectRef", {})
        if subject.get("namespace") != place.namespace:
            continue
        body = subject.get("name", "") or request.name
        if record["verb"] in ("list", "watch") or not body.startswith(request.name[:12]):
            continue
        what = "/".join(filter(None, (subject["resource"], subject.get("subresource"))))
        asked[f"{record['verb']} {what}"] += 1
    return asked


async def fill(place: Place, number: int) -> None:
    """Make so many build pods, half of them ended and half running, as far as the API knows."""
    config = json.loads(place.cluster.kubeconfig.read_text())
    token = config["users"][0]["user"]["token"]
    base = f"{place.cluster.server}/api/v1/namespaces/{place.namespace}/pods"
    limiter = anyio.CapacityLimiter(16)
    async with (
        httpx.AsyncClient(
            verify=False,
            trust_env=False,
            timeout=60,
            headers={"authorization": f"Bearer {token}"},
        ) as client,
        anyio.create_task_group() as tasks,
    ):

        async def make(index: int) -> None:
            async with limiter:
                pod = {
                    "metadata": {"generateName": "old-", "labels": MANAGED},
                    # No node has this: it is never started.
                    "spec": {
                        "nodeSelector": {"nobody": "has-this"},
                        "containers": [{"name": "build", "image": images.BUSYBOX}],
                    },
                }
                made = (await client.post(base, json=pod)).raise_for_status().json()
                ended = {"terminated": {"exitCode": 0, "finishedAt": "2999-01-01T00:00:00Z"}}
                state = ended if index % 2 else {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
                status = {
                    "phase": "Succeeded" if index % 2 else "Running",
                    "containerStatuses": [
                        {
                            "name": "build",
                            "image": "",
                            "imageID": "",
                            "ready": False,
                            "restartCount": 0,
                            "state": state,
                        }
                    ],
                }
                path = f"{base}/{made['metadata']['name']}/status"
                answer = await client.patch(
                    path,
                    json={"status": status},
                    headers={"content-type": "application/merge-patch+json"},
                )
                answer.raise_for_status()

        for index in range(number):
            tasks.start_soon(make, index)
