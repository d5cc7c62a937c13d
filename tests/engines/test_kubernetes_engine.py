"""The cluster is a real one, breaks as told, and leaves nothing."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines import images
from engines.docker import DockerEngine
from engines.kubernetes import KubernetesCluster
from engines.kubernetes_build import VERSION
from engines.kubernetes_node import Node, NodeEngine
from engines.processes import until
from engines.registry import Registry

pytestmark = pytest.mark.real

# In a pod: what the server of HTTP at "$1" answers, asked for "$2", with a head "$3".
_ASK = """printf 'GET %s HTTP/1.0\\r\\n%s\\r\\n\\r\\n' "$2" "$3" | nc -w 10 ${1%:*} ${1#*:}"""


@pytest.fixture
def cluster(own_kubernetes_cluster: KubernetesCluster) -> KubernetesCluster:
    return own_kubernetes_cluster


@pytest.fixture
def namespace(cluster: KubernetesCluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


def _pod(name: str, *command: str, image: str = images.BUSYBOX, **spec: object) -> dict[str, Any]:
    container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container | ({"command": list(command)} if command else {})],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            **spec,
        },
    }


def _apply(cluster: KubernetesCluster, namespace: str, *things: dict[str, Any]) -> None:
    given = {"apiVersion": "v1", "kind": "List", "items": list(things)}
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=given)


def _wait(cluster: KubernetesCluster, namespace: str, name: str, phase: str) -> None:
    def reached() -> bool:
        status = cluster.get(f"pod/{name}", f"--namespace={namespace}")["status"]
        conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
        done = phase != "Running" or conditions.get("Ready") == "True"
        return bool(status["phase"] == phase) and done

    until(reached, f"pod {name} is not {phase}", seconds=60)


def _logs(cluster: KubernetesCluster, namespace: str, name: str) -> str:
    return cluster.kubectl("logs", name, f"--namespace={namespace}")


def _server(cluster: KubernetesCluster, namespace: str, name: str) -> str:
    """Start a pod that serves its own name, behind a service. Return the service's address."""
    script = f"mkdir /w && echo this is {name} > /w/index.html && exec httpd -f -p 8000 -h /w"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    _apply(cluster, namespace, _pod(name, "sh", "-c", script), service)
    _wait(cluster, namespace, name, "Running")
    found = cluster.get(f"service/{name}", f"--namespace={namespace}")
    return f"{found['spec']['clusterIP']}:80"


def test_it_is_the_version_that_was_built(cluster: KubernetesCluster) -> None:
    said = json.loads(cluster.kubectl("version", "--output=json"))
    assert {said[part]["gitVersion"] for part in ("clientVersion", "serverVersion")} == {
        f"v{VERSION}"
    }


def test_a_pod_runs_and_its_log_is_read(cluster: KubernetesCluster, namespace: str) -> None:
    _apply(cluster, namespace, _pod("says", "sh", "-c", "echo one; echo two"))
    _wait(cluster, namespace, "says", "Succeeded")
    assert _logs(cluster, namespace, "says") == "one\ntwo\n"


def test_a_service_is_reached_from_pods_and_from_here(
    cluster: KubernetesCluster, namespace: str
) -> None:
    address = _server(cluster, namespace, "web")
    asks = _pod("asks", "sh", "-c", _ASK, "sh", address, "/", "")
    _apply(cluster, namespace, asks)
    _wait(cluster, namespace, "asks", "Succeeded")
    assert "this is web" in _logs(cluster, namespace, "asks")

    # Its rules may come a moment after the pod.
    def answers() -> bool:
        answer = httpx.get(f"http://{address}/", trust_env=False, timeout=5)
        return answer.text == "this is web\n"

    until(answers, "the service does not answer", seconds=30)
    # Also itself, which takes a way of its own.
    itself = ("exec", "web", f"--namespace={namespace}", "--", "sh", "-c", _ASK, "sh")
    assert "this is web" in cluster.kubectl(*itself, address, "/", "")


def test_a_service_account_may_what_its_role_says(
    cluster: KubernetesCluster, namespace: str
) -> None:
    options = (f"--namespace={namespace}", "--dry-run=client", "--output=json")
    for thing in (
        ("create", "role", "reader", "--verb=list", "--resource=pods"),
        (
            "create",
            "rolebinding",
            "reader",
            "--role=reader",
            f"--serviceaccount={namespace}:default",
        ),
    ):
        _apply(cluster, namespace, json.loads(cluster.kubectl(*thing, *options)))
    place = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    _apply(cluster, namespace, _pod("tells", "cat", place))
    _wait(cluster, namespace, "tells", "Succeeded")
    token = _logs(cluster, namespace, "tells").strip()
    statuses = {
        kind: _get(cluster, f"/api/v1/namespaces/{namespace}/{kind}", token).status_code
        for kind in ("pods", "secrets")
    }
    assert statuses == {"pods": 200, "secrets": 403}


def test_pods_reach_the_api_server(cluster: KubernetesCluster, namespace: str) -> None:
    script = "nc -w 10 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo there"
    _apply(cluster, namespace, _pod("knocks", "sh", "-c", script))
    _wait(cluster, namespace, "knocks", "Succeeded")
    assert _logs(cluster, namespace, "knocks") == "there\n"


def test_a_registry_here_gives_pods_their_images(
    cluster: KubernetesCluster, namespace: str, make_registry: Callable[..., Registry]
) -> None:
    with make_registry(host=cluster.outside) as registry:
        image = f"{registry.address}/some/image:1"
        cluster.engine.docker("tag", images.BUSYBOX, image)
        cluster.engine.docker("push", "--quiet", image)
        cluster.engine.docker("rmi", image)
        script = ("sh", "-c", _ASK, "sh", registry.address, "/v2/", "")
        _apply(cluster, namespace, _pod("pulled", *script, image=image))
        _wait(cluster, namespace, "pulled", "Succeeded")
        assert "200 OK" in _logs(cluster, namespace, "pulled")
        cluster.engine.docker("rmi", "--force", image)


def test_an_image_of_another_engine_can_be_had(
    cluster: KubernetesCluster, docker_engine: DockerEngine, busybox_image: str
) -> None:
    image = "loaded:1"
    docker_engine.docker("tag", busybox_image, image)
    cluster.load(image, docker_engine)
    for engine in (docker_engine, cluster.engine):
        engine.docker("rmi", image)


def test_a_restarted_api_server_serves_the_same(cluster: KubernetesCluster, namespace: str) -> None:
    _apply(cluster, namespace, _pod("stays", "sleep", "1000"))
    _wait(cluster, namespace, "stays", "Running")
    before = cluster.get("pod/stays", f"--namespace={namespace}")
    cluster.restart_api_server()
    after = cluster.get("pod/stays", f"--namespace={namespace}")
    for key in ("uid", "creationTimestamp"):
        assert after["metadata"][key] == before["metadata"][key]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_compacted_past_cannot_be_watched(cluster: KubernetesCluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    version = _get(cluster, path).json()["metadata"]["resourceVersion"]
    _apply(cluster, namespace, _pod("comes", "true"))
    _wait(cluster, namespace, "comes", "Succeeded")
    watch = f"{path}?watch=1&timeoutSeconds=1&resourceVersion={version}"
    first = json.loads(_get(cluster, watch).text.splitlines()[0])
    assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "comes")
    cluster.compact_etcd()
    first = json.loads(_get(cluster, watch).text.splitlines()[0])
    assert (first["type"], first["object"]["code"]) == ("ERROR", 410)


def test_a_cut_loses_what_is_sent(cluster: KubernetesCluster) -> None:
    assert _get(cluster, "/readyz").text == "ok"
    with cluster.cut(), pytest.raises(httpx.ConnectTimeout):
        _get(cluster, "/readyz", timeout=1)
    assert _get(cluster, "/readyz").text == "ok"


def test_the_cut_of_a_pod_is_its_own(cluster: KubernetesCluster, namespace: str) -> None:
    _apply(cluster, namespace, _pod("lost", "sleep", "1000"))
    _wait(cluster, namespace, "lost", "Running")
    address = cluster.get("pod/lost", f"--namespace={namespace}")["status"]["podIP"]
    script = "nc -w 2 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo there"
    knock = ("exec", "lost", f"--namespace={namespace}", "--", "sh", "-c", script)
    with cluster.cut(address), pytest.raises(AssertionError, match="timed out"):
        cluster.kubectl(*knock)
    assert cluster.kubectl(*knock) == "there\n"


def test_requests_are_counted_by_who_made_them(cluster: KubernetesCluster) -> None:
    agent = "counts/1"
    for _ in range(3):
        _get(cluster, "/api/v1/nodes", agent=agent)
    made = cluster.requests(agent)
    assert [(each["verb"], each["objectRef"]["resource"]) for each in made] == [
        ("list", "nodes")
    ] * 3


def test_a_killed_session_leaves_nothing_to_the_next(tmp_path: Path, cluster: object) -> None:
    # Its own folder, so nothing of the cluster's; the fixture has seen to the programs.
    lost = Node(tmp_path)
    lost.start()
    engine = NodeEngine(tmp_path, node=lost, number=30)
    engine.start()
    engine.kill()
    assert lost.left_behind()
    again = Node(tmp_path)
    again.stop()
    NodeEngine(tmp_path, node=again).stop()
    left = lost.left_behind() + engine.left_behind()
    lost.stop()  # whose process this one still is to bury
    assert left == []


def _get(
    cluster: KubernetesCluster,
    path: str,
    token: str | None = None,
    *,
    agent: str = "tests",
    timeout: float = 30,
) -> httpx.Response:
    """Ask the API server, by default as one who may do everything."""
    settings = json.loads(cluster.kubeconfig.read_text())
    told = token or settings["users"][0]["user"]["token"]
    trusted = settings["clusters"][0]["cluster"]["certificate-authority"]
    return httpx.get(
        f"{cluster.server}{path}",
        headers={"authorization": f"Bearer {told}", "user-agent": agent},
        verify=ssl.create_default_context(cafile=trusted),
        trust_env=False,
        timeout=timeout,
    )
