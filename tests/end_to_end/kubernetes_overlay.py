"""Overlays of deploy/kubernetes, made fit for the tests' cluster and applied."""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import yaml

from engines import images
from engines.docker import DockerEngine
from engines.kubernetes import KubernetesCluster
from engines.kubernetes_builds import Place

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "kubernetes"
SERVER, TAG = "binderkit-server", "test"


def load_server(engine: DockerEngine, cluster: KubernetesCluster) -> str:
    """See to it that a cluster has the image of servers, made from our Dockerfile."""
    image = f"{SERVER}:{TAG}"
    engine.docker(
        *("buildx", "build", "--quiet", "--tag", image),
        *("--build-arg", f"BASE={images.DEBIAN_PYTHON}"),
        *("--file", str(ROOT / "deploy/server/Dockerfile"), str(ROOT)),
        timeout=900,
    )
    return cluster.load(image, engine)


def write(
    place: Place,
    name: str,
    folder: Path,
    *,
    images: tuple[str, ...],
    adapt: Callable[[dict[str, Any]], None],
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    patches: Sequence[object] = (),
) -> None:
    """Do with an overlay what docs/kubernetes.md says, up to ``kubectl apply``.

    Args:
        place: Where it shall run.
        name: The overlay's.
        folder: Where to, for `apply`.
        images: Those that the cluster has, with the tag `TAG`.
        adapt: Changes the settings of servers.
        change: Changes the kustomization.
        patches: What its objects get beside what they have.
    """
    theirs = DEPLOY / "overlays" / name
    ours = folder / "overlay"
    ours.mkdir()
    said = yaml.safe_load((theirs / "kustomization.yaml").read_text())
    said["namespace"] = place.namespace
    said["bases"] = [os.path.relpath(each, ours) for each in _bases(place)]
    assert {each["name"] for each in said["images"]} == set(images)
    said["images"] = [{"name": each, "newName": each, "newTag": TAG} for each in images]
    said["patchesStrategicMerge"] = [f"patch-{number}.yaml" for number in range(len(patches))]
    for file, patch in zip(said["patchesStrategicMerge"], patches, strict=True):
        (ours / file).write_text(yaml.safe_dump(patch))
    change(said)
    (ours / "kustomization.yaml").write_text(yaml.safe_dump(said))
    for resource in said["resources"]:
        (ours / resource).write_text((theirs / resource).read_text())
    settings = tomllib.loads((theirs / "binder.toml").read_text())
    del settings["server"]["public_url"]
    settings["builder"]["kubernetes"] |= {
        "builder_image": place.image,
        "image_pull_policy": "Never",
        "docker_socket": str(place.engine.socket),
        "registry": {"plain_http": [place.registry.address]},
    }
    adapt(settings)
    (ours / "binder.toml").write_text(tomli_w.dumps(settings))
    keys = (theirs / "secrets.env.example").read_text()
    filled = [
        line + secrets.token_hex(32) if line.endswith("=") else line for line in keys.splitlines()
    ]
    (folder / "secrets.env").write_text("\n".join(filled))


def apply(place: Place, folder: Path, *deployments: str) -> None:
    """Make the secret, apply what was written, and return when it runs."""
    place.kubectl(
        *("create", "secret", "generic", "binder-secrets"),
        f"--from-env-file={folder / 'secrets.env'}",
    )
    place.kubectl("apply", "--kustomize", str(folder / "overlay"))
    for name in deployments:
        try:
            place.kubectl("rollout", "status", f"deployment/{name}", "--timeout=110s")
        except AssertionError as error:
            error.add_note(place.kubectl("get", "pods,events"))
            error.add_note(place.kubectl("logs", "--tail=30", f"deployment/{name}"))
            raise


def pods_of(place: Place, component: str) -> list[Mapping[str, Any]]:
    """Return the pods of ``server``, ``build`` or ``hub``."""
    labels = f"app.kubernetes.io/component={component}"
    said = place.cluster.get("pods", f"--namespace={place.namespace}", f"--selector={labels}")
    found: list[Mapping[str, Any]] = said["items"]
    return found


def _bases(place: Place) -> list[Path]:
    version = yaml.safe_load(place.kubectl("version", "--output=yaml"))["serverVersion"]
    recent = int(version["minor"].rstrip("+")) >= 21
    return [DEPLOY / "base", DEPLOY / "pod-disruption-budget" / ("v1" if recent else "v1beta1")]
