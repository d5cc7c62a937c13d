"""The connection to a JupyterHub: a few calls of its REST API, its faults made ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import anyio
import httpx
import httpx_sse
import msgspec

from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_core.plugin import BackendUnavailable

OLDEST: Final = (2, 0)
"""The first JupyterHub with scopes."""

_CONNECT: Final = 10.0
# Shorter than the 5 s after which the hub's proxy closes a connection that is not used: one that
# is taken is open.
_KEEPALIVE: Final = 2.0
_ROLE: Final = "a service of the hub whose role has the scopes admin:users and admin:servers"
_NEEDED: Final = (("start:servers", "servers"), ("delete:servers",), ("read:servers",))
_NEEDED_FOR_USERS: Final = (("admin:users",), ("delete:users",))
_MAX_MESSAGE: Final = 1000


def user_path(user: str) -> str:
    """Return where the API has a user."""
    return f"users/{quote(user, safe='')}"


class HubUnreachable(BackendUnavailable):
    """The hub does not answer, or says that it cannot now: later it may."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the hub answered."""

    status: int
    message: str
    """Its own words, where it has any."""
    body: Mapping[str, Any]
    """The JSON object it sent; empty: none."""
    retry_after: bool = False
    """Whether it says when to come again."""

    @property
    def ok(self) -> bool:
        """Return whether it did what was asked."""
        return 200 <= self.status < 300


class Hub:
    """A JupyterHub.

    Args:
        settings: What the operator set.
    """

    def __init__(self, settings: JupyterHubSettings) -> None:
        self.version = ""
        """As it was told last."""
        self._settings = settings
        self._client: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        """Open the connection pool; asks nothing of the hub yet.

        Raises:
            BackendUnavailable: The token's file cannot be read, or there is no token.
        """
        self._client = httpx.AsyncClient(
            base_url=self._settings.api,
            headers={"authorization": f"token {self._token()}", "accept": "application/json"},
            timeout=httpx.Timeout(self._settings.request_timeout, connect=_CONNECT, pool=None),
            # Each launch holds a connection while its server starts: no upper bound.
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=20, keepalive_expiry=_KEEPALIVE
            ),
            # The token is for the hub, and for no proxy that the environment happens to name.
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
            await self._client.aclose()

    async def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Reply:
        """Return what the hub answers, whatever it is.

        Args:
            method: GET, POST, DELETE.
            path: Below the API's address, quoted.
            body: Sent as JSON.

        Raises:
            HubUnreachable: It does not answer.
            BackendUnavailable: What answers sends us elsewhere.
        """
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        self._at_home(response)
        return _reply(response)

    async def follow(
        self, path: str, tell: Callable[[str], None]
    ) -> Mapping[str, Any] | Reply | None:
        """Read an event stream to its end.

        Args:
            path: Below the API's address, quoted.
            tell: Is told the message of each event but the last.

        Returns:
            The last event, which says that it is; None if the stream ended without one; what the
            hub answered if that was no stream.

        Raises:
            HubUnreachable: It does not answer, or the connection broke.
            BackendUnavailable: What answers sends us elsewhere.
        """
        last: Mapping[str, Any] | None = None
        try:
            async with httpx_sse.aconnect_sse(self._client, "GET", path) as source:
                self._at_home(source.response)
                if source.response.status_code != 200:
                    await source.response.aread()
                    return _reply(source.response)
                # Read to its end, which follows at once: httpx's own generators, left in the
                # middle, are not closed.
                async for event in source.aiter_sse():
                    said = _object(event.data.encode())
                    if said.get("ready") or said.get("failed"):
                        last = said
                    elif last is None and (message := _words(said.get("message"))):
                        tell(message)
        except httpx.HTTPError as error:  # one of httpx_sse's is, too
            if last is None:
                raise self._unreachable(error) from error
        return last

    async def check(self) -> None:
        """Return if the hub is there, is new enough, and its token is good for launches.

        Raises:
            HubUnreachable: It does not answer.
            BackendUnavailable: Something else; the message names the part and the cure.
        """
        api = self._settings.api
        hello = await self.call("GET", "")
        if hello.status >= 500:
            raise self.unavailable(hello)
        self.version = str(hello.body.get("version") or "")
        if not hello.ok or not self.version:
            raise BackendUnavailable(
                f"What answers at {api} is no JupyterHub (HTTP {hello.status}). Set api_url to the"
                " hub's API: its address, its base URL and hub/api."
            )
        if _numbers(self.version) < OLDEST:
            raise BackendUnavailable(
                f"The JupyterHub at {api} is {self.version}, which is too old:"
                f" {'.'.join(map(str, OLDEST))} or newer is needed."
            )
        who = await self.call("GET", "user")
        if who.status in (401, 403):
            raise BackendUnavailable(
                f"The JupyterHub at {api} does not know the token of the launcher. Set token, or"
                f" token_file, to the api_token of {_ROLE}."
            )
        if not who.ok:
            raise self.unavailable(who)
        self._expect_scopes(who)
        if user := self._settings.user:
            known = await self.call("GET", user_path(user))
            if known.status == 404:
                raise BackendUnavailable(
                    f"The JupyterHub at {api} has no user {user!r}: log in there once, or set user"
                    " to one that it has; empty, each launch gets a temporary one."
                )
            if not known.ok:
                raise self.unavailable(known)

    def unavailable(self, reply: Reply) -> BackendUnavailable:
        """Return the error that an answer amounts to which is nobody's fault here."""
        said = f": {reply.message}" if reply.message else ""
        kind = HubUnreachable if reply.status >= 500 or reply.status == 429 else BackendUnavailable
        return kind(f"The JupyterHub at {self._settings.api} answered {reply.status}{said}")

    def _token(self) -> str:
        settings = self._settings
        token = settings.token
        if settings.token_file:
            try:
                token = Path(settings.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "is no text"
                raise BackendUnavailable(
                    f"The file of the hub's token (token_file) cannot be read: {why}."
                ) from error
        if not token:
            raise BackendUnavailable(
                f"JupyterHub needs a token: set token, or token_file, to the api_token of {_ROLE}."
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise BackendUnavailable(
                "The token for JupyterHub (token, token_file) has characters that no token has."
            )
        return token

    def _expect_scopes(self, who: Reply) -> None:
        # "servers!user=ada" is a scope of hers alone.
        given = {str(scope).partition("!")[0] for scope in who.body.get("scopes") or ()}
        needed = _NEEDED if self._settings.user else (*_NEEDED_FOR_USERS, *_NEEDED)
        missing = [one[0] for one in needed if not given.intersection(one)]
        if missing:
            raise BackendUnavailable(
                f"The token of the launcher may not do all it needs to at the JupyterHub at"
                f" {self._settings.api}: {', '.join(missing)} missing. Give it to {_ROLE}."
            )

    def _at_home(self, response: httpx.Response) -> None:
        if response.is_redirect:
            where = response.headers["location"][:200]
            raise BackendUnavailable(
                f"What answers at {self._settings.api} sends us to {where}. Set api_url to where"
                " the hub's API itself is."
            )

    def _unreachable(self, error: httpx.HTTPError) -> HubUnreachable:
        match error:
            case httpx.ConnectError() if "certificate" in str(error).lower():
                why = "shows a certificate that is not trusted here."
            case httpx.ConnectTimeout() | httpx.ConnectError():
                why = "cannot be reached. Is it running, and is api_url its address?"
            case httpx.TimeoutException():
                why = "does not answer. Is it overloaded?"
            case _:
                why = "broke the connection."
        return HubUnreachable(f"The JupyterHub at {self._settings.api} {why}")


def _reply(response: httpx.Response) -> Reply:
    body = _object(response.content)
    message = _words(body.get("message")) or response.reason_phrase
    return Reply(response.status_code, message, body, "retry-after" in response.headers)


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _words(said: object) -> str:
    return " ".join(said.split())[:_MAX_MESSAGE] if isinstance(said, str) else ""


def _numbers(version: str) -> tuple[int, ...]:
    head = version.split(".")[:2]
    return tuple(int("".join(char for char in part if char.isdigit()) or "0") for part in head)
