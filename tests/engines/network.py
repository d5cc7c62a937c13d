"""A bridge of the tests' own, in a block of addresses that nobody here uses.

Two Docker engines on one machine do not get along by themselves: a second ``dockerd`` empties the
chains of the first as it starts. So ours touches no iptables; the few rules that its containers
need stand here, each with a comment by which it is found and removed again.
"""

from __future__ import annotations

import ipaddress
import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

BLOCKS = IPv4Network("10.214.0.0/16")
"""Where all networks of the tests are."""
_PREFIX = 20
# Where a rule goes: first, so that another engine's policy (DROP) does not come before it.
_TABLES = (("filter", "FORWARD"), ("nat", "POSTROUTING"))


@dataclass(frozen=True)
class Bridge:
    """A bridge, and a block of addresses: its first /24 is the bridge's, the rest is for others."""

    name: str
    block: IPv4Network

    @property
    def subnet(self) -> IPv4Network:
        """Return the network of the bridge itself."""
        return next(self.block.subnets(new_prefix=24))

    @property
    def address(self) -> str:
        """Return the address of this machine on it: containers reach our servers there."""
        return str(next(self.subnet.hosts()))

    @property
    def pool(self) -> IPv4Network:
        """Return the half of the block from which further networks are made."""
        return list(self.block.subnets(prefixlen_diff=1))[1]

    def create(self) -> None:
        """Make it, with a way out for what is attached to it."""
        self._create_device()
        block, comment = str(self.block), ("-m", "comment", "--comment", self.name)
        known = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED")
        _iptables("-t", "filter", "-I", "FORWARD", "-s", block, *comment, "-j", "ACCEPT")
        _iptables("-t", "filter", "-I", "FORWARD", "-d", block, *known, *comment, "-j", "ACCEPT")
        _iptables(
            *("-t", "nat", "-I", "POSTROUTING", "-s", block, "!", "-d", block),
            *(*comment, "-j", "MASQUERADE"),
        )

    def _create_device(self) -> None:
        run("ip", "link", "add", "name", self.name, "type", "bridge")
        run("ip", "address", "add", f"{self.address}/{self.subnet.prefixlen}", "dev", self.name)
        run("ip", "link", "set", self.name, "up")

    def left_behind(self) -> list[str]:
        """Return devices and rules that are there though the bridge was removed."""
        rules = [rule for _, rule in _rules(self.name)]
        return rules + [name for name, address in _addresses() if address in self.block]


def remove(name: str) -> None:
    """Take away a bridge, those that an engine made in its block, and the rules, if they exist."""
    for table, rule in _rules(name):
        _iptables("-t", table, "-D", *shlex.split(rule)[1:])
    addresses = list(_addresses())
    blocks = [
        IPv4Network((address, _PREFIX), strict=False)
        for device, address in addresses
        if device == name
    ]
    for device in {
        device for device, address in addresses if any(address in block for block in blocks)
    } | {name}:
        run("ip", "link", "delete", device, check=False)


def free_block(preferred: int) -> IPv4Network:
    """Return a block that no address or route of this machine touches.

    Args:
        preferred: Which of the candidates is tried first: those who begin at the same moment should
            prefer different ones.
    """
    blocks = list(BLOCKS.subnets(new_prefix=_PREFIX))
    taken = [*_routes(), *(IPv4Network(address) for _, address in _addresses())]
    for number in range(len(blocks)):
        block = blocks[(preferred + number) % len(blocks)]
        if not any(block.overlaps(other) for other in taken):
            return block
    raise AssertionError(f"no block of {BLOCKS} is free: which networks are left from others?")


def _rules(comment: str) -> list[tuple[str, str]]:
    return [
        (table, rule)
        for table, chain in _TABLES
        for rule in _iptables("-t", table, "-S", chain).splitlines()
        if comment in shlex.split(rule)
    ]


def _addresses() -> Iterator[tuple[str, ipaddress.IPv4Address]]:
    for device in json.loads(run("ip", "-json", "-4", "address", "show") or "[]"):
        for address in device.get("addr_info", []):
            yield device["ifname"], ipaddress.IPv4Address(address["local"])


def _routes() -> Iterator[IPv4Network]:
    for route in json.loads(run("ip", "-json", "-4", "route", "show") or "[]"):
        if route["dst"] != "default":
            yield IPv4Network(route["dst"])


def _iptables(*arguments: str) -> str:
    # Another engine may be at it at the same moment.
    return run("iptables", "--wait", "30", *arguments)


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
