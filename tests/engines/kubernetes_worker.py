"""The machines that a cluster of the tests runs pods on: one, and for a while a second one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from engines import images
from engines.docker import DockerEngine
from engines.kubernetes_node import Node, NodeEngine
from engines.processes import until

if TYPE_CHECKING:
    from engines.kubernetes import KubernetesCluster

PAUSE = "pause:test"
SOCKET = "/var/lib/docker.sock"
"""Where each node has its engine's socket."""
ROTATED = {"max-size": "128k", "max-file": "2"}
"""How the second one keeps logs: larger ones lose their beginnings."""
LEASE = 8
"""Seconds for which a node is known to live; it says so again four times as often."""

# It ends at once when it is asked to: each pod waits for it before it is gone.
_PAUSE = f"""\
FROM {images.BUSYBOX}
ENTRYPOINT ["sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"]
"""


class Worker:
    """A node, its engine, and what its kubelet is started with.

    Args:
        folder: Where its images are, kept from session to session.
        name: What the cluster calls it.
        number: See `NodeEngine`.
        log_options: See `NodeEngine`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        number: int,
        log_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.node = Node(folder)
        self.engine = NodeEngine(folder, node=self.node, number=number, log_options=log_options)

    def start(self) -> None:
        """Start all but the kubelet."""
        self.node.start()
        self.engine.start()
        images.busybox(self.engine)
        context = self.node.folder / "pause"
        context.mkdir()
        (context / "Dockerfile").write_text(_PAUSE)
        images.build(self.engine, PAUSE, context)
        # What nodes have at /var/lib is their own.
        (self.node.folder / "var-lib" / Path(SOCKET).name).symlink_to(self.engine.socket)
        self._configure()

    def stop(self) -> None:
        """Stop it: nothing is left but its folder. Also what a session left that was killed."""
        if self.engine.answers() and (pods := self.engine.docker("ps", "-aq").split()):
            self.engine.docker("rm", "--force", "--volumes", *pods)
        self.engine.stop()
        self.node.stop()

    def left_behind(self) -> list[str]:
        """Return what should not be there when it is stopped."""
        return self.engine.left_behind() + self.node.left_behind()

    def load(self, image: str, engine: DockerEngine) -> str:
        """See to it that its engine has an image of another one. Return its name."""
        wanted = engine.inspect(image)
        assert wanted is not None, f"the engine has no {image}"
        have = self.engine.inspect(image)
        if have is None or have["Id"] != wanted["Id"]:
            saved = self.node.folder / "image.tar"
            engine.docker("save", "--output", str(saved), image, timeout=300)
            self.engine.docker("load", "--input", str(saved), timeout=300)
            saved.unlink()
        return image

    def kubelet(self, programs: Path, kubeconfig: Path) -> list[str]:
        """Return the command of its kubelet."""
        folder = self.node.folder
        return [
            str(programs / "kubelet"),
            f"--kubeconfig={kubeconfig}",
            f"--config={folder / 'kubelet.json'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.engine.bridge.address}",
            "--container-runtime=docker",
            f"--docker-endpoint={self.engine.host}",
            # What containers write is counted, and held against their limits.
            f"--docker={self.engine.host}",
            # It listens there itself; otherwise all kubelets do so in one place.
            f"--container-runtime-endpoint=unix://{folder / 'dockershim.sock'}",
            f"--pod-infra-container-image={PAUSE}",
        ]

    def _configure(self) -> None:
        (self.node.folder / "kubelet.json").write_text(
            json.dumps(
                {
                    "apiVersion": "kubelet.config.k8s.io/v1beta1",
                    "kind": "KubeletConfiguration",
                    "address": self.engine.bridge.address,
                    "authentication": {
                        "anonymous": {"enabled": True},
                        "webhook": {"enabled": False},
                    },
                    "authorization": {"mode": "AlwaysAllow"},
                    "cgroupDriver": "cgroupfs",
                    "cgroupRoot": self.node.cgroup,
                    "failSwapOn": False,
                    # A full disk of the machine around is nothing that it should act upon.
                    "evictionHard": {},
                    "imageGCHighThresholdPercent": 100,
                    "maxPods": 250,
                    "nodeLeaseDurationSeconds": LEASE,
                    "resolvConf": "/etc/resolv.conf",
                }
            )
        )


@contextmanager
def second_worker(cluster: KubernetesCluster) -> Iterator[Worker]:
    """Give the cluster another node until the block ends.

    With a single one nothing is ever evicted from a node that is lost: the control plane holds
    itself for what is cut off. Its pods reach no services, and of their logs it keeps little.
    """
    first = cluster.worker
    folder = first.engine.folder.with_name(f"{first.engine.folder.name}-second")
    folder.mkdir(exist_ok=True)
    # The block of addresses of nobody's first choice.
    worker = Worker(folder, name="second", number=-1, log_options=ROTATED)
    worker.stop()
    try:
        worker.start()
        log = worker.node.folder / "kubelet.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*worker.node.within, *worker.kubelet(cluster.programs, cluster.kubeconfig)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=worker.node.folder,
            )
        try:
            until(lambda: cluster.is_ready(worker.name), f"it is not ready, see {log}", seconds=60)
            yield worker
        finally:
            process.kill()
            process.wait(timeout=30)
            cluster.kubectl("delete", "node", worker.name, "--ignore-not-found")
    finally:
        worker.stop()
