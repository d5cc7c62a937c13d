"""deploy/kubernetes as it is applied: two servers in pods, which share nothing but the cluster."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpx
import pytest
import yaml
from kubernetes_overlay import SERVER, apply, load_server, pods_of, write
from real_server import Heard, listening, until

from binder_backends.kubernetes.builder import NEEDED
from engines import images
from engines.docker import DockerEngine
from engines.kubernetes import KubernetesCluster
from engines.kubernetes_builds import RELEASE, Place
from engines.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

ASKED_OF_ONESELF = ("create", "selfsubjectaccessreviews")
"""What the cluster lets anybody do who is known to it."""

# In the place of repo2docker: it does not stop talking before it may.
SCRIPT = f"""
for word; do case "$word" in --image-name=*) image=${{word#*=}} ;; esac; done
say() {{ printf '{{"message": "%s\\\\n", "phase": "building"}}\\n' "$1" >&2; }}
n=0
until [ -e {RELEASE} ]; do n=$((n + 1)); say "line $n"; sleep 0.05; done
docker tag {images.BUSYBOX} "$image"
"""


@dataclass(frozen=True)
class Server:
    """The pod of a server."""

    name: str
    url: str


@dataclass(frozen=True)
class Deployment:
    """What was applied."""

    place: Place
    operator: str
    """The operator's token."""

    def servers(self) -> list[Server]:
        """Return those that are ready and stay."""
        return [
            Server(pod["metadata"]["name"], f"http://{pod['status']['podIP']}:8585/")
            for pod in pods_of(self.place, "server")
            if "deletionTimestamp" not in pod["metadata"] and _ready(pod)
        ]

    def builds(self) -> list[Mapping[str, Any]]:
        """Return the pods of builds."""
        return pods_of(self.place, "build")

    def kubectl(self, *arguments: str, given: object = None) -> str:
        """Run kubectl in the namespace."""
        return self.place.kubectl(*arguments, given=given)


class Client:
    """Somebody who wants an image, and asks elsewhere when a server goes."""

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self.heard: list[Heard] = []
        self.listens = False

    async def listen(self, server: Server) -> None:
        """Hear what comes until the stream ends or breaks."""
        last_id = next((one.id for one in reversed(self.heard) if one.id), "")
        self.listens = True
        try:
            async with (
                httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client,
                listening(client, self._spec, last_id=last_id, build_only=True) as events,
            ):
                async for one in events:
                    self.heard.append(one)
        except httpx.TransportError:
            pass
        finally:
            self.listens = False

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Return the lines of the build: their ids and what they say."""
        return [(one.id, one.message) for one in self.heard if one.phase == "building"]


@pytest.fixture(scope="module")
def server_image(
    builder_base: str,
    docker_engine: DockerEngine,
    own_kubernetes_cluster: KubernetesCluster,
) -> str:
    """Return the image of servers, made from our Dockerfile: the cluster has it."""
    return load_server(docker_engine, own_kubernetes_cluster)


@pytest.fixture
def place(
    own_kubernetes_cluster: KubernetesCluster,
    repo2docker_image: str,
    docker_engine: DockerEngine,
    make_registry: Callable[..., Registry],
) -> Iterator[Place]:
    cluster = own_kubernetes_cluster
    cluster.load(repo2docker_image, docker_engine)
    with make_registry(host=cluster.outside) as registry, cluster.namespace() as namespace:
        yield Place(cluster, cluster.engine, namespace, registry, repo2docker_image)


@pytest.fixture
def deployed(place: Place, server_image: str, tmp_path: Path) -> Deployment:
    """Do what docs/kubernetes.md says, and return when it runs."""

    def adapt(settings: dict[str, Any]) -> None:
        settings["builder"]["image_prefix"] = f"{place.registry.address}/deployed-"
        settings["builder"]["kubernetes"]["repo2docker"] = ["sh", "-c", SCRIPT, "script"]

    write(place, "example", tmp_path, images=(SERVER,), adapt=adapt)
    apply(place, tmp_path, "binder")
    given = (tmp_path / "secrets.env").read_text().splitlines()
    keys = dict(line.split("=", 1) for line in given if "=" in line and not line.startswith("#"))
    return Deployment(place, keys["BINDER_SECURITY__OPERATOR_TOKEN"])


async def test_clients_of_a_server_that_goes_resume_on_the_others(deployed: Deployment) -> None:
    going, staying = deployed.servers()
    spec = f"git/{quote('https://example.org/steady', safe='')}/{secrets.token_hex(20)}"
    clients = [Client(spec) for _ in range(5)]
    *left, late = clients
    async with anyio.create_task_group() as tasks:
        for client, server in zip(left, (going, going, staying, staying), strict=True):
            tasks.start_soon(client.listen, server)
        await until(lambda: all(len(client.lines) > 20 for client in left), within=120)
        (build,) = deployed.builds()

        await call(deployed.kubectl, "delete", "pod", going.name, "--wait=false")
        await until(lambda: not (left[0].listens or left[1].listens), within=60)
        assert left[2].listens
        assert left[3].listens
        cut = len(left[0].lines)
        while len(servers := await call(deployed.servers)) < 2:  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(0.2)
        (new,) = (server for server in servers if server.name != staying.name)
        for client, server in ((left[0], staying), (left[1], new), (late, new)):
            tasks.start_soon(client.listen, server)
        await until(lambda: all(len(client.lines) > cut + 20 for client in clients), within=120)
        await call(check_pods, deployed, staying.name, build["metadata"]["name"])
        await call(deployed.kubectl, "exec", build["metadata"]["name"], "--", "touch", RELEASE)

    told = left[2].lines
    assert [line for _, line in told] == [f"line {n}\n" for n in range(1, len(told) + 1)]
    assert [client.lines for client in clients] == [told] * len(clients)
    for client in clients:
        assert [one.phase for one in client.heard if one.phase in ("built", "failed")] == ["built"]
    # One pod, which is what all of them heard.
    (same,) = deployed.builds()
    assert same["metadata"]["uid"] == build["metadata"]["uid"]
    assert {event.rpartition(".")[0] for event, _ in told} == {same["metadata"]["uid"]}
    assert deployed.place.runs(same["metadata"]["name"]) == 1
    assert deployed.place.pushed(str(left[2].heard[-1].data["imageName"]))
    await stop_and_ask_again(deployed, staying)
    check_role(deployed)
    await check_streams(deployed, same["metadata"]["name"], servers=3)


async def stop_and_ask_again(deployed: Deployment, server: Server) -> None:
    """Have the operator stop a build, and somebody ask for it again."""
    ref = secrets.token_hex(20)
    spec = f"git/{quote('https://example.org/again', safe='')}/{ref}"
    stopped, again = Client(spec), Client(spec)
    async with (
        httpx.AsyncClient(
            base_url=server.url, params={"token": deployed.operator}, timeout=60, trust_env=False
        ) as operator,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(stopped.listen, server)
        await until(lambda: len(stopped.lines) > 5, within=120)
        builds = (await operator.get("/api/builds")).raise_for_status().json()["builds"]
        (name,) = (build["name"] for build in builds if build["ref"] == ref)
        (await operator.delete(f"/api/builds/{name}")).raise_for_status()
        await until(lambda: not stopped.listens, within=60)
        assert "stopped by the operator" in stopped.heard[-1].message
        tasks.start_soon(again.listen, server)
        await until(lambda: len(again.lines) > 5, within=120)
        await call(deployed.kubectl, "exec", name, "--", "touch", RELEASE)
    assert [one.phase for one in again.heard if one.phase in ("built", "failed")] == ["built"]
    assert deployed.place.runs(name) == 2


def check_pods(deployed: Deployment, server: str, build: str) -> None:
    """Look at what pods may do from inside."""

    def said(pod: str, script: str) -> list[str]:
        return deployed.kubectl("exec", pod, "--", "sh", "-c", script).split()

    assert said(server, "id -u; touch /opt/here 2>/dev/null || echo no") == ["10001", "no"]
    # ssh works for nobody whom the image does not know.
    assert said(server, "id -un") == ["binder"]
    assert said(server, "touch ~/here /tmp/here && echo yes") == ["yes"]
    token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert said(server, f"test -e {token} && echo yes") == ["yes"]
    assert said(build, f"test -e {token} || echo no") == ["no"]


def requests(deployed: Deployment) -> list[Mapping[str, Any]]:
    """Return what servers asked the API server for, as that has recorded it."""
    cluster = deployed.place.cluster
    account = f"system:serviceaccount:{deployed.place.namespace}:binder"
    done = [each for each in cluster.requests("") if each["user"]["username"] == account]
    # Of one that lasts there are two records.
    return list({each["auditID"]: each for each in done}.values())


async def check_streams(deployed: Deployment, build: str, *, servers: int) -> None:
    """Fail unless each server had one watch, and one stream of the build's log, whoever listened.

    What lasts is recorded for certain when it ends, so servers are ended.
    """

    def streams(*what: str) -> list[Mapping[str, Any]]:
        found = [each for each in requests(deployed) if "objectRef" in each]
        return [
            each
            for each in found
            if _what(each) == what
            and each["stage"] == "ResponseComplete"
            and each["responseStatus"]["code"] == 200
        ]

    await call(deployed.kubectl, "scale", "deployment/binder", "--replicas=0")
    await until(lambda: len(streams("watch", "pods")) >= servers, within=90)
    watches = Counter(each["sourceIPs"][0] for each in streams("watch", "pods"))
    assert list(watches.values()) == [1] * servers, watches
    logs = Counter(
        each["sourceIPs"][0]
        for each in streams("get", "pods/log")
        if each["objectRef"]["name"] == build
    )
    assert logs == watches


def check_role(deployed: Deployment) -> None:
    """Hold what servers did against their role: they need all of it, and nothing else."""
    done = requests(deployed)
    assert not [each for each in done if each["responseStatus"]["code"] == 403]
    used = {_what(each) for each in done if "objectRef" in each}
    assert used == {*NEEDED, ASKED_OF_ONESELF}
    account = f"system:serviceaccount:{deployed.place.namespace}:binder"
    for verb, resource in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods/exec"),
        ("create", "deployments"),
        ("list", "events"),
    ):
        assert not allowed(deployed, account, verb, resource), f"{verb} {resource}"
    assert not allowed(deployed, account, "create", "pods", namespace="default")


def allowed(
    deployed: Deployment, who: str, verb: str, resource: str, *, namespace: str = ""
) -> bool:
    name, _, subresource = resource.partition("/")
    attributes = {
        "namespace": namespace or deployed.place.namespace,
        "verb": verb,
        "resource": name,
        "subresource": subresource,
        "group": "apps" if name == "deployments" else "",
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": who, "resourceAttributes": attributes},
    }
    said = deployed.place.cluster.kubectl("create", "--filename=-", "--output=yaml", given=review)
    return bool(yaml.safe_load(said)["status"].get("allowed"))


def _what(request: Mapping[str, Any]) -> tuple[str, str]:
    target = request["objectRef"]
    return request["verb"], "/".join(
        filter(None, (target["resource"], target.get("subresource", "")))
    )


def _ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


async def call(function: Callable[..., Any], *arguments: object) -> Any:
    return await anyio.to_thread.run_sync(partial(function, *arguments))
