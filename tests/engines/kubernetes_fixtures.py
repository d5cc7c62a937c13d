"""The cluster as a fixture, started when the first test asks for it: see `fixtures`.

Measured on two cores: 22 s once its programs are there (33 s where others are at work), and 4 min
more to build them, the first time ever (11 min).
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engines import kubernetes_build
from engines.docker import DockerEngine
from engines.kubernetes import Cluster, KubernetesCluster, cluster_folders
from engines.kubernetes_builds import Builds, GivenPlace, Place
from engines.processes import cache_folder, one_of
from engines.registry import Registry

Require = Callable[..., str]

_PROGRAMS = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "etcd": "etcd-server",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "openssl": "openssl",
    "dpkg-source": "dpkg-dev",
    kubernetes_build.GO: "golang-1.19-go",
}


@pytest.fixture
def handshakes() -> Iterator[None]:
    """Collect here what asyncio leaves of a TLS handshake that was given up: its socket."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def kubernetes_cluster(request: pytest.FixtureRequest, require: Require) -> Cluster:
    """Return a running cluster: the one that KUBECONFIG tells, else one of the tests' own."""
    if given := os.environ.get("KUBECONFIG"):
        return Cluster(Path(given), kubectl=require("kubectl", "the version of the cluster"))
    cluster: Cluster = request.getfixturevalue("own_kubernetes_cluster")
    return cluster


@pytest.fixture(scope="session")
def own_kubernetes_cluster(require: Require) -> Iterator[KubernetesCluster]:
    """Return a cluster of the tests' own: one that may be broken, and whose engine has images."""
    for program, package in _PROGRAMS.items():
        require(program, f"apt-get install {package}")
    require("a cluster of its own", "run as root", there=os.geteuid() == 0)
    programs, folders = kubernetes_build.programs(cache_folder()), cluster_folders()
    with one_of(folders) as folder:
        # Those of plain engines prefer the first few blocks of addresses.
        number = len(folders) + folders.index(folder)
        with KubernetesCluster(folder, programs, number=number) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def kubernetes_place(
    own_kubernetes_cluster: KubernetesCluster,
    docker_engine: DockerEngine,
    repo2docker_image: str,
    make_registry: Callable[..., Registry],
) -> Iterator[Place]:
    """Return where builds run: a cluster with our builder image, and a registry."""
    cluster = own_kubernetes_cluster
    image = cluster.load(repo2docker_image, docker_engine)
    with make_registry(host=cluster.outside) as registry:
        yield Place(cluster, cluster.engine, "default", registry, image)


@pytest.fixture(scope="session")
def given_place(
    kubernetes_cluster: Cluster, request: pytest.FixtureRequest, require: Require
) -> Place | GivenPlace:
    """Return where builds run in the cluster that KUBECONFIG tells, else in one of our own.

    For the former the environment says more: BINDERKIT_REGISTRY, the address of a registry without
    TLS or login that the cluster's nodes and this machine reach; BINDERKIT_DOCKER_SOCKET, where its
    nodes have their engine's socket.
    """
    if isinstance(kubernetes_cluster, KubernetesCluster):
        own: Place = request.getfixturevalue("kubernetes_place")
        return own
    registry = os.environ.get("BINDERKIT_REGISTRY", "")
    require("a registry", "set BINDERKIT_REGISTRY as well as KUBECONFIG", there=bool(registry))
    socket = os.environ.get("BINDERKIT_DOCKER_SOCKET", "/var/run/docker.sock")
    engine: DockerEngine = request.getfixturevalue("docker_engine")
    ours: str = request.getfixturevalue("repo2docker_image")
    image = f"{registry}/binderkit-tests/{ours}"
    engine.docker("tag", ours, image)
    engine.docker("push", image, timeout=600)
    return GivenPlace(kubernetes_cluster, "default", image, socket, registry)


@pytest.fixture(scope="module")
def given_builds(given_place: Place | GivenPlace) -> Iterator[Builds]:
    """Return the same with a namespace of its own."""
    with given_place.cluster.namespace() as name:
        yield replace(given_place, namespace=name)


@pytest.fixture(scope="module")
def kubernetes_builds(kubernetes_place: Place) -> Iterator[Place]:
    """Return the same with a namespace of its own."""
    with kubernetes_place.cluster.namespace() as name:
        yield replace(kubernetes_place, namespace=name)
