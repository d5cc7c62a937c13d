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
