"""Performs dialogues with registries, over httpx."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterator
from types import TracebackType
from typing import ClassVar, Final, Self

import anyio
import httpx
import msgspec

from binder_backends.registry.credentials import Logins, docker_config
from binder_backends.registry.settings import RegistrySettings
from binder_core.plugin import (
    BackendUnavailable,
    HttpGet,
    HttpPost,
    HttpReply,
    ImageName,
    ProviderUnavailable,
    RegistryUnavailable,
    image_exists,
    is_loopback,
    parse_image,
    perform,
)

log = logging.getLogger("binder.registry")

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 5
_ELSEWHERE: Final = frozenset({"accept", "cache-control"})
"""The headers that another host than the one asked may see."""
_BODY_BYTES: Final = 2**20
"""How much of an answer is kept: tokens and faults are small."""
_CONNECTIONS: Final = 32
_FIRST_DELAY: Final = 0.5
"""Seconds before the second try; before each further one, twice as many."""


class Registry:
    """All registries, as a builder sees them. Entered before its first use.

    Args:
        settings: The operator's.
        sleep: Waits, in seconds.
    """

    Settings: ClassVar[type[msgspec.Struct]] = RegistrySettings

    def __init__(
        self,
        settings: RegistrySettings | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._settings = settings or RegistrySettings()
        self._logins = Logins(self._settings)
        self._sleep = sleep
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """Make ready.

        Raises:
            BackendUnavailable: The certificates to trust cannot be read.
        """
        client = httpx.AsyncClient(
            verify=self._certificates(),
            trust_env=self._settings.use_proxies,
            follow_redirects=False,
            # The whole question has a time limit; a place in the pool is waited for.
            timeout=httpx.Timeout(self._settings.step_timeout, pool=None),
            limits=httpx.Limits(max_connections=_CONNECTIONS),
            # Not compressed: what is read is bounded.
            headers={"user-agent": self._settings.user_agent, "accept-encoding": "identity"},
        )
        self._client = await client.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.__aexit__(exc_type, exc, traceback)

    async def exists(self, image: str) -> bool:
        """Return whether an image is in its registry.

        Raises:
            RegistryUnavailable: Nobody knows; says which registry, why, and what to try.
        """
        name = _parsed(image)
        try:
            with anyio.fail_after(self._settings.timeout):
                login = await self._logins.of(name.registry)
                flow = image_exists(image, login, plain_http=self._plain_http(name.registry))
                return await perform(flow, self._ask)
        except TimeoutError as error:
            raise RegistryUnavailable(
                f"The registry {name.registry} did not say within {self._settings.timeout:g}"
                f" seconds whether the image {name.repository} is there."
                " Try again in a few minutes."
            ) from error
        except RegistryUnavailable:
            # It may be the login; whoever asks again shall have a new one.
            self._logins.forget(name.registry)
            raise

    async def push_config(self, image: str) -> bytes:
        """Return a Docker ``config.json`` with the login for an image's registry and no other.

        It is a secret. Empty where there is no login.

        Raises:
            RegistryUnavailable: There is a login, and no way to get at it.
        """
        name = _parsed(image)
        return docker_config(name.registry, await self._logins.of(name.registry))

    def _plain_http(self, registry: str) -> Collection[str]:
        hosts = set(self._settings.plain_http)
        if self._settings.loopback_plain_http and is_loopback(registry):
            hosts.add(registry)
        return hosts

    def _certificates(self) -> ssl.SSLContext:
        if not self._settings.ca_bundle:
            return httpx.create_ssl_context()
        try:
            return ssl.create_default_context(cafile=self._settings.ca_bundle)
        except OSError as error:
            raise BackendUnavailable(
                "The certificates to trust registries by (ca_bundle) cannot be read:"
                f" {error.strerror or 'there are none in it'}."
            ) from error

    # -- Questions ---------------------------------------------------------------------------------

    async def _ask(self, question: HttpGet | HttpPost) -> HttpReply:
        """Return the answer, whatever its status, at the end of all redirects.

        Raises:
            ProviderUnavailable: There was none.
        """
        delay = _FIRST_DELAY
        for _ in range(self._settings.tries - 1):
            try:
                reply = await self._once(question)
            except _Broken as error:
                log.info("%s Next try in %g s.", error, delay)
            else:
                if reply.status < 500:
                    return reply
                log.info("%s answered %d. Next try in %g s.", question.url, reply.status, delay)
            await self._sleep(delay)
            delay *= 2
        return await self._once(question)

    async def _once(self, question: HttpGet | HttpPost) -> HttpReply:
        url = first = _url(question.url)
        for _ in range(_MOST_REDIRECTS + 1):
            reply, location = await self._hop(question, first, url)
            if location is None:
                return reply
            url = _target(url, location)
        raise ProviderUnavailable(f"it redirects more than {_MOST_REDIRECTS} times.")

    async def _hop(
        self, question: HttpGet | HttpPost, first: httpx.URL, url: httpx.URL
    ) -> tuple[HttpReply, str | None]:
        """Return an answer, and where it redirects to."""
        if self._client is None:
            raise RuntimeError("the registry has not been entered")
        home = _origin(url) == _origin(first)
        headers = [
            (name, value) for name, value in question.headers if home or name.lower() in _ELSEWHERE
        ]
        match question:
            case HttpPost():
                request = self._client.build_request(
                    "POST", url, headers=headers, data=dict(question.form)
                )
            case HttpGet():
                method = "HEAD" if question.head else "GET"
                request = self._client.build_request(method, url, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
            try:
                location = response.headers.get("location")
                # A form holds a secret: it is not sent on.
                if (
                    response.status_code in _REDIRECTS
                    and location
                    and isinstance(question, HttpGet)
                ):
                    return HttpReply(response.status_code, str(url)), location
                told = {name.lower(): value for name, value in response.headers.items()}
                return HttpReply(response.status_code, str(url), told, await _body(response)), None
            finally:
                await response.aclose()
        except httpx.TimeoutException as error:
            raise _Broken(
                f"{url.host} said nothing for {self._settings.step_timeout:g} seconds."
                " Try again in a few minutes."
            ) from error
        except httpx.ConnectError as error:
            raise _Broken(_why(url, error)) from error
        except (httpx.HTTPError, OSError) as error:
            raise _Broken(
                f"the connection to {url.host} broke. Try again in a few minutes."
            ) from error


class _Broken(ProviderUnavailable):
    """A connection that broke, or was never made: another try may go better."""


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        # To its end: a manifest is short, and what is not meets the time limit.
        body += chunk[: _BODY_BYTES - len(body)]
    return bytes(body)


def _why(url: httpx.URL, error: httpx.ConnectError) -> str:
    """Return why there is no connection, as far as can be told, and what to try."""
    said = ""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not to be trusted ({cause.verify_message}). Set ca_bundle to"
                " the certificate of who signed it."
            )
        if isinstance(cause, ssl.SSLError):
            return (
                "it does not speak TLS. If it is meant to be talked to unencrypted, add it to"
                " plain_http."
            )
        if isinstance(cause, socket.gaierror):
            said = cause.strerror or ""
        elif isinstance(cause, OSError) and cause.errno:
            # Not its own text: that of asyncio holds addresses.
            said = said or os.strerror(cause.errno)
    reason = f" ({said})" if said else ""
    return (
        f"the connection to {url.netloc.decode()} could not be made{reason}. Is it running, and"
        " is this its address?"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it; trio has a group where several addresses were tried."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _causes(each)
        error = error.__cause__ or error.__context__


def _parsed(image: str) -> ImageName:
    try:
        return parse_image(image)
    except ValueError as error:
        raise RegistryUnavailable(
            f"{error}: expected REGISTRY/NAME:TAG in lower case. Check the image prefix."
        ) from error


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise ProviderUnavailable("it leads to a malformed URL.") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ProviderUnavailable("it leads to a malformed URL.")
    return url


def _target(url: httpx.URL, location: str) -> httpx.URL:
    """Return where a redirect leads.

    Raises:
        ProviderUnavailable: It is not followed.
    """
    try:
        target = _url(str(url.join(location)))
    except (httpx.InvalidURL, ValueError) as error:
        raise ProviderUnavailable("it redirects to a malformed URL.") from error
    if url.scheme == "https" and target.scheme != "https":
        raise ProviderUnavailable(f"it redirects to {target.host} unencrypted, which is refused.")
    return target.copy_with(username=None, password=None) if target.userinfo else target


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port
