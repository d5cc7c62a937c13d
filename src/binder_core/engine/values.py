"""What a `Binder` is asked, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from binder_core.builds import State
from binder_core.ordering import Phase
from binder_core.plugin import BuildRequest
from binder_core.specs import Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asks for."""

    provider: str
    """The prefix: ``gh``."""
    spec: str
    """The text behind it, as it stood in the URL: escapes are kept."""
    build_only: bool = False
    """Build, but launch nothing."""
    last_event_id: str = ""
    """The id of the last event that who asks has seen, where this is a reconnect."""
    launch_host: str = ""
    """This server's base URL, told in the last event."""

    @property
    def text(self) -> str:
        """Return ``<provider>/<spec>``."""
        return f"{self.provider}/{self.spec}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """A build, as an operator sees it."""

    name: str
    image: str
    repo_url: str
    ref: str
    state: State
    watchers: int
    """On this server."""
    seconds: float | None
    """Since it came into its state; None: nobody knows."""
    age: float | None
    """Since it was asked for here, or its run was started elsewhere."""
    provider: str = ""
    """The prefix it was first asked for with."""
    phase: Phase | None = None
    """What was told last; None: this server does not read it."""
    place: int | None = None
    """In the queue, from 1, where it waits for a slot."""
    run_id: str | None = None
    elsewhere: bool = False
    """Whether another server started it, and this one does not follow it."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The builds that are known."""

    builds: list[BuildInfo]
    complete: bool
    """Whether what other servers started is among them. What queues there never is."""
    message: str = ""
    """Why it is not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a spec comes to."""

    resolved: Resolved
    build: BuildRequest
    """What would be built, if it is not there already."""


@dataclass(frozen=True, slots=True)
class Check:
    """Whether a part works."""

    service: str
    ok: bool
    message: str = ""
    """What is wrong, and the cure."""
