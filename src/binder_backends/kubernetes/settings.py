"""What an operator can set for builds in pods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from binder_backends.containers import BuildSettings, byte_size
from binder_core.plugin import is_loopback

SOCKET: Final = "/var/run/docker.sock"
"""Where nodes usually have the engine's socket, and where build containers have it."""

_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")


class KubernetesSettings(BuildSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the Kubernetes builder."""

    push: bool = True
    """Whether images are pushed to the registry that their names begin with. A cluster has no other
    place where all nodes find them: it must stay true."""
    namespace: str = ""
    """Where build pods live; empty: the namespace of this server's own pod, or that of the
    kubeconfig's context."""
    kubeconfig: str = ""
    """A kubeconfig file; empty: the service account of this server's pod, else what ``KUBECONFIG``
    names, else ``~/.kube/config``."""
    context: str = ""
    """The context of the kubeconfig; empty: its current one."""
    docker_socket: str = SOCKET
    """The path of the Docker engine's socket on the nodes."""
    docker_host: str = ""
    """An engine elsewhere, ``tcp://engine.example:2376``: pods have nothing of their node then;
    empty: each node's own, by `docker_socket`."""
    docker_certs_secret: str = ""
    """The name of a secret with ``ca.pem``, ``cert.pem`` and ``key.pem``, as Docker's clients name
    them: `docker_host` is spoken to with TLS; empty: in the clear."""
    run_as_user: int = 1000
    """The user of build pods where the engine is elsewhere, without any privilege; 0: the builder
    image's own. A node's socket is for root alone."""
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """Of the builder image; empty: the cluster's default."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of secrets that the builder image is pulled with."""
    service_account: str = ""
    """The service account of build pods. No token of it is mounted. Empty: ``default``."""
    node_selector: Mapping[str, str] = {}
    """Labels of the nodes that may build."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """As in a pod's ``spec.tolerations``."""
    placement: Literal["", "repository", "spread"] = ""
    """``repository``: builds of one repository prefer one node, whose engine has their layers in
    its cache; ``spread``: builds prefer nodes with few builds; empty: the scheduler decides."""
    nodes: tuple[str, ...] = ()
    """Names (label ``kubernetes.io/hostname``) of the nodes among which ``placement =
    "repository"`` chooses."""
    priority_class: str = ""
    """The priority class of build pods."""
    memory_request: str = ""
    """Memory that the scheduler sets aside, as ``512M``; empty: `memory_limit`."""
    cpu_request: float = 0.0
    """CPUs that the scheduler sets aside; 0: `cpu_limit`."""
    disk_limit: str = ""
    """What a build's pod may write to its node's disk, as ``10G``: the clone above all, for an
    image's layers are its engine's. Whoever writes more is evicted. Empty: no limit."""
    disk_request: str = ""
    """What the scheduler sets aside of it; empty: `disk_limit`."""
    pod_labels: Mapping[str, str] = {}
    """Labels that build pods get."""
    pod_annotations: Mapping[str, str] = {}
    """Annotations that build pods get."""
    pending_timeout: float = 600.0
    """Seconds that a pod may take until it runs: for a node, for its image, for quota."""
    max_builds: int = 0
    """How many builds may run at once in the namespace, whichever server started them; 0: as many
    as the cluster takes."""
    max_builds_per_repo: int = 0
    """How many of them may be of one repository; 0: any number."""
    outage: float = 300.0
    """Seconds for which the builder waits for an API server that does not answer before it says
    so. Builds go on meanwhile."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        super().__post_init__()
        if not self.push:
            raise ValueError("push must be true: nodes share images through a registry")
        if self.placement == "repository" and not self.nodes:
            raise ValueError('placement = "repository" needs the names of the nodes in nodes')
        for name in (
            "cpu_request",
            "pending_timeout",
            "outage",
            "max_builds",
            "max_builds_per_repo",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0")
        for size in (self.memory_request, self.disk_limit, self.disk_request):
            byte_size(size)
        self._check_engine()

    def _check_engine(self) -> None:
        if not self.docker_host:
            if self.docker_certs_secret:
                raise ValueError("docker_certs_secret is for the engine of docker_host: set both")
            return
        if self.docker_socket != SOCKET:
            raise ValueError("set docker_socket or docker_host: the engine is here or there")
        if self.placement == "repository":
            raise ValueError(
                'placement = "repository" is for engines of nodes: with docker_host all builds'
                " share one cache"
            )
        if self.run_as_user < 0:
            raise ValueError("run_as_user must not be below 0")
        if self.docker_certs_secret and not _NAME.fullmatch(self.docker_certs_secret):
            raise ValueError(
                "docker_certs_secret must be the name of a secret, not"
                f" {self.docker_certs_secret[:100]!r}"
            )
        host = _host(self.docker_host)
        if host is None:
            given = self.docker_host.rpartition("@")[2][:100]
            raise ValueError(
                "docker_host must be an address such as tcp://engine.example:2376, not"
                f" {given!r}; for TLS set docker_certs_secret as well, for a socket of the nodes"
                " docker_socket instead"
            )
        if is_loopback(f"[{host}]" if ":" in host else host):
            raise ValueError(
                f"docker_host must be an address that pods reach: {host} is each pod itself"
            )


def _host(address: str) -> str | None:
    """Return the host of ``tcp://host:port``, None if it is anything else."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    plain = f"tcp://{parts.netloc}" == address and "@" not in parts.netloc
    return parts.hostname if plain and port else None
