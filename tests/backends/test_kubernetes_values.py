"""What a build's pod looks like, and what is read from what the API says of it."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_backends.containers import plan_build
from binder_backends.kubernetes import KubernetesSettings
from binder_backends.kubernetes.affinity import rendezvous
from binder_backends.kubernetes.manifest import (
    ending,
    engine_of,
    pod_of,
    repo_hash,
    secret_of,
)
from binder_backends.kubernetes.pods import read, why_it_ended, why_it_failed
from binder_backends.runner import FROM_OUTSIDE
from binder_core.plugin import BuildRequest

REQUEST = BuildRequest(
    name="build-user-2drepo-0123456789abcdef",
    image="registry.example:5000/binder/user-2drepo-abc123:0123abcd",
    repo_url="https://github.com/user/repo",
    ref="0123abcd",
)
LOGIN = b'{"auths": {"registry.example:5000": {"auth": "c2VjcmV0Cg=="}}}'


def made(**settings: Any) -> dict[str, Any]:
    chosen = KubernetesSettings(**settings)
    plan = plan_build(chosen, REQUEST, push_config=LOGIN, engine=engine_of(chosen))
    return pod_of(chosen, REQUEST, plan, "the-secret")


def test_a_pod_has_the_builds_name_and_tells_what_it_builds() -> None:
    pod = made()
    assert pod["metadata"]["name"] == REQUEST.name
    told = pod["metadata"]["annotations"]
    assert told["io.binderkit/repo"] == REQUEST.repo_url
    assert told["io.binderkit/ref"] == REQUEST.ref
    assert told["io.binderkit/image"] == REQUEST.image
    assert told["io.binderkit/content-provider"] == "Git"
    assert made(runner=False)["metadata"]["annotations"]["io.binderkit/runner"] == "no"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_no_secret_is_in_the_pod() -> None:
    secrets = {"git.example": {"user": "me", "password": "hunter2hunter2"}}
    settings = msgspec.convert({"git_credentials": secrets}, KubernetesSettings)
    plan = plan_build(settings, REQUEST, push_config=LOGIN)
    pod = pod_of(settings, REQUEST, plan, "the-secret")
    written = msgspec.json.encode(pod)
    assert b"hunter2" not in written
    assert b"c2VjcmV0" not in written
    pod["metadata"]["uid"] = "the-uid"
    secret = secret_of(pod, plan)
    files = {name: base64.b64decode(text) for name, text in secret["data"].items()}
    assert b"hunter2hunter2" in files["git-credentials"]
    assert files["config.json"] == LOGIN
    [owner] = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", "the-uid")
    assert secret["metadata"]["name"] == "the-secret"


def test_every_file_of_the_plan_is_where_the_program_looks_for_it() -> None:
    settings = KubernetesSettings()
    plan = plan_build(settings, REQUEST, push_config=LOGIN)
    [container] = pod_of(settings, REQUEST, plan, "s")["spec"]["containers"]
    folders = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {path.rpartition("/")[0] for path in plan.files} <= folders


def test_resources_labels_and_the_node_are_the_operators() -> None:
    pod = made(
        memory_limit="2G",
        cpu_limit=1.5,
        memory_request="512M",
        disk_limit="10G",
        disk_request="1G",
        node_selector={"pool": "builds"},
        tolerations=({"key": "builds", "operator": "Exists"},),
        image_pull_secrets=("pull",),
        service_account="builds",
        priority_class="low",
        pod_labels={"team": "x", "app.kubernetes.io/managed-by": "somebody"},
        image_pull_policy="Never",
    )
    [container] = pod["spec"]["containers"]
    assert container["resources"] == {
        "limits": {
            "memory": str(2 * 1024**3),
            "cpu": "1.5",
            "ephemeral-storage": str(10 * 1024**3),
        },
        "requests": {"memory": str(512 * 1024**2), "ephemeral-storage": str(1024**3)},
    }
    assert container["imagePullPolicy"] == "Never"
    assert pod["spec"]["nodeSelector"] == {"pool": "builds"}
    assert pod["spec"]["tolerations"] == [{"key": "builds", "operator": "Exists"}]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["spec"]["serviceAccountName"] == "builds"
    assert pod["spec"]["priorityClassName"] == "low"
    labels = pod["metadata"]["labels"]
    assert labels["team"] == "x"
    assert labels["app.kubernetes.io/managed-by"] == "binderkit", "or our own watch misses it"


def test_with_an_engine_elsewhere_a_pod_has_nothing_of_its_node() -> None:
    pod = made(docker_host="tcp://engine.example:2376", docker_certs_secret="engine-certs")
    [container] = pod["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert all(set(volume) == {"name", "secret"} for volume in volumes.values())
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["DOCKER_HOST"] == "tcp://engine.example:2376"
    assert env["DOCKER_TLS_VERIFY"] == "1"
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[env["DOCKER_CERT_PATH"]]["readOnly"]
    mounted = volumes[mounts[env["DOCKER_CERT_PATH"]]["name"]]["secret"]
    assert mounted["secretName"] == "engine-certs"
    assert {mount["name"] for mount in mounts.values()} == set(volumes)


def test_without_certificates_it_is_in_the_clear() -> None:
    pod = made(docker_host="tcp://engine.example:2375")
    env = {each["name"] for each in pod["spec"]["containers"][0]["env"]}
    assert not env & {"DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"}
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["binderkit-files"]


def test_with_an_engine_elsewhere_a_pod_needs_no_privilege() -> None:
    pod = made(docker_host="tcp://engine.example:2375", environment={"HOME": "/srv"})
    [container] = pod["spec"]["containers"]
    # What Pod Security's "restricted" asks for.
    may = pod["spec"]["securityContext"]
    assert may["runAsNonRoot"] is True
    assert may["runAsUser"] > 0
    assert may["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "HOME", "value": "/srv"} in container["env"]
    for root in (made(docker_host="tcp://engine.example:2375", run_as_user=0), made()):
        assert "securityContext" not in root["spec"]
        assert "securityContext" not in root["spec"]["containers"][0]


def test_builds_of_one_repository_prefer_one_node() -> None:
    pod = made(placement="repository", nodes=("a", "b", "c"))
    [wish] = pod["spec"]["affinity"]["nodeAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    [term] = wish["preference"]["matchExpressions"]
    assert term["values"] == [rendezvous(REQUEST.repo_url, ["c", "b", "a"])]
    assert "affinity" not in made()["spec"]
    assert "podAntiAffinity" in made(placement="spread")["spec"]["affinity"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"push": False}, "push must be true"),
        ({"placement": "repository"}, "names of the nodes"),
        ({"max_builds": -1}, "max_builds must not be below 0"),
        ({"memory_request": "much"}, "expected a size such as"),
        ({"disk_limit": "much"}, "expected a size such as"),
        ({"docker_host": "engine.example:2376"}, "must be an address such as tcp://"),
        ({"docker_host": "https://engine.example:2376"}, "for TLS set docker_certs_secret"),
        ({"docker_host": "tcp://engine.example"}, "must be an address such as tcp://"),
        ({"docker_host": "tcp://engine.example:2376/x"}, "must be an address such as tcp://"),
        ({"docker_host": "tcp://me:word@engine.example:2376"}, "must be an address such as"),
        ({"docker_host": "tcp://engine.example:99999"}, "must be an address such as tcp://"),
        ({"docker_host": "unix:///run/docker.sock"}, "docker_socket instead"),
        ({"docker_host": "ssh://engine.example:22"}, "must be an address such as tcp://"),
        ({"docker_host": "tcp://127.0.0.1:2375"}, "is each pod itself"),
        ({"docker_host": "tcp://[::1]:2375"}, "is each pod itself"),
        ({"docker_host": "tcp://localhost:2375"}, "is each pod itself"),
        ({"docker_host": "tcp://e:1", "docker_socket": "/run/d.sock"}, "here or there"),
        ({"docker_host": "tcp://e:1", "docker_certs_secret": "Not A Name"}, "name of a secret"),
        ({"docker_host": "tcp://e:1", "run_as_user": -1}, "run_as_user must not"),
        (
            {"docker_host": "tcp://e:1", "placement": "repository", "nodes": ["a"]},
            "is for engines of nodes",
        ),
        ({"docker_certs_secret": "certs"}, "set both"),
        ({"environment": {"DOCKER_HOST": "tcp://e:1"}}, "must not hold DOCKER_HOST"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        msgspec.convert(dict(settings), KubernetesSettings)


@given(
    key=st.text(),
    nodes=st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True),
    data=st.data(),
)
def test_when_a_node_goes_only_its_own_keys_move(
    key: str, nodes: list[str], data: st.DataObject
) -> None:
    chosen = rendezvous(key, nodes)
    lost = data.draw(st.sampled_from(nodes))
    left = [node for node in nodes if node != lost]
    assert rendezvous(key, data.draw(st.permutations(nodes))) == chosen
    if lost != chosen:
        assert rendezvous(key, left) == chosen


def test_a_label_can_hold_what_stands_for_a_repository() -> None:
    value = repo_hash("https://example.org/" + "x" * 500)
    assert len(value) <= 63
    assert value.isalnum()


def test_a_server_in_a_pod_needs_nothing_that_only_builds_need() -> None:
    code = "import sys; sys.modules['psutil'] = None; import binder_backends.kubernetes"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- What the API says ---------------------------------------------------------------------------


def said(
    phase: str = "Pending",
    *,
    state: Mapping[str, Any] | None = None,
    conditions: tuple[Mapping[str, Any], ...] = (),
    metadata: Mapping[str, Any] | None = None,
    **status: Any,
) -> dict[str, Any]:
    statuses = [{"name": "build", "state": state}] if state is not None else []
    return {
        "metadata": {
            "name": "a-build",
            "uid": "u-1",
            "creationTimestamp": "2026-11-24T12:00:00Z",
            **(metadata or {}),
        },
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": statuses,
            **status,
        },
    }


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": "2026-11-24T12:00:01Z",
            "finishedAt": "2026-11-24T12:01:00Z",
            "containerID": "docker://1",
        }
    }


SHORT = (
    "The node was low on resource: memory. Container build was using 200Mi, which exceeds its"
    " request of 0. "
)
"""What a node that runs short says."""


def taken(why: str) -> dict[str, Any]:
    """Return a pod that the control plane has deleted, as newer clusters say it."""
    return said(
        "Running",
        state={"running": {"startedAt": "2026-11-24T12:00:01Z"}},
        conditions=({"type": "DisruptionTarget", "status": "True", "reason": why},),
        metadata={"deletionTimestamp": "2026-11-24T12:05:00Z"},
    )


def stock(code: int) -> dict[str, Any]:
    """Return a pod without our runner."""
    annotations = {"io.binderkit/runner": "no"}
    return said("Failed", state=ended(code), metadata={"annotations": annotations})


def test_a_pod_that_waits_for_a_node_says_why() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available:\n1 Insufficient memory.",
    }
    pod = read(said(conditions=(condition,)))
    assert not pod.scheduled
    assert not pod.over
    assert "0/1 nodes are available: 1 Insufficient memory." in pod.waiting


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"])
def test_a_pod_whose_image_cannot_be_pulled_says_so(reason: str) -> None:
    state = {"waiting": {"reason": reason, "message": "no such image"}}
    pod = read(said(state=state))
    assert reason in pod.waiting
    assert "no such image" in pod.waiting
    assert not pod.started


def test_an_ordinary_start_is_no_trouble() -> None:
    pod = read(said(state={"waiting": {"reason": "ContainerCreating"}}))
    assert pod.waiting == ""


def test_a_pod_that_runs_is_not_over() -> None:
    pod = read(said("Running", state={"running": {"startedAt": "2026-11-24T12:00:01Z"}}))
    assert pod.started
    assert not pod.over
    assert not pod.still


def test_a_pod_that_was_ended_before_it_began_is_over() -> None:
    patch = ending("It was in the way.")
    pod = read(said(metadata=patch["metadata"]))
    assert pod.over
    assert pod.still
    assert why_it_ended(pod) == "It was in the way."


def test_a_pod_that_is_being_ended_is_over_and_not_yet_still() -> None:
    running = {"running": {"startedAt": "2026-11-24T12:00:01Z"}}
    pod = read(said("Failed", state=running, reason="DeadlineExceeded"))
    assert pod.over
    assert not pod.still, "its container may yet say how it ended"


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (said("Failed", reason="Evicted", message="low on memory"), "evicted.*low on memory"),
        (
            said("Failed", reason="Evicted", message="usage exceeds the total limit of 1Gi."),
            "wrote more .* exceeds the total limit of 1Gi.* builder.kubernetes.disk_limit",
        ),
        (
            said("Failed", reason="Evicted", message=SHORT),
            "evicted from its node, which ran short of a resource.*which exceeds its request",
        ),
        (taken("DeletionByPodGC"), "node that ran the build was lost"),
        (taken("DeletionByTaintManager"), "is being emptied"),
        (taken("EvictionByEvictionAPI"), "is being emptied"),
        (taken("PreemptionByScheduler"), "make room for more important"),
        (taken("SomethingNew"), "pod was deleted"),
        (said("Failed", reason="DeadlineExceeded"), "longer than it may"),
        (said("Failed", reason="NodeLost"), "node that ran the build was lost"),
        (said("Failed", state=ended(137, "OOMKilled")), "more memory than it may"),
        (said("Failed", state=ended(127)), "does not hold its program"),
        (said("Failed", state=ended(3)), "cut off .exit status 3."),
        (stock(3), "failed: repo2docker ended with exit status 3. See its log"),
        (stock(137), "cut off .exit status 137."),
        (said("Failed"), "does not say why"),
    ],
)
def test_the_end_is_told_as_what_it_is(pod: dict[str, Any], words: str) -> None:
    found = read(pod)
    assert found.over
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(why_it_ended(found))


def test_a_pod_that_was_deleted_says_so_unless_we_know_better() -> None:
    running = {"running": {"startedAt": "2026-11-24T12:00:01Z"}}
    assert "pod was deleted" in why_it_ended(read(said("Running", state=running), gone=True))
    # Its node has ended it because of that.
    for killed in (said("Failed", state=ended(137)), stock(143)):
        assert "pod was deleted" in why_it_ended(read(killed, gone=True))
    ours = said("Running", state=running, metadata=ending("Somebody stopped it.")["metadata"])
    assert why_it_ended(read(ours, gone=True)) == "Somebody stopped it."


def test_the_runner_knows_that_it_was_ended_and_the_cluster_why() -> None:
    evicted = read(said("Failed", reason="Evicted", message="low on memory"))
    assert "low on memory" in why_it_failed(evicted, FROM_OUTSIDE)
    assert why_it_failed(evicted, "no such package") == "no such package"
    assert "is being emptied" in why_it_failed(read(taken("EvictionByEvictionAPI")), FROM_OUTSIDE)
    assert why_it_failed(read(said("Failed", state=ended(1))), FROM_OUTSIDE) == FROM_OUTSIDE


def test_a_node_of_which_nothing_is_heard_takes_its_pods_along() -> None:
    # As Kubernetes 1.20 has it: the containers are ready by the node's last word.
    conditions = (
        {"type": "Ready", "status": "False"},
        {"type": "ContainersReady", "status": "True"},
    )
    running = {"running": {"startedAt": "2026-11-24T12:00:01Z"}}
    quiet = said("Running", state=running, conditions=conditions)
    assert not read(quiet).over, "it may be back"
    quiet["metadata"]["deletionTimestamp"] = "2026-11-24T12:05:00Z"
    assert read(quiet).lost
    # As newer ones say it beside that.
    why = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    quiet["status"]["conditions"].append(why)
    assert read(quiet).lost
    assert not read(taken("DeletionByTaintManager")).lost, "whoever sets a taint takes pods away"
    assert "node that ran the build was lost" in why_it_ended(read(quiet))


def test_when_it_ended_is_known_even_without_a_container() -> None:
    assert read(said("Failed", state=ended(1))).finished == 1795521660.0
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-24T12:00:30Z"}
    assert read(said("Failed", conditions=(ready,))).finished == 1795521630.0
    assert read(said("Failed")).finished == 0.0, "nobody knows"
    # What is ready began then.
    assert read(said("Running", conditions=({**ready, "status": "True"},))).finished == 0.0
