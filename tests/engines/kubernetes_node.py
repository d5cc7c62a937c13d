"""The machine that the cluster of the tests runs on: a network and some folders of its own.

A kubelet and a kube-proxy take a machine for theirs: rules of iptables, fixed ports and folders,
and whatever they find there and do not know they remove. In namespaces of their own they harm
nobody, several of them run beside each other, and with the last process all that they made there is
gone. The machine around reaches pods, services and programs inside by their addresses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from types import MappingProxyType

import psutil

from engines.docker import DockerEngine
from engines.network import Bridge, free_block, run
from engines.processes import kill, running, until

# What the kubelet has fixed names for. Bound, not copied: the engine shares it by its path.
_PRIVATE = ("/var/lib", "/var/log")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class NodeBridge(Bridge):
    """A bridge inside a node, and a way there from the machine around it.

    Of its block of addresses, the first /24 is the bridge's and so pods', the second leads inside,
    the third is for the cluster's services.
    """

    node: Node

    @property
    def outside(self) -> IPv4Interface:
        """Return the address of the machine around: servers there are reached from pods by it."""
        return self._uplink(1)

    @property
    def services(self) -> IPv4Network:
        """Return the network of the cluster's services."""
        return list(self.block.subnets(new_prefix=24))[2]

    def _uplink(self, number: int) -> IPv4Interface:
        subnet = list(self.block.subnets(new_prefix=24))[1]
        return IPv4Interface((int(subnet.network_address) + number, 30))

    def _create_device(self) -> None:
        inside = self._uplink(2)
        _FORWARDING.write_text("1")
        run(
            *("ip", "link", "add", "name", self.name, "type", "veth"),
            *("peer", "name", "uplink", "netns", str(self.node.pid)),
        )
        run("ip", "address", "add", str(self.outside), "dev", self.name)
        run("ip", "link", "set", self.name, "up")
        run("ip", "route", "add", str(self.block), "via", str(inside.ip))
        within = self.node.within
        run(*within, "ip", "link", "set", "lo", "up")
        run(*within, "ip", "address", "add", str(inside), "dev", "uplink")
        run(*within, "ip", "link", "set", "uplink", "up")
        run(*within, "ip", "route", "add", "default", "via", str(self.outside.ip))
        run(*within, "ip", "link", "add", "name", self.name, "type", "bridge")
        bridge = f"{self.address}/{self.subnet.prefixlen}"
        run(*within, "ip", "address", "add", bridge, "dev", self.name)
        run(*within, "ip", "link", "set", self.name, "up")
        run(*within, "sh", "-c", f"echo 1 > {_FORWARDING}")


class Node:
    """Namespaces for networks and mounts, held by a process that does nothing.

    Args:
        folder: What is kept from session to session, as of a `DockerEngine`.
    """

    def __init__(self, folder: Path) -> None:
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        self.folder = Path(tempfile.gettempdir()) / f"binderkit-node-{digest}"
        """What is there while it runs: what its programs write and print."""
        self.cgroup = f"/binderkit-node-{digest}"
        """The control group of its pods."""
        self._holder: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Return the process whose namespaces they are."""
        assert self._holder is not None, "the node was not started"
        return self._holder.pid

    @property
    def within(self) -> list[str]:
        """Return the command that runs another on the node."""
        # It becomes the other: signals reach that.
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--"]

    def start(self) -> None:
        """Make it; also remove what a session left that was killed."""
        self.stop()
        self.folder.mkdir(mode=0o700)
        steps = ["set -e"]
        for place in _PRIVATE:
            own = self.folder / place.strip("/").replace("/", "-")
            own.mkdir()
            steps.append(f"mount --bind {own} {place}")
        anchor = self.folder / "anchor"
        anchor.touch()
        # Its argument is how a later session knows it.
        steps += ["echo there", f"exec tail -f {anchor} >/dev/null"]
        spaces = ("--net", "--mount", "--propagation", "private")
        self._holder = subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", "\n".join(steps)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        with self._holder.stdout as said:
            assert said.readline(), "namespaces cannot be made here"
        for parent in self._hierarchies():
            (parent / self.cgroup.strip("/")).mkdir(exist_ok=True)

    def stop(self) -> None:
        """End every process of it, which takes the rest along."""
        kill(self._processes())
        if self._holder is not None:
            self._holder.wait(timeout=30)
            self._holder = None
        for group in self._groups():
            # A process that was killed counts until the kernel is done with it.
            until(partial(_removed, group), f"{group} is in use", seconds=30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def left_behind(self) -> list[str]:
        """Return what should not be there when it is stopped."""
        folders = [str(self.folder)] if self.folder.exists() else []
        return [*map(str, self._processes()), *map(str, self._groups()), *folders]

    def _processes(self) -> list[psutil.Process]:
        """Return those in its namespaces, and the containers that they started."""
        anchor = str(self.folder / "anchor")
        spaces = {_mounts_of(holder.pid) for holder in running(lambda line: anchor in line)}
        if self._holder is not None:
            spaces.add(_mounts_of(self._holder.pid))
        # Whoever looks at the file from outside is none of it, and nor is all the machine.
        spaces -= {_mounts_of(os.getpid()), _mounts_of(1), None}
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess):
                if _mounts_of(process.pid) in spaces:
                    for each in (process, *process.children(recursive=True)):
                        found[each.pid] = each
        return list(found.values())

    def _hierarchies(self) -> list[Path]:
        """Return the roots of control groups: one for each controller, or one for all."""
        if (_CGROUPS / "cgroup.controllers").exists():
            return [_CGROUPS]
        return [path for path in _CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]

    def _groups(self) -> list[Path]:
        """Return its control groups, the innermost first."""
        tops = [parent / self.cgroup.strip("/") for parent in self._hierarchies()]
        found = []
        for top in tops:
            for place, _, _ in os.walk(top, topdown=False):
                found.append(Path(place))
        return found


class NodeEngine(DockerEngine):
    """A Docker engine on a node. Its containers reach the machine around as `NodeBridge` says.

    Args:
        folder: See `DockerEngine`.
        node: Where it runs.
        number: See `DockerEngine`.
        log_options: What it does with containers' logs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node: Node,
        number: int = 0,
        log_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(folder, number=number)
        self._node = node
        self._log_options = dict(log_options)

    @property
    def bridge(self) -> NodeBridge:
        """Return the network of its containers."""
        assert isinstance(self._bridge, NodeBridge), "the engine was not started"
        return self._bridge

    def _new_bridge(self) -> NodeBridge:
        return NodeBridge(self._name, free_block(self._number), self._node)

    def _settings(self) -> dict[str, object]:
        # Without it a pod may send to itself what it sends to a service that it is behind.
        return {"userland-proxy": False, "log-opts": self._log_options}

    def _within(self) -> list[str]:
        return self._node.within


def _mounts_of(pid: int) -> str | None:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    return None


def _removed(group: Path) -> bool:
    with suppress(FileNotFoundError):
        try:
            group.rmdir()
        except OSError:
            return False
    return True
