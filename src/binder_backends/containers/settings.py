"""What an operator can set for builds in containers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from binder_backends.registry import RegistrySettings

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?")
_GIT_HOST: Final = re.compile(r"(?:https?://)?(?:[^\s/@:]+|\[[\da-f:]+\])(?::\d+)?", re.IGNORECASE)
_ENGINE: Final = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT")
_POWER: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class GitCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who asks a git host for private repositories."""

    user: str = "x-access-token"
    """The user; the default suits tokens of GitHub, and GitLab takes any."""
    password: str = ""
    """The password or token."""
    password_file: str = ""
    """A file that holds it, instead."""

    def __repr__(self) -> str:
        """Return what may be told of it."""
        return f"GitCredential(user={self.user!r}, …)"


class BuildSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that all builders with containers have."""

    builder_image: str = "binderkit-builder"
    """The image of the build containers: made from ``deploy/builder/Dockerfile``, or one of
    repo2docker's own, with ``runner = false``."""
    runner: bool = True
    """Whether the builder image holds the runner. Without it the log has no phases but those that
    repo2docker tells, no limits are kept, and a push tells nothing with current repo2docker."""
    repo2docker: tuple[str, ...] = ("jupyter-repo2docker",)
    """The command."""
    extra_args: tuple[str, ...] = ()
    """What it gets beside our own arguments."""
    user_id: int = 1000
    """The user that an image runs as."""
    user_name: str = "jovyan"
    push: bool = False
    """Whether images are pushed to the registry that their names begin with, and looked for there.
    Without, images stay on the engine that builds them."""
    registry: RegistrySettings = RegistrySettings()
    """How the registry is asked that images are pushed to, and who asks; see `push`."""
    labels: dict[str, str] = {}
    """Labels that images get."""
    environment: dict[str, str] = {}
    """Environment variables of the build container: proxies, say. Never secrets."""
    git_credentials: dict[str, GitCredential] = {}
    """Who asks, by git host: ``github.com``, ``git.example.org:8443``. A path is refused: git uses
    them for the whole host."""
    memory_limit: str = ""
    """Memory of a build, as ``2G`` or in bytes; empty: no limit."""
    cpu_limit: float = 0.0
    """How many CPUs a build may use; 0: no limit."""
    build_timeout: float = 3 * 3600.0
    """Seconds after which a build is ended; 0: never."""
    silence_timeout: float = 1800.0
    """Seconds without a line of output after which a build is ended; 0: never."""
    log_cap_bytes: int = 8 * 2**20
    """How large the log of a build may get."""
    keep_builds_for: float = 3600.0
    """Seconds for which the containers of finished builds are kept, for those who reconnect."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        byte_size(self.memory_limit)
        if not self.repo2docker or not self.builder_image:
            raise ValueError("builder_image and repo2docker must not be empty")
        for host in self.git_credentials:
            if not _GIT_HOST.fullmatch(host):
                raise ValueError(
                    "git_credentials are by host, such as github.com, git.example.org:8443 or"
                    f" http://git.example.org, and git uses them for all of it: {host!r} is none"
                )
        for name in _ENGINE:
            if name in self.environment:
                raise ValueError(
                    f"environment must not hold {name}: other settings say which engine builds"
                )
        for name in (
            *("cpu_limit", "build_timeout", "silence_timeout", "keep_builds_for"),
            "log_cap_bytes",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0")

    def credentials(self) -> Mapping[str, GitCredential]:
        """Return who asks, by host in lower case."""
        return {host.lower(): who for host, who in self.git_credentials.items()}


def byte_size(text: str) -> int:
    """Return the bytes that a text such as ``512M`` or ``2G`` means; 0 for an empty one.

    Raises:
        ValueError: It is no size.
    """
    if not text:
        return 0
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"expected a size such as 512M or 2G, not {text!r}")
    # As docker and Kubernetes' users mean it: 2G of memory is 2 · 1024³.
    return int(float(found[1]) * 1024 ** _POWER[found[2].lower()])
