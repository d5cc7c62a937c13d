"""What the tests of the Kubernetes builder share."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from binder_backends.kubernetes import KubernetesSettings
from binder_core.plugin import BuildRequest
from engines.docker import DockerEngine
from engines.kubernetes import Cluster, KubernetesCluster
from engines.registry import Registry

RELEASE = "/tmp/release"
"""Slow builds wait for this file in their container."""

SCRIPT = f"""
for word; do
  case "$word" in --image-name=*) image=${{word#*=}} ;; --push) push=yes ;; esac
  url=$word
done
say() {{ printf '{{"message": "%s\\\\n", "phase": "%s"}}\\n' "$1" "$2" >&2; }}
say "Cloning $url" fetching
echo "a warning, no JSON" >&2
say "Step 1/1" building
case "$url" in
  */fails) say "no such package" building; exit 3 ;;
  */slow) until [ -e {RELEASE} ]; do sleep 0.1; done ;;
  */long) say "$(head -c 20000 /dev/zero | tr '\\0' x)" building ;;
  */pours) for n in $(seq 1 2000); do say "line $n" building; sleep 0.01; done ;;
esac
head -c 1024 /dev/zero | docker import - "$image" >/dev/null
[ -z "$push" ] || docker push "$image" >/dev/null || exit
say "Successfully tagged $image" building
"""
"""In the place of repo2docker: it logs as that does, and makes an image in no time."""


class Builds:
    """Where builds of a test run: what there is of it in any cluster."""

    cluster: Cluster
    namespace: str
    image: str
    """The builder image."""

    @property
    def docker_socket(self) -> str:
        """Return where nodes have their engine's socket."""
        raise NotImplementedError

    @property
    def registry_address(self) -> str:
        """Return where nodes, and tests, reach the registry. It speaks plain HTTP."""
        raise NotImplementedError

    def settings(self, **options: Any) -> KubernetesSettings:
        """Return settings for builds by `SCRIPT`."""
        given = {
            "kubeconfig": str(self.cluster.kubeconfig),
            "namespace": self.namespace,
            "builder_image": self.image,
            "docker_socket": self.docker_socket,
            "registry": {"plain_http": [self.registry_address]},
            "repo2docker": ["sh", "-c", SCRIPT, "script"],
            **options,
        }
        return msgspec.convert(given, KubernetesSettings)

    def request(self, what: str = "builds", *, url: str = "", ref: str = "1" * 40) -> BuildRequest:
        """Return a request for an image that is not there, built from `url` or by `SCRIPT`."""
        token = secrets.token_hex(6)
        image = f"{self.registry_address}/kubernetes-builds/{token}:one"
        return BuildRequest(f"build-{token}", image, url or f"https://example.org/{what}", ref)

    def release(self, request: BuildRequest) -> None:
        """Let a slow build go on; one that has ended is fine."""
        if (found := self.pod(request.name)) and found["status"]["phase"] == "Running":
            self.kubectl("exec", request.name, "--", "touch", RELEASE)

    def pod(self, name: str) -> Mapping[str, Any] | None:
        """Return what the cluster says of a pod, None if there is none."""
        said = self.kubectl("get", "pod", name, "--ignore-not-found", "--output=json")
        found: Mapping[str, Any] | None = json.loads(said) if said.strip() else None
        return found

    def pods(self) -> list[Mapping[str, Any]]:
        """Return all pods."""
        found: list[Mapping[str, Any]] = json.loads(self.kubectl("get", "pods", "--output=json"))[
            "items"
        ]
        return found

    def runs(self, name: str) -> int:
        """Return how many pods of this name there were: each was given a node, once."""
        said = self.kubectl(
            *("get", "events", "--output=json"),
            f"--field-selector=reason=Scheduled,involvedObject.name={name}",
        )
        return len({event["involvedObject"]["uid"] for event in json.loads(said)["items"]})

    def pushed(self, image: str) -> bool:
        """Return whether the registry has an image."""
        repository, _, tag = image.removeprefix(f"{self.registry_address}/").rpartition(":")
        url = f"http://{self.registry_address}/v2/{repository}/tags/list"
        answer = httpx.get(url, trust_env=False)
        return answer.status_code == 200 and tag in (answer.json()["tags"] or [])

    def kubectl(self, *arguments: str, given: object = None) -> str:
        """Run kubectl in the namespace."""
        return self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, given=given)


@dataclass(frozen=True)
class GivenPlace(Builds):
    """The same in a cluster that somebody else runs."""

    cluster: Cluster
    namespace: str
    image: str
    socket: str
    registry: str

    @property
    def docker_socket(self) -> str:
        """Return the socket that was told."""
        return self.socket

    @property
    def registry_address(self) -> str:
        """Return the address that was told."""
        return self.registry


@dataclass(frozen=True)
class Place(Builds):
    """The same in a cluster of the tests' own."""

    cluster: KubernetesCluster
    engine: DockerEngine
    """The node's."""
    namespace: str
    registry: Registry
    image: str

    @property
    def docker_socket(self) -> str:
        """Return the socket of the node's engine."""
        return str(self.engine.socket)

    @property
    def registry_address(self) -> str:
        """Return where the registry is."""
        return self.registry.address

    def kubeconfig_of(self, account: str, folder: Path) -> str:
        """Write a kubeconfig for a service account and return its path."""
        secret = json.loads(self.kubectl("get", "serviceaccount", account, "--output=json"))
        [named] = secret["secrets"]
        said = json.loads(self.kubectl("get", "secret", named["name"], "--output=json"))
        config = json.loads(self.cluster.kubeconfig.read_text())
        config["users"][0]["user"]["token"] = base64.b64decode(said["data"]["token"]).decode()
        path = folder / f"kubeconfig-{account}"
        path.write_text(json.dumps(config))
        return str(path)
