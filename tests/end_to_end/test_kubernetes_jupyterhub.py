"""overlays/with-jupyterhub as it is applied: from a link to a cell that runs, all of it in pods."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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
from docker_host import image_of, phases
from kernels import open_notebook
from kubernetes_overlay import DEPLOY, SERVER, apply, load_server, pods_of, write
from real_server import hear

from engines import images, kubernetes_hub
from engines.docker import DockerEngine
from engines.git_server import GitServer
from engines.kubernetes_builds import Place

pytestmark = [pytest.mark.real, pytest.mark.anyio]

HUB_USER = 10002
DOCKERFILE = f"""\
FROM {images.JUPYTER_BASE}
COPY . /srv/demo
WORKDIR /srv/demo
"""


@dataclass(frozen=True)
class Deployment:
    """What was applied."""

    place: Place
    hub: str
    """The URL of the hub, as browsers have it."""
    servers: tuple[str, ...]
    """The URLs of the servers."""


@pytest.fixture
def git(kubernetes_builds: Place, tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "git", kubernetes_builds.cluster.outside) as server:
        yield server


@pytest.fixture
def volume(kubernetes_builds: Place, tmp_path: Path) -> Iterator[None]:
    """Give the claim of the hub a volume, as a storage class does that this cluster has not."""
    folder = tmp_path / "hub-state"
    folder.mkdir()
    # That of a storage class would be given to its group.
    os.chown(folder, HUB_USER, HUB_USER)
    cluster, namespace = kubernetes_builds.cluster, kubernetes_builds.namespace
    made = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(folder)},
            "claimRef": {"namespace": namespace, "name": "hub-state"},
        },
    }
    cluster.kubectl("create", "--filename=-", given=made)
    yield
    cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")


@pytest.fixture
def loaded(
    kubernetes_builds: Place, docker_engine: DockerEngine, jupyter_base: str, builder_base: str
) -> Place:
    """Give the cluster the images of all pods."""
    cluster = kubernetes_builds.cluster
    for image in (jupyter_base, kubernetes_hub.hub(docker_engine)):
        cluster.load(image, docker_engine)
    load_server(docker_engine, cluster)
    return kubernetes_builds


@pytest.fixture
def deployed(loaded: Place, volume: None, tmp_path: Path) -> Deployment:
    """Do what docs/kubernetes.md says, and return when it runs."""
    place, prefix = loaded, f"{loaded.registry.address}/with-hub-"
    bridge = place.cluster.engine.bridge
    # There are no names here: the service gets an address that is known before, for the servers'
    # /etc/hosts. The cluster gives it: one that was picked here might be another service's.
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hub"},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
    place.kubectl("apply", "--filename=-", given=service)
    address = place.kubectl("get", "service", "hub", "--output=jsonpath={.spec.clusterIP}").strip()
    alias = {"ip": address, "hostnames": ["hub"]}

    def adapt(settings: dict[str, Any]) -> None:
        settings["builder"]["image_prefix"] = prefix
        settings["launcher"]["jupyterhub"]["url"] = f"http://{address}/"
        # The git server of the test is in no public network.
        settings["asker"] = {"allow_networks": [str(bridge.block)]}
        settings["providers"] = {"git": {"schemes": ["http", "https"]}}

    def change(said: dict[str, Any]) -> None:
        (environment,) = (each for each in said["configMapGenerator"] if "literals" in each)
        environment["literals"] = [f"BINDER_IMAGE_PREFIX={prefix}"]

    write(
        place,
        "with-jupyterhub",
        tmp_path,
        images=(SERVER, kubernetes_hub.HUB.partition(":")[0]),
        adapt=adapt,
        change=change,
        patches=[
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "hub"},
                "spec": {"clusterIP": address},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "binder"},
                "spec": {"template": {"spec": {"hostAliases": [alias]}}},
            },
        ],
    )
    apply(place, tmp_path, "hub", "binder")
    servers = [pod["status"]["podIP"] for pod in pods_of(place, "server")]
    return Deployment(
        place, f"http://{address}/", tuple(f"http://{each}:8585/" for each in servers)
    )


async def test_from_a_link_to_a_cell_all_of_it_in_pods(
    deployed: Deployment, git: GitServer
) -> None:
    place = deployed.place
    files = {"Dockerfile": DOCKERFILE, "index.ipynb": "{}", "told.txt": "by the repository"}
    url, commit = git.repository("demo", files)
    spec = f"git/{quote(url, safe='')}/{commit}"
    one, other = deployed.servers
    async with httpx.AsyncClient(base_url=one, timeout=60, trust_env=False) as client:
        heard = await hear(client, spec, within=300)
    assert phases(heard) == [
        *("waiting", "fetching", "building", "pushing", "built", "launching", "ready")
    ], heard[-1].data
    ready = heard[-1].data
    assert ready["url"].startswith(deployed.hub)
    code = "print(6 * 7, open('told.txt').read())"
    assert await open_notebook(ready["url"], ready["token"], code) == "42 by the repository\n"
    async with httpx.AsyncClient(base_url=other, timeout=60, trust_env=False) as client:
        again = await hear(client, spec, within=120)
    assert phases(again) == ["built", "launching", "ready"], "a hit"
    assert again[-1].data["url"] != ready["url"]

    (build,) = await off(pods_of, place, "build")
    assert build["metadata"]["annotations"]["io.binderkit/image"] == image_of(heard)
    notebooks = await off(partial(notebooks_of, place))
    assert len(notebooks) == 2
    for pod in notebooks:
        assert pod["spec"]["containers"][0]["image"] == image_of(heard)
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert ready["token"] not in str(pod), "it is in a secret of the pod's own"
    await off(check_role, place)


def notebooks_of(place: Place) -> list[dict[str, Any]]:
    selector = "--selector=component=singleuser-server"
    said = place.cluster.get("pods", f"--namespace={place.namespace}", selector)
    found: list[dict[str, Any]] = said["items"]
    return found


def check_role(place: Place) -> None:
    """Hold what the hub did, as the API server has recorded it, against its role."""
    documents = (DEPLOY / "overlays/with-jupyterhub/hub-role.yaml").read_text()
    (role,) = (each for each in yaml.safe_load_all(documents) if each["kind"] == "Role")
    granted = {
        (verb, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    account = f"system:serviceaccount:{place.namespace}:hub"
    done = [each for each in place.cluster.requests("") if each["user"]["username"] == account]
    assert not [each for each in done if each["responseStatus"]["code"] == 403]
    used = {(each["verb"], each["objectRef"]["resource"]) for each in done if "objectRef" in each}
    assert {("create", "pods"), ("create", "secrets")} <= used <= granted


async def off(function: Callable[..., Any], *arguments: object) -> Any:
    """Call something that blocks."""
    return await anyio.to_thread.run_sync(partial(function, *arguments))
