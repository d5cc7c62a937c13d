"""All that a plug-in author reads: the contracts, and every type they mention.

A plug-in is a class, named by an entry point in one of the groups

- ``binder.providers`` (`Provider`): where repositories come from,
- ``binder.builders`` (`Builder`): makes images,
- ``binder.launchers`` (`Launcher`): starts servers from images,
- ``binder.stores`` (`Store`): keeps records of the older Binder protocol.

It is made with one argument, an instance of its own ``Settings`` (a `msgspec.Struct`, filled from
the operator's configuration: an unknown key or a wrong type never reaches the plug-in); a provider
gets the prefix it serves before it, a store the server's state folder behind it. All but providers
are entered (``async with``) before their first use and left when the server stops. `Plugin` is a
base class with the defaults.

Whoever writes one runs the suite of its kind from `binder_core.testing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Protocol, Self

import msgspec

from binder_core.asking import (
    Answer,
    Asks,
    GitLsRemote,
    GitRefs,
    HttpGet,
    HttpReply,
    Question,
    git_ls_remote,
    http_get,
    perform,
)
from binder_core.errors import (
    BackendUnavailable,
    BinderError,
    BuildFailed,
    LaunchFailed,
    ProviderUnavailable,
    RefNotFound,
    RegistryUnavailable,
    SpecError,
)
from binder_core.events import LayerProgress, Progress
from binder_core.ordering import Phase
from binder_core.records import (
    BuildRecord,
    BuildStatus,
    DeploymentRecord,
    DeploymentStatus,
    Ending,
    KeyRecord,
    TemplateRecord,
)
from binder_core.registry import (
    HttpPost,
    ImageName,
    Login,
    RegistryAsks,
    is_loopback,
    parse_image,
)
from binder_core.registry import exists as image_exists
from binder_core.runlog import Line, LogReader, Outcome
from binder_core.runlog import encode as encode_log
from binder_core.specs import Resolved, Spec

__all__ = [
    "Answer",
    "Asker",
    "Asks",
    "BackendUnavailable",
    "BinderError",
    "BuildFailed",
    "BuildRecord",
    "BuildRequest",
    "BuildRun",
    "BuildStatus",
    "Builder",
    "DeploymentRecord",
    "DeploymentStatus",
    "Display",
    "Ending",
    "GitLsRemote",
    "GitRefs",
    "HttpGet",
    "HttpPost",
    "HttpReply",
    "ImageName",
    "KeyRecord",
    "LaunchFailed",
    "LaunchReport",
    "LaunchRequest",
    "Launcher",
    "LayerProgress",
    "Line",
    "LogReader",
    "Login",
    "NoSettings",
    "Outcome",
    "Pasted",
    "Phase",
    "Plugin",
    "Progress",
    "Provider",
    "ProviderUnavailable",
    "Question",
    "RefNotFound",
    "RegistryAsks",
    "RegistryUnavailable",
    "Report",
    "Resolved",
    "Spec",
    "SpecError",
    "Store",
    "TemplateRecord",
    "encode_log",
    "git_ls_remote",
    "http_get",
    "image_exists",
    "is_loopback",
    "parse_image",
    "perform",
]


class NoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a plug-in that has none."""


# -- Builders ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build."""

    name: str
    """Names the build wherever it runs: DNS-safe, at most 63 characters, and always the same for
    the same image. It is the lock: of two builds of one name there is at most one at a time."""
    image: str
    """The image that shall exist."""
    repo_url: str
    """What to fetch."""
    ref: str
    """The commit or version to fetch."""
    content_provider: str = "Git"
    """The one of repo2docker's content providers that can fetch it."""
    follow: str | None = None
    """A run (see `Report.started`) that somebody was watching. While it is known, running or
    finished, this is the one to report; if not, it is as if nobody had asked for it."""
    image_exists: bool = False
    """The image was found. No run may be started; there may be one to follow."""


@dataclass(frozen=True, slots=True)
class BuildRun:
    """A run that is under way, wherever it was started from. What is not known is empty."""

    name: str
    """The build's, see `BuildRequest`."""
    run_id: str
    """See `Report.started`."""
    image: str = ""
    repo_url: str = ""
    """Without credentials."""
    ref: str = ""
    seconds: float | None = None
    """Since it was started."""


class Report(Protocol):
    """Where a builder tells how a build goes. It may be told a thing twice: it keeps the first."""

    def waiting(self, message: str) -> None:
        """Tell why the build has not begun yet. Ignored after `started`."""

    def started(self, run_id: str) -> None:
        """Tell which run of the build is reported: ``[A-Za-z0-9_-]``, at most 64 characters.

        Another server that reports the same run must say the same; another run, another id.
        """

    def line(
        self,
        n: int,
        message: str,
        *,
        phase: Phase | None = None,
        progress: Progress | None = None,
    ) -> None:
        r"""Tell line `n` of the log, after `started`.

        Args:
            n: From 1, rising; a function of the log, not of who reads it.
            message: A line; one that ends in a carriage return is overwritten by the next.
            phase: What the line says of itself; None keeps the phase of the line before.
            progress: Bytes by layer, while pushing.
        """


class Builder(Protocol):
    """Makes images."""

    Settings: ClassVar[type[msgspec.Struct]]

    async def __aenter__(self) -> Self:
        """Make ready; raise `BackendUnavailable` where that is impossible."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of everything. Builds under way go on where they can."""

    async def check(self) -> None:
        """Return if builds are possible now.

        Raises:
            BackendUnavailable: They are not; the message names the part and the cure.
        """

    def versions(self) -> Mapping[str, str]:
        """Return what builds are made with: names and versions, for `/versions`."""

    async def exists(self, image: str) -> bool:
        """Return whether `image` is there.

        Raises:
            BackendUnavailable: Nobody knows. Never answer False instead: that starts a build.
        """

    async def build(self, request: BuildRequest, report: Report) -> None:
        """Start or find the build of this name, report it from its first line, wait for its end.

        Returns when the image exists. In this order: the run to follow is reported, running or
        finished; a run under way is; if the image exists, nothing is; else a run is started.
        Cancelled, it lets go and leaves the run under way where it can.

        Raises:
            BuildFailed: The run ended and there is no image; the message is for the person.
            BackendUnavailable: A connection or an engine broke: the build may well go on. The
                engine of ours calls again, with growing delay.
        """

    async def stop(self, request: BuildRequest, reason: str) -> None:
        """End the run under way of this name, with all it started. None under way is fine.

        Args:
            request: What is being built.
            reason: What the run's end tells a person, to whoever reports it: all servers that
                read its log must tell the same.
        """

    async def under_way(self) -> Sequence[BuildRun] | None:
        """Return the runs under way, those that other servers started included.

        None where that cannot be told: then an operator sees only what each server follows.

        Raises:
            BackendUnavailable: A connection or an engine broke.
        """


# -- Launchers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What to launch."""

    name: str
    """Names the server: DNS-safe, at most 63 characters. The same name is the same server."""
    image: str
    token: str = field(repr=False)
    """The server accepts it, and nothing else."""
    repo_url: str = ""
    ref: str = ""
    idle_timeout: float | None = None
    """Seconds without activity after which the server ends, where whoever asked said so; None: the
    launcher's own. A launcher that cannot do it for one server alone does as it always does."""


class LaunchReport(Protocol):
    """Where a launcher tells how a launch goes."""

    def line(self, message: str) -> None:
        """Tell the person who waits what is going on."""


class Launcher(Protocol):
    """Starts servers from images."""

    Settings: ClassVar[type[msgspec.Struct]]

    async def __aenter__(self) -> Self:
        """Make ready; raise `BackendUnavailable` where that is impossible."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of everything."""

    async def check(self) -> None:
        """Return if launches are possible now.

        Raises:
            BackendUnavailable: They are not; the message names the part and the cure.
        """

    def versions(self) -> Mapping[str, str]:
        """Return what servers are started with: names and versions, for `/versions`."""

    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        """Start or find the server of this name and return its URL once it answers there.

        Cancelled, it lets go: the next call with the same name finds the same server, or starts
        it anew.

        Raises:
            LaunchFailed: It will never answer; nothing of it is left.
            BackendUnavailable: A connection or an engine broke. The engine of ours calls again,
                with growing delay.
        """

    async def stop(self, request: LaunchRequest) -> None:
        """End the server of this name. None there is fine."""

    async def running(self, request: LaunchRequest) -> bool:
        """Return whether the server of this name, once launched, is still there.

        Where that cannot be told it is.

        Raises:
            BackendUnavailable: A connection or an engine broke.
        """

    async def preload(self, image: str) -> None:
        """Return when `image`, which exists, is wherever servers may start.

        Raises:
            LaunchFailed: It cannot be brought there.
            BackendUnavailable: A connection or an engine broke.
        """


class Plugin:
    """A base with the defaults of builders and launchers."""

    Settings: ClassVar[type[msgspec.Struct]] = NoSettings

    async def __aenter__(self) -> Self:
        """Return itself: nothing to make ready."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: nothing to let go."""

    async def check(self) -> None:
        """Return: always ready."""

    def versions(self) -> Mapping[str, str]:
        """Return nothing."""
        return {}

    async def under_way(self) -> Sequence[BuildRun] | None:
        """Return None: nobody knows."""
        return None

    async def running(self, request: LaunchRequest) -> bool:  # noqa: ARG002 - the protocol's
        """Return True: nothing else is known."""
        return True

    async def preload(self, image: str) -> None:
        """Do nothing: an image that exists is wherever servers start."""


# -- Providers -----------------------------------------------------------------------------------


class Display(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What pages and tools show of a provider."""

    name: str
    """``GitHub``."""
    repo_label: str
    """What to type for the repository: ``GitHub repository name or URL``."""
    repo_placeholder: str
    """An example of it."""
    ref_enabled: bool = True
    """Whether a ref can be given."""
    ref_label: str = "Git ref (branch, tag, or commit)"
    ref_placeholder: str = "HEAD"
    spec_regex: str = ""
    """What a spec looks like, for a first check while typing. A regex of JavaScript, as are:"""
    url_regexes: tuple[str, ...] = ()
    """What pasted URLs look like, with the groups ``repo``, ``ref``, ``filepath``, ``urlpath``."""


@dataclass(frozen=True, slots=True)
class Pasted:
    """What a pasted URL turned out to mean."""

    spec: str
    """The spec, without the prefix."""
    path: str = ""
    """The file or folder inside the repository that the URL showed."""


class Provider(Protocol):
    """A kind of source. Pure: it asks, somebody else performs."""

    Settings: ClassVar[type[msgspec.Struct]]
    prefix: str
    """What specs of it start with: ``gh``."""
    display: Display

    def parse(self, text: str) -> Spec:
        """Take a spec apart.

        Args:
            text: Everything behind the prefix, as it stood in the URL: escapes are kept.

        Raises:
            SpecError: It says where in the text the trouble is, and what to try.
        """

    def format(self, spec: Spec) -> str:
        """Return the text of a spec: ``parse(format(spec)) == spec``."""

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Find out which state of the repository is meant.

        Raises:
            RefNotFound: The service knows no such repository or ref.
            ProviderUnavailable: It did not say.
        """

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to `ref`; asks nobody."""

    def recognise(self, url: str) -> Pasted | None:
        """Return what a URL from a browser's address bar means, None if it is not of this kind."""


class Asker(Protocol):
    """Performs questions."""

    async def ask(self, question: Question) -> Answer:
        """Return the answer, whatever its status.

        Raises:
            ProviderUnavailable: There was none, or the question is not allowed here.
        """


# -- Stores --------------------------------------------------------------------------------------


class Store(Protocol):
    """Keeps records. What a method has returned from is kept, whatever happens to this process.

    Any method raises `BackendUnavailable` where the database does not answer; then nothing of what
    was to be changed is, or all. Several servers use one database at once.
    """

    Settings: ClassVar[type[msgspec.Struct]]

    async def __aenter__(self) -> Self:
        """Open the database, and bring its tables up to date."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""

    async def check(self) -> None:
        """Return if the database answers."""

    # API keys

    async def add_key(self, key: KeyRecord) -> None:
        """Keep a key, under an id that no other has."""

    async def key(self, key_id: str) -> KeyRecord | None:
        """Return a key, revoked or not; None if there is none."""

    async def keys(self) -> list[KeyRecord]:
        """Return all keys, oldest first."""

    async def revoke_key(self, key_id: str, now: float) -> bool:
        """Make a key good for nothing; return whether there was one that was good."""

    # Builds

    async def add_build(self, build: BuildRecord, *, replacing: str | None = None) -> bool:
        """Keep a new, live build; return False where another one of its name is live.

        Args:
            build: The new one.
            replacing: The id of a live build that ends here, as failed, for the new one.
        """

    async def build(self, name: str) -> BuildRecord | None:
        """Return the newest build of a name, None if there is none."""

    async def builds(self) -> list[BuildRecord]:
        """Return the newest build of each name, newest first."""

    async def keep_build(self, build: BuildRecord) -> bool:
        """Note status, phase, run and lease of a live build.

        Returns False, and notes nothing, where it has ended or another server follows it.
        """

    async def end_build(self, build_id: str, ending: Ending) -> bool:
        """Keep a build's end, log and template, all or nothing.

        Returns False where it had ended before; then its log is kept, if there was none, and
        nothing else.
        """

    async def log(self, name: str, build_id: str | None = None) -> bytes | None:
        """Return the log of a build, compressed by zlib; None where there is none.

        Args:
            name: The build's name.
            build_id: Which build of that name; None: the newest that has a log.
        """

    async def claim_builds(self, owner: str, now: float, lease: float) -> list[BuildRecord]:
        """Make all live builds `owner`'s whose lease is over at `now`, and return them."""

    # Templates

    async def template(self, name: str) -> TemplateRecord | None:
        """Return a template, None if there is none."""

    async def templates(self) -> list[TemplateRecord]:
        """Return all templates, by name."""

    async def remove_template(self, name: str) -> bool:
        """Forget a template; return whether there was one."""

    # Deployments

    async def add_deployment(self, deployment: DeploymentRecord) -> None:
        """Keep a new deployment."""

    async def deployment(self, template: str, deployment_id: str) -> DeploymentRecord | None:
        """Return a deployment, None if there is none."""

    async def deployments(self, template: str | None = None) -> list[DeploymentRecord]:
        """Return those that have not ended, oldest first: of one template, or all."""

    async def change_deployment(self, deployment: DeploymentRecord) -> None:
        """Note status, URL, message, end and lease of one that has not ended."""

    async def claim_deployments(
        self, owner: str, now: float, lease: float
    ) -> list[DeploymentRecord]:
        """Make all pending deployments `owner`'s whose lease is over at `now`; return them."""

    # Retention

    async def sweep(self, *, before: float, keep_bytes: int) -> None:
        """Forget what has ended before that time, and the oldest logs beyond so many bytes."""
