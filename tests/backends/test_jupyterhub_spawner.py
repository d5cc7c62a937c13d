"""The hub's side for Kubernetes, as KubeSpawner itself puts it into manifests."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engines.jupyterhub import SOURCE, HubSoftware

pytestmark = pytest.mark.real

CONFIG = SOURCE.parent / "deploy" / "jupyterhub" / "jupyterhub_config_kubernetes.py"
PROGRAM = Path(__file__).parents[1] / "engines" / "hub_pod.py"
TOKEN = "t0ken-that-nobody-guesses"
OPTIONS = {
    "image": "registry.example/binder-x-0a1b2c:1",
    "token": TOKEN,
    "repo_url": "https://x.org/r",
}


KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: none
contexts: [{name: none, context: {cluster: none, user: none}}]
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
"""


def told(software: HubSoftware, folder: Path, *changes: dict[str, object]) -> list[dict[str, Any]]:
    """Return what comes of launches with such user options."""
    (folder / "token").write_text("the-service's")
    (folder / "kubeconfig").write_text(KUBECONFIG)
    env = {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "BINDER_IMAGE_PREFIX": "registry.example/binder-",
        "BINDER_TOKEN_FILE": str(folder / "token"),
        "KUBECONFIG": str(folder / "kubeconfig"),
    }
    done = subprocess.run(
        [software.python, "-P", PROGRAM, CONFIG],  # the program has a neighbour named jupyterhub
        input=json.dumps([OPTIONS | each for each in changes]),
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_a_pod_has_its_token_from_a_secret_of_its_own(
    hub_software: HubSoftware, tmp_path: Path
) -> None:
    (said,) = told(hub_software, tmp_path, {"idle_timeout": 600})
    pod = said["pod"]
    assert TOKEN not in json.dumps(pod)
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "registry.example/binder-x-0a1b2c:1"
    assert container["args"][:2] == ["sh", "-c"]
    assert "--ServerApp.shutdown_no_activity_timeout=600" in container["args"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["JUPYTER_TOKEN_FILE"] == "/etc/binder/token"
    assert env["BINDER_REPO_URL"] == "https://x.org/r"
    assert "JUPYTERHUB_API_TOKEN" not in env
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["binder-token"] == "/etc/binder"
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    name = f"{pod['metadata']['name']}-binder-token"
    items = [{"key": "token", "path": "token"}]
    assert volumes["binder-token"]["secret"] == {"secretName": name, "items": items}

    first, removed, second = said["calls"]
    assert (first[0], removed) == ("create", ["delete", "binder", name])
    assert first == second
    manifest = second[2]
    assert manifest["metadata"]["name"] == name
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", pod["metadata"]["name"], "a-uid")
    assert base64.b64decode(manifest["data"]["token"]).decode() == TOKEN
    assert said["heard"] == ["a-uid"], "the operator's own hook is called as well, once"

    assert container["resources"] == {
        "limits": {"cpu": 2.0, "memory": 2 * 2**30},
        "requests": {"cpu": 0.1, "memory": 512 * 2**20},
    }


def test_a_cluster_that_is_away_for_a_while_is_no_failed_spawn(
    hub_software: HubSoftware, tmp_path: Path
) -> None:
    cases: list[tuple[list[str], int, list[str]]] = [
        (["500", "broken", "429"], 0, ["create"] * 4 + ["delete", "create"]),
        (["silent", "409", "503"], 0, ["create", "create", "delete", "create", "delete", "create"]),
        (["403"], 403, ["create"]),
        (["409", "403"], 403, ["create", "delete"]),
    ]
    asked: list[dict[str, object]] = [{"faults": faults} for faults, _, _ in cases]
    all_said = told(hub_software, tmp_path, *asked)
    for said, (faults, failed, calls) in zip(all_said, cases, strict=True):
        assert [call[0] for call in said["calls"]] == calls, faults
        assert said["failed"] == failed
        assert said["heard"] == ([] if failed else ["a-uid"])


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"image": "registry.example/binder-x:1"}, "is none that this hub may start"),
    ({"image": "registry.example/other:1"}, "is none that this hub may start"),
    ({"image": "registry.example/binder-x-0a1b2c:1\nevil"}, "is none that this hub may start"),
    ({"image": ["registry.example/binder-x-0a1b2c:1"]}, "is none that this hub may start"),
    ({"image": ""}, "name no image"),
    ({"token": ""}, "no token that a server could have"),
    ({"token": "with a space"}, "no token that a server could have"),
    ({"repo_url": "https://x\nA=1"}, "repo_url is no line of text"),
    ({"idle_timeout": "long"}, "idle_timeout is no number"),
    ({"idle_timeout": -1}, "idle_timeout is no number"),
    ({"idle_timeout": 1e300}, "idle_timeout is no number"),
]


def test_options_that_are_none_of_the_launchers_are_refused(
    hub_software: HubSoftware, tmp_path: Path
) -> None:
    said = told(hub_software, tmp_path, *(options for options, _ in REFUSED))
    for one, (options, why) in zip(said, REFUSED, strict=True):
        assert why in one.get("refused", ""), options


def test_the_hub_needs_nothing_of_ours(hub_software: HubSoftware, tmp_path: Path) -> None:
    code = "import sys, binder_backends.jupyterhub.spawner; print(*sys.modules)"
    done = subprocess.run(
        [hub_software.python, "-c", code],
        env={"PYTHONPATH": str(SOURCE)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"httpx", "msgspec", "anyio", "binder_core"}
