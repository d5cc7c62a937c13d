"""What an operator can set for servers."""

from __future__ import annotations

import msgspec

from binder_backends.containers import byte_size
from binder_backends.registry import RegistrySettings


class DockerLaunchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the Docker launcher."""

    host: str = ""
    """Where the engine listens: ``unix:///var/run/docker.sock``, ``tcp://127.0.0.1:2375``; empty:
    what ``DOCKER_HOST`` says, else the usual socket."""
    address: str = "127.0.0.1"
    """The address of the engine's machine that servers are reached at. Others than loopback are
    open to the network."""
    url_host: str = ""
    """The host that URLs name; empty: ``address``, or this machine's name where that is every
    address."""
    probe_host: str = ""
    """Where this process reaches what is open at ``address``, if it runs in a container itself, or
    the engine on another machine; empty: ``address``."""
    allow_images: tuple[str, ...] = ()
    """Images that may be launched, ``*`` stands for anything; empty: whichever Binder asks for,
    which are those that it named itself."""
    pull: bool = False
    """Whether images that the engine lacks are pulled from the registry that their names begin
    with: for builders that push. Without, only the engine's own images are launched."""
    registry: RegistrySettings = RegistrySettings()
    """Who asks, at registries that want a login."""
    network: str = ""
    """The network of servers; empty: the engine's default. See the documentation on what servers
    reach of each other."""
    memory_limit: str = "2G"
    """Memory of a server, as ``2G`` or in bytes; empty: no limit."""
    cpu_limit: float = 0.0
    """How many CPUs a server may use; 0: no limit."""
    pids_limit: int = 1024
    """How many processes and threads a server may have; 0: no limit."""
    capabilities: tuple[str, ...] = ()
    """Linux capabilities that servers keep, such as ``CHOWN``; the others are taken away."""
    environment: dict[str, str] = {}
    """Environment variables of servers. Never secrets: whoever uses a server reads them."""
    command: tuple[str, ...] = ()
    """What starts the server in an image, before our own arguments; empty: the first of
    ``jupyter-lab``, ``jupyter-notebook`` and ``jupyter-server`` that there is."""
    allow_origin: str = ""
    """The origin whose pages may talk to the servers, ``*`` for any; empty: none."""
    start_timeout: float = 120.0
    """Seconds in which a server has to answer. Pulling its image does not count; it does for
    ``limits.launch_timeout``."""
    idle_timeout: float = 3600.0
    """Seconds without activity after which a kernel, and then its server, ends itself; 0: never."""
    keep_ended_for: float = 60.0
    """Seconds for which the container of a server that ended by itself is kept, for the operator's
    eyes."""
    server_log_cap_bytes: int = 2 * 2**20
    """How large the log of a server may get, roughly."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        byte_size(self.memory_limit)
        for name in ("cpu_limit", "pids_limit", "start_timeout", "idle_timeout", "keep_ended_for"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0")
        if not self.address:
            raise ValueError("address must not be empty: 127.0.0.1, or 0.0.0.0 for every address")
        for name in ("address", "url_host", "probe_host"):
            if "[" in getattr(self, name):
                raise ValueError(f"{name} is without brackets and port: ::1, not [::1]:80")
        if self.server_log_cap_bytes < 2**16:
            raise ValueError("server_log_cap_bytes must be at least 65536")
