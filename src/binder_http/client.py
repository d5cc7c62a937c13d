"""Clients of a Binder server: typed events, and reconnects that nobody notices.

::

    async with Client("https://binder.example") as client:
        async for event in client.launch("gh/binder-examples/requirements/HEAD"):
            print(event.phase, event.message, end="")

    for event in launch_sync("https://binder.example", "gh/binder-examples/requirements/HEAD"):
        print(event.phase, event.message, end="")

Both know servers of ours and today's BinderHub. The rules of reconnects are in
`binder_http.following`.
"""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from types import TracebackType
from typing import Final, Self, TypeAlias

import anyio
import httpx
from httpx_sse import EventSource

from binder_core.events import Built, Event, Ready
from binder_http.following import (
    Answer,
    Follower,
    Patience,
    ServerUnavailable,
    UnexpectedAnswer,
    worth_a_retry,
)
from binder_http.remote import Outcome, Remote

__all__ = [
    "BlockingClient",
    "Client",
    "OnTrouble",
    "Patience",
    "ServerUnavailable",
    "UnexpectedAnswer",
    "launch_sync",
]

OnTrouble: TypeAlias = Callable[[str, float], None]
"""Called when a connection is lost: what happened, and the seconds until the next try."""

DEFAULT_PATIENCE: Final = Patience()

_CONNECT_TIMEOUT: Final = 20.0
_BODY_SHOWN: Final = 4096
_BROKE_OFF: Final = "the stream broke off"


class _Base:
    """What both clients know, and decide without talking to anybody."""

    def __init__(
        self, server_url: str, token: str | None, patience: Patience, on_trouble: OnTrouble | None
    ) -> None:
        self._remote = Remote(server_url, token)
        self._patience = patience
        self._on_trouble = on_trouble
        # The read timeout is the watchdog: it starts anew at each byte, heartbeats included.
        self._timeout = httpx.Timeout(
            min(_CONNECT_TIMEOUT, patience.silence), read=patience.silence
        )

    def _follower(self) -> Follower:
        return Follower(self._remote.shown, self._patience)

    def _headers(self, follower: Follower) -> dict[str, str]:
        return follower.headers() | self._remote.headers

    def _head(self, follower: Follower, response: httpx.Response) -> Answer:
        response.encoding = "utf-8"  # an event stream is never in another one
        kind = response.headers.get("content-type", "")
        return follower.answered(response.status_code, kind, time.monotonic())

    def _refused(self, response: httpx.Response, body: bytes, *, streamed: bool) -> str:
        """Return the reason for another try, where one is worth it."""
        reason = self._remote.answer(response, body)
        # Where there was a stream, 404 is a proxy whose server is just being started, or a server
        # that does not know the builds again yet that waited in its queue.
        if worth_a_retry(response.status_code) or (streamed and response.status_code == 404):
            return f"answered {response.status_code}"
        raise UnexpectedAnswer(reason, status=response.status_code)

    def _again(self, follower: Follower, trouble: str | httpx.HTTPError) -> float:
        """Return the seconds until the next try."""
        now = time.monotonic()
        if isinstance(trouble, httpx.TooManyRedirects | httpx.UnsupportedProtocol):
            raise UnexpectedAnswer(f"{self._remote.shown} redirects to nowhere: {trouble}")
        if isinstance(trouble, str):
            reason, delay = trouble, follower.broke(trouble, now)
        else:
            reason = self._remote.no_connection(trouble)
            made = not isinstance(trouble, httpx.ConnectError | httpx.ConnectTimeout)
            delay = follower.broke(reason, now) if made else follower.refused(reason, now)
        if self._on_trouble is not None:
            self._on_trouble(reason, delay)
        return delay


class Client(_Base):
    """Asks a Binder server for repositories.

    Args:
        server_url: Where the server is: ``https://binder.example/base``. One with ``?token=…``, as
            ``binder serve`` prints it, is fine: the token travels in a header.
        token: What the server wants to see, where it asks for one.
        patience: How long to wait for what.
        on_trouble: Called at each lost connection.
        http: An `httpx.AsyncClient` to use, e.g. one with certificates of yours; it is not closed.

    Raises:
        ConfigError: The URL or the token is none.
    """

    def __init__(
        self,
        server_url: str,
        *,
        token: str | None = None,
        patience: Patience = DEFAULT_PATIENCE,
        on_trouble: OnTrouble | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(server_url, token, patience, on_trouble)
        self._owned = http is None
        self._http = http or httpx.AsyncClient(
            follow_redirects=True, trust_env=not self._remote.loopback, verify=_certificates()
        )

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        if self._owned:
            await self._http.aclose()

    async def launch(self, spec: str, *, build_only: bool = False) -> AsyncGenerator[Event, None]:
        """Yield the events of a request, each once, whatever happens to the connections.

        A bad end of the build or launch is the event `Failed`, not an exception. Where the server
        says that the stream had ended before (204), no more events come.

        Args:
            spec: ``<provider>/<spec>``, e.g. ``gh/user/repo/HEAD``.
            build_only: Build, do not launch.

        Raises:
            ServerUnavailable: There is no server, or nothing new came from it for too long.
            UnexpectedAnswer: The server answered with something else than an event stream.
        """
        url = self._remote.build_url(spec, build_only=build_only)
        async with aclosing(self._follow(url)) as events:
            async for event in events:
                yield event

    async def build_log(self, name: str, *, image: str = "") -> AsyncGenerator[Event, None]:
        """Yield the log of a build to its end, each line once, whatever happens to the connections.

        The last event is `Built` or `Failed`. The server has to let an operator in.

        Args:
            name: The build's.
            image: What it makes: with it the rest of the log is found also if the build ends, and
                the server is another one, while there is no connection.

        Raises:
            ServerUnavailable: As `launch`.
            UnexpectedAnswer: There is no such build, or the server does not let us.
        """
        url = self._remote.log_url(name, image=image, follow=True)
        async with aclosing(self._follow(url)) as events:
            async for event in events:
                yield event
                if isinstance(event, Built):
                    return

    async def _follow(self, url: str) -> AsyncGenerator[Event, None]:
        follower = self._follower()
        streamed = False
        while True:
            trouble: str | httpx.HTTPError = _BROKE_OFF
            try:
                async with self._http.stream(
                    "GET", url, headers=self._headers(follower), timeout=self._timeout
                ) as response:
                    match self._head(follower, response):
                        case Answer.STREAM:
                            streamed = True
                            async with aclosing(EventSource(response).aiter_sse()) as frames:
                                async for sse in frames:
                                    for event in follower.heard(sse):
                                        yield event
                                    if follower.ended():
                                        return
                        case Answer.END:
                            return
                        case Answer.ERROR:
                            body = await _beginning(response)
                            trouble = self._refused(response, body, streamed=streamed)
            except httpx.HTTPError as error:
                trouble = error
            await anyio.sleep(self._again(follower, trouble))

    async def ready(self, spec: str, *, build_only: bool = False) -> Ready:
        """Return the last event of a good end.

        Args:
            spec: ``<provider>/<spec>``.
            build_only: Build, do not launch.

        Raises:
            BuildFailed: The build came to a bad end.
            LaunchFailed: There is an image, but no server.
            BinderError: The request was refused, with the server's reason and status; or as
                `launch`.
        """
        outcome = Outcome()
        async with aclosing(self.launch(spec, build_only=build_only)) as events:
            async for event in events:
                outcome.take(event)
        return outcome.result()


class BlockingClient(_Base):
    """`Client` for code without an event loop: same arguments, same events, same errors."""

    def __init__(
        self,
        server_url: str,
        *,
        token: str | None = None,
        patience: Patience = DEFAULT_PATIENCE,
        on_trouble: OnTrouble | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        super().__init__(server_url, token, patience, on_trouble)
        self._owned = http is None
        self._http = http or httpx.Client(
            follow_redirects=True, trust_env=not self._remote.loopback, verify=_certificates()
        )

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        if self._owned:
            self._http.close()

    def launch(self, spec: str, *, build_only: bool = False) -> Generator[Event, None, None]:
        """Yield the events of a request; see `Client.launch`."""
        yield from self._follow(self._remote.build_url(spec, build_only=build_only))

    def build_log(self, name: str, *, image: str = "") -> Generator[Event, None, None]:
        """Yield the log of a build to its end; see `Client.build_log`."""
        url = self._remote.log_url(name, image=image, follow=True)
        with closing(self._follow(url)) as events:
            for event in events:
                yield event
                if isinstance(event, Built):
                    return

    def _follow(self, url: str) -> Generator[Event, None, None]:
        follower = self._follower()
        streamed = False
        while True:
            trouble: str | httpx.HTTPError = _BROKE_OFF
            try:
                with self._http.stream(
                    "GET", url, headers=self._headers(follower), timeout=self._timeout
                ) as response:
                    match self._head(follower, response):
                        case Answer.STREAM:
                            streamed = True
                            for sse in EventSource(response).iter_sse():
                                yield from follower.heard(sse)
                                if follower.ended():
                                    return
                        case Answer.END:
                            return
                        case Answer.ERROR:
                            body = next(response.iter_bytes(_BODY_SHOWN), b"")
                            trouble = self._refused(response, body, streamed=streamed)
            except httpx.HTTPError as error:
                trouble = error
            time.sleep(self._again(follower, trouble))

    def ready(self, spec: str, *, build_only: bool = False) -> Ready:
        """Return the last event of a good end; see `Client.ready`."""
        outcome = Outcome()
        with closing(self.launch(spec, build_only=build_only)) as events:
            for event in events:
                outcome.take(event)
        return outcome.result()


def launch_sync(
    server_url: str,
    spec: str,
    *,
    token: str | None = None,
    build_only: bool = False,
    patience: Patience = DEFAULT_PATIENCE,
) -> Generator[Event, None, None]:
    """Yield the events of one request, without an event loop; see `Client`."""
    with BlockingClient(server_url, token=token, patience=patience) as client:
        yield from client.launch(spec, build_only=build_only)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return whom to trust. Reading the certificates takes 50 ms: once a process will do."""
    return httpx.create_ssl_context()


async def _beginning(response: httpx.Response) -> bytes:
    """Return the beginning of the body: enough to show."""
    async for piece in response.aiter_bytes(_BODY_SHOWN):
        return piece
    return b""
