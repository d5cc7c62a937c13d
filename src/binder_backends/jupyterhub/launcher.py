"""Launches servers through a JupyterHub.

The hub is the shared memory: a launch's user and server there are named after the launch, so every
call, by whichever of our servers, may begin at the beginning. What an earlier call has done the
hub says itself, and a connection that broke in the middle costs nothing but another call.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Final, NoReturn, Self
from urllib.parse import quote, urljoin, urlsplit

import anyio
import msgspec

from binder_backends.jupyterhub.hub import Hub, HubUnreachable, Reply, user_path
from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_backends.runner.text import Redactor, strip_userinfo
from binder_core.plugin import (
    BackendUnavailable,
    LaunchFailed,
    LaunchReport,
    LaunchRequest,
    Plugin,
)

log = logging.getLogger("binder.jupyterhub")

_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0
_STOP_WITHIN: Final = 60.0
_MOST_TOLD: Final = 1000

_AT_IT: Final = re.compile(r" is (?:pending \w+|already running)$")
"""The end of the hub's 400 for a server that it starts, stops or, after its own restart, checks."""

_NO_REASON: Final = (
    "The hub gave no reason, as it does when a server takes longer than the start_timeout of its"
    " spawner; its log may tell more."
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the hub has a server."""

    user: str
    """The path of its user."""
    server: str
    """The path of the server."""
    progress: str
    """The path of the event stream that tells how it starts."""
    name: str
    """Its name among the user's; empty: the default one."""
    temporary: bool
    """Whether the user is there for this server alone."""


class JupyterHubLauncher(Plugin):
    """Launches servers through a JupyterHub, whose spawner has to be made with `spawner`'s mixins.

    The spawner brings images to where servers start, when they start: `preload` does nothing.

    Args:
        settings: What the operator set.
    """

    Settings: ClassVar[type[msgspec.Struct]] = JupyterHubSettings

    def __init__(self, settings: JupyterHubSettings) -> None:
        self._settings = settings
        self._hub = Hub(settings)
        self._under_way: dict[str, set[anyio.CancelScope]] = {}
        # The hub tells its story from the beginning to whoever asks: what was told of a launch
        # before the connection broke is not told again.
        self._told: dict[str, set[str]] = {}

    async def __aenter__(self) -> Self:
        """Find out whether the hub will do.

        Raises:
            BackendUnavailable: It will not: a wrong token, a wrong address. One that does not
                answer now may do so later.
        """
        await self._hub.__aenter__()
        try:
            await self.check()
        except HubUnreachable as error:
            log.warning("%s", error)
        except BaseException:
            await self._hub.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections. Servers go on."""
        await self._hub.__aexit__(exc_type, exc, traceback)

    async def check(self) -> None:
        """Return if the hub is there and the token is good for launches; see `Hub.check`."""
        await self._hub.check()

    def versions(self) -> Mapping[str, str]:
        """Return the hub's version, as it was told last."""
        return {"jupyterhub": self._hub.version} if self._hub.version else {}

    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        """Start or find the server of this name; see `binder_core.plugin.Launcher.launch`."""
        place = self._place(request)
        scopes = self._under_way.setdefault(request.name, set())
        with anyio.CancelScope() as scope:
            scopes.add(scope)
            try:
                url = await self._launch(place, request, report)
            except LaunchFailed:
                self._told.pop(request.name, None)
                await self._clear_up(place)
                raise
            else:
                self._told.pop(request.name, None)
                return url
            finally:
                scopes.discard(scope)
                if not scopes:
                    self._under_way.pop(request.name, None)
        raise LaunchFailed("The launch was stopped.")

    async def stop(self, request: LaunchRequest) -> None:
        """End the server of this name, and remove its temporary user.

        Raises:
            BackendUnavailable: The hub does not answer, or does not manage to.
        """
        while scopes := self._under_way.get(request.name):
            for scope in scopes:
                scope.cancel()
            await anyio.sleep(_FIRST_DELAY)
        self._told.pop(request.name, None)
        await self._remove(self._place(request))

    async def running(self, request: LaunchRequest) -> bool:
        """Return whether the hub has the server, started or starting."""
        place = self._place(request)
        reply = await self._hub.call("GET", place.user)
        if reply.status == 404:
            return False
        if not reply.ok:
            raise self._hub.unavailable(reply)
        # Those that have been stopped are not listed.
        server = (reply.body.get("servers") or {}).get(place.name)
        return server is not None and server.get("pending") != "stop"

    # -- One launch --------------------------------------------------------------------------

    async def _launch(self, place: _Place, request: LaunchRequest, report: LaunchReport) -> str:
        seconds = self._settings.start_timeout
        try:
            with anyio.fail_after(seconds):
                if place.temporary:
                    await self._make_user(place, request.name)
                reply = await self._hub.call("POST", place.server, _options(request))
                return await self._until_ready(place, reply, request, report)
        except TimeoutError:
            raise LaunchFailed(
                f"JupyterHub did not get the server ready within {seconds:g} s."
            ) from None

    async def _make_user(self, place: _Place, name: str) -> None:
        reply = await self._hub.call("POST", place.user)
        # 409: an earlier call, or another server of ours, was here.
        if not reply.ok and reply.status != 409:
            await self._refused(reply, f"to make the temporary user {name}")

    async def _until_ready(
        self, place: _Place, posted: Reply, request: LaunchRequest, report: LaunchReport
    ) -> str:
        """Return the server's URL when the hub says that it is ready.

        Args:
            place: The server's.
            posted: What the hub answered when it was asked to start it. If not with yes, the
                server may be there all the same (400: "is already running", or "is pending
                spawn"), or its spawn may have come to a bad end meanwhile (500). What it tells
                of the spawn decides.
            request: What is launched.
            report: Hears of it.
        """
        redact = Redactor([request.token])
        told = self._told_to(request.name)

        def tell(message: str) -> None:
            if message not in told:
                told.add(message)
                report.line(redact(message))

        last = await self._hub.follow(place.progress, tell)
        if last is None or isinstance(last, Reply):
            if not posted.ok:
                await self._refused(posted, "to start a server")
            if isinstance(last, Reply) and last.status not in (400, 404):
                raise self._hub.unavailable(last)
            # It was started and is not any more, or nobody knows: asked again, the hub will say.
            raise HubUnreachable("JupyterHub broke off telling how the server starts.")
        if last.get("failed"):
            said = str(last.get("message") or "").removeprefix("Spawn failed:").strip()
            raise LaunchFailed(
                f"JupyterHub could not start the server: {redact(said) or _NO_REASON}"
            )
        return self._url(place, last)

    def _url(self, place: _Place, ready: Mapping[str, object]) -> str:
        # A path; a whole URL where each user has a host of their own.
        path = str(ready.get("url") or "") or place.server.replace("users/", "user/", 1)
        url = urljoin(self._settings.base, path)
        if urlsplit(url).scheme not in ("http", "https"):
            raise LaunchFailed("JupyterHub told no address for the server.")
        return url.rstrip("/") + "/"

    async def _refused(self, reply: Reply, what: str) -> NoReturn:
        """Raise what a "no" of the hub amounts to.

        Raises:
            LaunchFailed: It means this launch: its own reason is told.
            BackendUnavailable: It means us, or this moment.
        """
        # A 429 that says when to come again is about too many launches at once; one that does not
        # is a limit that is used up.
        if reply.status >= 500 or reply.retry_after:
            raise self._hub.unavailable(reply)
        if reply.status == 400 and _AT_IT.search(reply.message):
            raise HubUnreachable(f"JupyterHub is busy with the server: {reply.message}.")
        if reply.status in (401, 403, 404):
            # Is it the token? Has somebody removed the user meanwhile?
            await self._hub.check()
            if reply.status == 404:
                raise HubUnreachable("JupyterHub has forgotten the user of this launch.")
        raise LaunchFailed(f"JupyterHub refused {what}: {reply.message or reply.status}")

    def _told_to(self, name: str) -> set[str]:
        while len(self._told) >= _MOST_TOLD:
            del self._told[next(iter(self._told))]
        return self._told.setdefault(name, set())

    # -- Its end -----------------------------------------------------------------------------

    async def _clear_up(self, place: _Place) -> None:
        """Remove what is left of a launch that has failed."""
        with anyio.CancelScope(shield=True):
            try:
                await self._remove(place)
            except BackendUnavailable as error:
                log.warning("%s was not cleared up: %s", place.server, error)

    async def _remove(self, place: _Place) -> None:
        deadline = anyio.current_time() + _STOP_WITHIN
        delay = _FIRST_DELAY
        while (reply := await self._try_to_remove(place)) is not None:
            if anyio.current_time() > deadline:
                raise self._hub.unavailable(reply)
            await anyio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    async def _try_to_remove(self, place: _Place) -> Reply | None:
        """Return None when there is nothing left, else what the hub says.

        Raises:
            BackendUnavailable: It does not answer, or does not let us.
        """
        # The server first: a user whose server starts just now would be removed without it.
        reply = await self._hub.call(
            "DELETE", place.server, None if place.temporary else {"remove": True}
        )
        if place.temporary and reply.status == 204:
            reply = await self._hub.call("DELETE", place.user)
        if reply.status in (204, 404):
            return None
        if reply.status in (401, 403):
            raise self._hub.unavailable(reply)
        return reply  # 202: it is stopping; 400, 500: what it does cannot be interrupted now

    def _place(self, request: LaunchRequest) -> _Place:
        if user := self._settings.user:
            path, name = user_path(user), request.name
            server = f"{path}/servers/{quote(name, safe='')}"
            return _Place(path, server, f"{server}/progress", name, temporary=False)
        path = user_path(request.name)
        return _Place(path, f"{path}/server", f"{path}/server/progress", "", temporary=True)


def _options(request: LaunchRequest) -> dict[str, object]:
    """Return what the hub's spawner is told; see `spawner`."""
    options: dict[str, object] = {"image": request.image, "token": request.token}
    if request.repo_url:
        options["repo_url"] = strip_userinfo(request.repo_url)
    if request.ref:
        options["ref"] = request.ref
    if request.idle_timeout is not None:
        options["idle_timeout"] = request.idle_timeout
    return options
