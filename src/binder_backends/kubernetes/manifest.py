"""What a build's pod and its secret look like, as plain values.

They keep to what Kubernetes 1.20 and today's releases both have.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from binder_backends.containers import FOLDER, BuildPlan, byte_size
from binder_backends.kubernetes.affinity import rendezvous
from binder_backends.kubernetes.settings import SOCKET, KubernetesSettings
from binder_backends.runner import EngineOptions
from binder_core.plugin import BuildRequest

Object = dict[str, Any]
"""An object of the Kubernetes API."""

PREFIX: Final = "io.binderkit"
MANAGED: Final = {
    "app.kubernetes.io/managed-by": "binderkit",
    "app.kubernetes.io/component": "build",
}
SELECTOR: Final = ",".join(f"{name}={value}" for name, value in MANAGED.items())
"""Finds all build pods."""
REPO_LABEL: Final = f"{PREFIX}/repo-hash"
ENDED: Final = f"{PREFIX}/ended"
"""The annotation that says why a build was ended from outside; it is what all servers tell."""
SECRET: Final = f"{PREFIX}/secret"
"""The annotation that names the pod's secret."""
CONTAINER: Final = "build"
IMAGE: Final = f"{PREFIX}/image"
REPO: Final = f"{PREFIX}/repo"
REF: Final = f"{PREFIX}/ref"
PROVIDER: Final = f"{PREFIX}/content-provider"
"""Annotations that say what is built."""
RUNNER: Final = f"{PREFIX}/runner"
"""The annotation that says whether our runner builds it, ``yes`` or ``no``."""

_GRACE: Final = 20
"""Seconds in which the runner ends what it runs, and says so."""
_TIME_TO_TELL: Final = 300.0
"""Seconds beyond the runner's own limit after which the cluster ends the pod."""
_FILES: Final = "binderkit-files"
_SOCKET: Final = "docker-socket"
_CERTS: Final = "docker-certs"
_CERTS_FOLDER: Final = "/etc/binderkit-docker"
_ENGINE_WITHIN: Final = 60.0
"""Seconds that an engine elsewhere is waited for."""
_HOSTNAME: Final = "kubernetes.io/hostname"


def repo_hash(repo_url: str) -> str:
    """Return a label's value that stands for a repository: its URL may be no such value."""
    return hashlib.sha256(repo_url.encode()).hexdigest()[:40]


def engine_of(settings: KubernetesSettings) -> EngineOptions:
    """Return the engine that builds, as pods reach it."""
    if not settings.docker_host:
        return EngineOptions(f"unix://{SOCKET}")
    certs = _CERTS_FOLDER if settings.docker_certs_secret else ""
    return EngineOptions(settings.docker_host, certs, wait=_ENGINE_WITHIN)


def told_of(request: BuildRequest, plan: BuildPlan) -> dict[str, str]:
    """Return the annotations that say what a pod builds, and how."""
    told = {key.replace(f"{PREFIX}.", f"{PREFIX}/", 1): value for key, value in plan.labels.items()}
    return {**told, PROVIDER: request.content_provider}


def pod_of(
    settings: KubernetesSettings, request: BuildRequest, plan: BuildPlan, secret: str
) -> Object:
    """Return the pod of a build.

    Args:
        settings: The operator's.
        request: What to build.
        plan: What it runs.
        secret: The name of the secret with the plan's files.
    """
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE,
        "containers": [_container(settings, plan)],
        "volumes": _volumes(settings, secret),
    }
    if user := _user(settings):
        # With those of the container this is what Pod Security calls "restricted". The group may
        # read the files.
        spec["securityContext"] = {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    if settings.build_timeout:
        # The runner ends the build by itself and says why; this is for a runner that hangs.
        spec["activeDeadlineSeconds"] = int(settings.build_timeout + _TIME_TO_TELL)
    optional: Object = {
        "serviceAccountName": settings.service_account,
        "priorityClassName": settings.priority_class,
        "nodeSelector": settings.node_selector,
        "tolerations": list(settings.tolerations),
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "affinity": _affinity(settings, request),
    }
    spec |= {key: value for key, value in optional.items() if value}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": request.name,
            "labels": {**settings.pod_labels, **MANAGED, REPO_LABEL: repo_hash(request.repo_url)},
            "annotations": {
                **settings.pod_annotations,
                **told_of(request, plan),
                SECRET: secret,
            },
        },
        "spec": spec,
    }


def secret_of(pod: Mapping[str, Any], plan: BuildPlan) -> Object:
    """Return the secret with the plan's files, which lives as long as `pod`, which exists."""
    metadata = pod["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": metadata["annotations"][SECRET],
            "labels": MANAGED,
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                }
            ],
        },
        "data": {
            PurePosixPath(path).name: base64.b64encode(content).decode()
            for path, content in plan.files.items()
        },
    }


def ending(reason: str) -> Object:
    """Return the patch that ends a pod and keeps it, with its log, for those who reconnect.

    A pod that is deleted loses its log; one whose deadline has passed is ended by its node with the
    usual grace period.
    """
    return {
        "metadata": {"annotations": {ENDED: reason}},
        "spec": {"activeDeadlineSeconds": 1},
    }


def _user(settings: KubernetesSettings) -> int:
    """Return the user that needs no privilege, 0 where it is the image's own."""
    return settings.run_as_user if settings.docker_host else 0


def _volumes(settings: KubernetesSettings, secret: str) -> list[Object]:
    mode = 0o440 if _user(settings) else 0o400
    volumes: list[Object] = [
        {"name": _FILES, "secret": {"secretName": secret, "defaultMode": mode}}
    ]
    if not settings.docker_host:
        path = {"path": settings.docker_socket, "type": "Socket"}
        volumes.append({"name": _SOCKET, "hostPath": path})
    elif name := settings.docker_certs_secret:
        # If it had to be there a pod would wait for it and not say why. So its program says it.
        certs = {"secretName": name, "defaultMode": mode, "optional": True}
        volumes.append({"name": _CERTS, "secret": certs})
    return volumes


def _mounts(settings: KubernetesSettings) -> list[Object]:
    mounts: list[Object] = [{"name": _FILES, "mountPath": FOLDER, "readOnly": True}]
    if not settings.docker_host:
        mounts.append({"name": _SOCKET, "mountPath": SOCKET})
    elif settings.docker_certs_secret:
        mounts.append({"name": _CERTS, "mountPath": _CERTS_FOLDER, "readOnly": True})
    return mounts


def _container(settings: KubernetesSettings, plan: BuildPlan) -> Object:
    limits: Object = {}
    requests: Object = {}
    if settings.memory_limit:
        limits["memory"] = str(byte_size(settings.memory_limit))
    if settings.cpu_limit:
        limits["cpu"] = f"{settings.cpu_limit:g}"
    if settings.disk_limit:
        limits["ephemeral-storage"] = str(byte_size(settings.disk_limit))
    if settings.memory_request:
        requests["memory"] = str(byte_size(settings.memory_request))
    if settings.cpu_request:
        requests["cpu"] = f"{settings.cpu_request:g}"
    if settings.disk_request:
        requests["ephemeral-storage"] = str(byte_size(settings.disk_request))
    env = dict(plan.env)
    if _user(settings):
        # Whom the image does not know has no home: docker would keep its state in the root folder.
        env = {"HOME": "/tmp", **env}  # noqa: S108 - in a container of our own
    container: Object = {
        "name": CONTAINER,
        "image": settings.builder_image,
        "command": _command(settings, plan),
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "resources": {
            key: value for key, value in (("limits", limits), ("requests", requests)) if value
        },
        "volumeMounts": _mounts(settings),
    }
    if _user(settings):
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    if settings.image_pull_policy:
        container["imagePullPolicy"] = settings.image_pull_policy
    return container


def _command(settings: KubernetesSettings, plan: BuildPlan) -> list[str]:
    if not settings.runner:
        return list(plan.argv)
    # Both streams are one log here: the interpreter's last words are no lines of the runner's.
    return ["sh", "-c", 'exec "$@" 2>/dev/termination-log', "sh", *plan.argv]


def _affinity(settings: KubernetesSettings, request: BuildRequest) -> Object:
    match settings.placement:
        case "repository":
            node = rendezvous(request.repo_url, settings.nodes)
            term = {"key": _HOSTNAME, "operator": "In", "values": [node]}
            wish = {"weight": 100, "preference": {"matchExpressions": [term]}}
            return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
        case "spread":
            others = {"labelSelector": {"matchLabels": MANAGED}, "topologyKey": _HOSTNAME}
            wish = {"weight": 100, "podAffinityTerm": others}
            return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
        case "":
            return {}
