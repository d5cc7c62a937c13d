"""What an operator can set for builds in pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from binder_backends.containers import BuildSettings, byte_size


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
    docker_socket: str = "/var/run/docker.sock"
    """The path of the Docker engine's socket on the nodes."""
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
        byte_size(self.memory_request)
