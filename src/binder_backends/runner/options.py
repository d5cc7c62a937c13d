"""What a runner is told to do.

It comes as JSON in a file or through standard input, so that nothing of it stands in the arguments
of a process, which everybody on the machine can read.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

FROM_OUTSIDE: Final = (
    "The build was ended from outside (was the engine or the machine restarted?). Ask again, and"
    " it is built anew."
)
"""Why a build failed that somebody ended without a word. Who runs builds may know more."""


class LocalRecipe(msgspec.Struct, frozen=True, tag="local", forbid_unknown_fields=True):
    """Make a folder with the repository and an environment for it."""

    run_id: str
    image: str
    repo_url: str
    ref: str
    content_provider: str
    folder: str
    """Where to; it does not exist yet. Removed if the build fails."""
    built_file: str
    """Written last: it says that the image exists, and where."""
    git: str
    uv: str
    python: str = ""
    """What repositories get that ask for no version; empty: what uv finds."""
    jupyter_packages: tuple[str, ...] = ("jupyterlab",)
    allow_directories: bool = False
    """Whether a directory of this machine is a repository, and git may fetch from one."""


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the Docker engine is that builds and pushes."""

    host: str = "unix:///var/run/docker.sock"
    """As ``DOCKER_HOST`` has it: a socket, or ``tcp://engine.example:2376``."""
    certs: str = ""
    """A folder as ``DOCKER_CERT_PATH`` names: the engine is spoken to with TLS. Empty: without."""
    wait: float = 0.0
    """Seconds for which it is waited for, before anything else, where it does not answer; 0: it is
    not asked."""


class PushOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Push an image, which is on the engine, to its registry."""

    image: str
    config_file: str = ""
    """A Docker ``config.json`` with the registry's login; empty: it asks for none."""
    retry_for: float = 120.0
    """Seconds for which a registry, or an engine, that does not answer is tried again."""


class CommandRecipe(msgspec.Struct, frozen=True, tag="repo2docker", forbid_unknown_fields=True):
    """Run repo2docker, and push what it made."""

    argv: tuple[str, ...]
    engine: EngineOptions = EngineOptions()
    """Where the command builds: it is told by its environment."""
    push: PushOptions | None = None
    """None: the command does all there is to do."""
    memory_limit: int = 0
    """Bytes that a step of the image may use, where repo2docker can say so; 0: no limit."""


AnyRecipe: TypeAlias = LocalRecipe | CommandRecipe


class RunnerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All a runner has to know."""

    recipe: AnyRecipe
    time_limit: float = 0.0
    """Seconds after which the build is ended; 0: never."""
    silence_limit: float = 0.0
    """Seconds without any output after which the build is ended; 0: never."""
    log_cap_bytes: int = 8 * 2**20
    secrets: tuple[str, ...] = ()
    """Strings that must not be told."""
    secret_variables: tuple[str, ...] = ()
    """Environment variables whose values must not be told."""
    pid_file: str = ""
    """Where to write which process this is."""
    stop_file: str = ""
    """Where whoever ends the build writes why, before the signal."""
