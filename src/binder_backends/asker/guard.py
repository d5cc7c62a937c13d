"""Whom we may talk to: public addresses, and the networks that the operator allows.

A name is checked after it is resolved, and what is checked is what gets connected to: a name that
means another address a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

import anyio
import httpcore

from binder_core.plugin import ProviderUnavailable

log = logging.getLogger("binder.asker")

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Returns the addresses of a host; raises OSError if it has none."""

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_SPECIAL: Final = [
    ipaddress.ip_network(text) for text in ("192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10")
]
"""For protocols and for local use, which `is_global` of Python does not know everywhere: a cloud
has its metadata at 192.0.0.192."""
_MOST_ADDRESSES: Final = 4


class NotAllowed(ProviderUnavailable):
    """A question that is not asked, or an answer that is not read to its end."""

    status_hint = 403


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system resolves it."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """Finds the addresses of hosts, and refuses those that are nobody's business.

    Args:
        networks: Networks that are allowed although they are not public.
        resolver: Resolves names.

    Raises:
        ValueError: One of `networks` is no network.
    """

    def __init__(self, networks: Iterable[str], resolver: Resolver = resolve) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._resolver = resolver

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return addresses of a host that may be connected to.

        Raises:
            NotAllowed: It has others only.
            ProviderUnavailable: It has none.
        """
        try:
            found = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise ProviderUnavailable(
                f"There is no host {host}, or it could not be found just now. Check the spelling."
            ) from error
        allowed = [address for address in found if self.allows(address)]
        if not allowed:
            log.warning("refused to connect to %s: it is at %s", host, ", ".join(found))
            raise NotAllowed(
                f"{host} is not asked: its address is private, and only public ones are allowed "
                "here. An operator can allow its network."
            )
        return allowed[:_MOST_ADDRESSES]

    def allows(self, text: str) -> bool:
        """Return whether an address may be connected to."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        inner = _inner(address)
        return any(inner in network for network in self._networks) or _is_public(inner)


def _inner(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def _is_public(address: _Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _SPECIAL)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects where the guard allows it, and to the very address that it checked."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one address of the host after the other until one answers."""
        failed: Exception = httpcore.ConnectError("no address")
        for address in await self._guard.addresses(host, port):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002 - the interface's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002 - likewise
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: nothing that is asked lives in a file."""
        raise NotAllowed(f"{path} is a file.")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._inner.sleep(seconds)
