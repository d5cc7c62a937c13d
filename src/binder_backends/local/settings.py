"""What an operator can set."""

from __future__ import annotations

import msgspec


class LocalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the local builder."""

    cache_dir: str = ""
    """Where images and the logs of builds are kept; empty: the user's cache folder."""
    git: str = "git"
    """The program, or its path."""
    uv: str = ""
    """The program, or its path; empty: the one installed with binderkit, else the PATH's."""
    python: str = ""
    """The Python version of repositories that ask for none; empty: the server's own."""
    jupyter_packages: tuple[str, ...] = ("jupyterlab",)
    """What is installed where a repository brings no Jupyter server."""
    allow_directories: bool = False
    """Whether a directory of this machine is a repository, and git may fetch from one. For the
    command line; never for a server that others can reach."""
    build_timeout: float = 3600.0
    """Seconds after which a build is ended; 0: never."""
    silence_timeout: float = 1800.0
    """Seconds without a line of output after which a build is ended; 0: never."""
    log_cap_bytes: int = 8 * 2**20
    """How large the log of a build may get."""
    keep_logs: int = 5
    """How many logs of finished runs are kept for each build, for those who reconnect."""
    keep_logs_for: float = 86400.0
    """Seconds for which they are kept."""
    pass_environment: tuple[str, ...] = ()
    """Names of environment variables that builds get, beside the usual ones."""


class LocalLaunchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the local launcher."""

    cache_dir: str = ""
    """The builder's ``cache_dir``."""
    state_dir: str = ""
    """Where running servers and their working copies are kept; empty: the user's state folder."""
    address: str = "127.0.0.1"
    """What the notebook servers listen on. Others than loopback are open to the network."""
    start_timeout: float = 120.0
    """Seconds in which a server has to answer."""
    idle_timeout: float = 3600.0
    """Seconds without activity after which a kernel, and then its server, ends itself; 0: never."""
    allow_origin: str = ""
    """The origin whose pages may talk to the notebook servers, ``*`` for any; empty: none."""
    server_log_cap_bytes: int = 2 * 2**20
    """How large the log of a notebook server may get, roughly."""
    pass_environment: tuple[str, ...] = ()
    """Names of environment variables that servers get, beside the usual ones."""
