"""What a store keeps: builds, templates, deployments, API keys, as values.

Times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class BuildStatus(Enum):
    """How a build stands; the values are those of the older Binder protocol."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def live(self) -> bool:
        """Return whether it has not ended."""
        return self in {BuildStatus.PENDING, BuildStatus.RUNNING}


class DeploymentStatus(Enum):
    """How a deployment stands."""

    PENDING = "pending"
    READY = "ready"
    ENDED = "ended"
    """It was there, or never came; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """A build that somebody asked for."""

    id: str
    """Names this one and no other."""
    name: str
    """The template that it makes. Of several builds of a name at most one is live."""
    repository: str
    """As it was given."""
    source: str
    """Which repository that is, however it was given."""
    started: float
    provider: str
    """The prefix of the provider that knew it."""
    build_name: str
    """With the next four: see `binder_core.plugin.BuildRequest`."""
    image: str
    repo_url: str
    ref: str
    content_provider: str
    status: BuildStatus = BuildStatus.PENDING
    phase: str = "waiting"
    message: str = ""
    """Why it failed."""
    ended: float | None = None
    run: str = ""
    """The run of the builder's that is this build, once there is one; see `Report.started`."""
    owner: str = ""
    """The server that follows it."""
    lease: float = 0.0
    """Until when that server has said to do so; then another one may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRecord:
    """What a finished build is registered as."""

    name: str
    image: str
    repository: str
    source: str
    """See `BuildRecord.source`."""
    repo_url: str
    ref: str
    registered: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """A server that was started from a template."""

    id: str
    """Cannot be guessed: who knows it may use the server."""
    template: str
    image: str
    repo_url: str
    ref: str
    server: str
    """The server's name; with `started` its token is derived from it."""
    started: float
    idle_timeout: float | None = None
    status: DeploymentStatus = DeploymentStatus.PENDING
    url: str = ""
    message: str = ""
    ended: float | None = None
    owner: str = ""
    """The server that follows its start, until `lease`."""
    lease: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """An API key. The key itself is kept nowhere."""

    id: str
    """The part of the key before its dot."""
    name: str
    """For people: whose it is."""
    digest: bytes = field(repr=False)
    """SHA-256 of the whole key."""
    created: float
    revoked: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a build ended."""

    status: BuildStatus
    ended: float
    phase: str
    message: str = ""
    log: bytes = field(default=b"", repr=False)
    """All of its log, compressed by zlib."""
    template: TemplateRecord | None = None
    """What it is registered as."""
