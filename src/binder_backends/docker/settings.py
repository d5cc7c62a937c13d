"""What an operator can set."""

from __future__ import annotations

from binder_backends.containers import BuildSettings


class DockerSettings(BuildSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the Docker builder."""

    host: str = ""
    """Where the engine listens: ``unix:///var/run/docker.sock``, ``tcp://127.0.0.1:2375``; empty:
    what ``DOCKER_HOST`` says, else the usual socket."""
    engine_socket: str = ""
    """The path of the engine's socket on the engine's own machine, for build containers; empty:
    that of ``host`` where it is a socket, else the usual one."""
    network: str = ""
    """The network of build containers; empty: the engine's default."""
    pids_limit: int = 4096
    """How many processes a build container may have; 0: no limit."""
    max_builds: int = 0
    """How many builds may run on the engine at once, those of all servers; 0: any number."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        super().__post_init__()
        for name in ("pids_limit", "max_builds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0")
