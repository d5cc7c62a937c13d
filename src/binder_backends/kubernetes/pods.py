"""What a pod says of itself, read from what the API answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from binder_backends.kubernetes.manifest import CONTAINER, ENDED, REPO_LABEL, RUNNER
from binder_backends.runner import FROM_OUTSIDE

_IMAGE_TROUBLE: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
    }
)
_CONFIG_TROUBLE: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
# The last one of the condition DisruptionTarget, which newer clusters have.
_UNREACHABLE: Final = frozenset({"NodeLost", "DeletionByPodGC"})
_NODE_LOST: Final = _UNREACHABLE | {"NodeShutdown", "Shutdown", "Terminated"}
_KILLED: Final = (137, 143)
"""The exit status of what got a signal to end."""
_SHOWN: Final = 400


@dataclass(frozen=True, slots=True)
class Pod:
    """A build's pod, as it was last seen."""

    name: str
    uid: str
    created: float
    """When, in seconds since 1970."""
    phase: str
    """``Pending``, ``Running``, ``Succeeded``, ``Failed`` or ``Unknown``."""
    reason: str = ""
    """Why the pod as a whole is as it is: ``Evicted``, ``DeadlineExceeded``, ``NodeLost``,
    ``PreemptionByScheduler`` …"""
    message: str = ""
    repo: str = ""
    """The hash of its repository."""
    ended: str = ""
    """Why it was ended from outside, by one of us."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    gone_by: float = 0.0
    """When it shall have gone, in seconds since 1970: somebody has deleted it, and it may still
    run. 0: nobody has."""
    gone: bool = False
    """Whether it is no longer there."""
    scheduled: bool = False
    waiting: str = ""
    """Why it does not run yet, for a person; empty where nothing is wrong."""
    started: bool = False
    """Whether its container was started: there is a log."""
    runner: bool = True
    """Whether our runner is what runs."""
    exit_code: int | None = None
    exit_reason: str = ""
    """``OOMKilled``, ``Error``, ``ContainerCannotRun`` …"""
    exit_message: str = ""
    finished: float = 0.0
    """When its container ended, as far as the cluster says, in seconds since 1970; 0: unknown."""

    @property
    def deleting(self) -> bool:
        """Return whether somebody has deleted it; it may still run."""
        return bool(self.gone_by)

    @property
    def over(self) -> bool:
        """Return whether it will never run again."""
        if self.gone or self.deleting or self.phase in ("Succeeded", "Failed"):
            return True
        # Ended before it ever ran: no node will start it.
        return bool(self.ended) and not self.started

    @property
    def lost(self) -> bool:
        """Return whether it was given up because its node does not answer."""
        return self.deleting and self.reason in _UNREACHABLE

    @property
    def still(self) -> bool:
        """Return whether nothing of it runs any more."""
        if self.gone or not self.started:
            return self.over
        return self.exit_code is not None


def read(pod: Mapping[str, Any], *, gone: bool = False) -> Pod:
    """Return what the API's object says."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    containers = status.get("containerStatuses") or []
    state = next((one.get("state") or {} for one in containers if one["name"] == CONTAINER), {})
    ended = state.get("terminated") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled") or {}
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        created=_time(metadata.get("creationTimestamp")),
        phase=status.get("phase") or "Pending",
        reason=status.get("reason") or _disruption(conditions),
        message=_short(status.get("message")),
        repo=(metadata.get("labels") or {}).get(REPO_LABEL, ""),
        ended=annotations.get(ENDED, ""),
        annotations=annotations,
        runner=annotations.get(RUNNER) != "no",
        gone_by=_time(metadata.get("deletionTimestamp")),
        gone=gone,
        scheduled=scheduled.get("status") == "True",
        waiting=_waiting(state.get("waiting") or {}, scheduled),
        started="running" in state or bool(ended.get("containerID") or ended.get("startedAt")),
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason") or "",
        exit_message=_short(ended.get("message")),
        finished=_time(ended.get("finishedAt")) or _unready(conditions),
    )


def why_it_ended(pod: Pod) -> str:
    """Return why the build of a pod that has ended without an outcome failed, for a person."""
    return pod.ended or _of_the_pod(pod) or _of_the_container(pod)


def why_it_failed(pod: Pod, said: str) -> str:
    """Return why a build failed whose log says so, for a person."""
    if pod.ended or (said and said != FROM_OUTSIDE):
        return pod.ended or said
    # The runner knows that it was ended, and the cluster why.
    return _of_the_pod(pod) or _of_the_deletion(pod) or said or _of_the_container(pod)


def _of_the_pod(pod: Pod) -> str:
    detail = f" The cluster says: {pod.message}" if pod.message else ""
    match pod.reason:
        # A node that runs short says it of itself, and then of the container that it exceeded what
        # it had asked for.
        case "Evicted" if "exceed" in pod.message and not pod.message.startswith("The node "):
            return (
                "The build wrote more to its node's disk than it may, and was evicted."
                f"{detail} A smaller repository helps, or a larger builder.kubernetes.disk_limit."
            )
        case "Evicted":
            return (
                "The build was evicted from its node, which ran short of a resource."
                f"{detail} Ask again to build anew."
            )
        case "DeadlineExceeded":
            return "The build took longer than it may take, and was ended by the cluster."
        case "EvictionByEvictionAPI" | "DeletionByTaintManager":
            return "The node that ran the build is being emptied. Ask again to build anew."
        case reason if reason in _NODE_LOST:
            return f"The node that ran the build was lost.{detail} Ask again to build anew."
        case "Preempting" | "Preempted" | "PreemptionByScheduler":
            return f"The build had to make room for more important pods.{detail}"
        case _:
            return ""


def _of_the_container(pod: Pod) -> str:
    if pod.exit_reason == "OOMKilled":
        return "The build used more memory than it may have, and was killed."
    if pod.exit_reason == "ContainerCannotRun" or pod.exit_code in (126, 127, 128):
        return (
            "The build could not begin: the builder image does not hold its program (exit status"
            f" {pod.exit_code}). {pod.exit_message}".rstrip()
        )
    if pod.exit_code in _KILLED and (deleted := _of_the_deletion(pod)):
        return deleted
    if not pod.runner and pod.exit_code not in (None, *_KILLED):
        return f"The build failed: repo2docker ended with exit status {pod.exit_code}. See its log."
    if pod.exit_code is not None:
        return (
            f"The build was cut off (exit status {pod.exit_code}) and did not say why. Ask again to"
            " build anew."
        )
    unknown = f"The build's pod failed, and the cluster does not say why. {pod.message}".rstrip()
    return _of_the_deletion(pod) or unknown


def _of_the_deletion(pod: Pod) -> str:
    if pod.gone or pod.deleting:
        return (
            "The build's pod was deleted, by somebody or because its node was lost. Ask again to"
            " build anew."
        )
    return ""


def _waiting(waiting: Mapping[str, Any], scheduled: Mapping[str, Any]) -> str:
    reason, said = waiting.get("reason") or "", _short(waiting.get("message"))
    if reason in _IMAGE_TROUBLE:
        return f"The builder image cannot be pulled ({reason}): {said or 'no reason was given'}"
    if reason in _CONFIG_TROUBLE:
        return (
            f"The build's container cannot be started ({reason}): {said or 'no reason was given'}"
        )
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return f"No node can take the build now: {_short(scheduled.get('message'))}"
    return ""


def _disruption(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what takes a pod away from its node, or the node from it; empty: nothing known."""
    target = conditions.get("DisruptionTarget") or {}
    said = target.get("reason") or "" if target.get("status") == "True" else ""
    # Any taint is meant, also one that an operator has set.
    if said not in ("", "DeletionByTaintManager"):
        return said
    # A node's own word on a pod is one: its containers are ready, so it is. Where they differ, the
    # control plane has said "not ready", for a node of which it hears nothing.
    ready, containers = conditions.get("Ready") or {}, conditions.get("ContainersReady") or {}
    lost = ready.get("status") == "False" and containers.get("status") == "True"
    return "NodeLost" if lost else said


def _unready(conditions: Mapping[str, Mapping[str, Any]]) -> float:
    """Return when the pod ceased to be ready: the best there is without a container; 0: unknown."""
    ready = conditions.get("Ready") or {}
    return _time(ready.get("lastTransitionTime")) if ready.get("status") == "False" else 0.0


def _time(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _short(text: str | None) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]} …"
