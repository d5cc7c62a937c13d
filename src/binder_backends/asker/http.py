"""HTTP, carefully: hops, bytes and seconds are bounded, and every hop is checked anew."""

from __future__ import annotations

import functools
import ssl
import zlib
from collections.abc import AsyncIterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import httpcore
import httpx

from binder_backends.asker.guard import Guard, GuardedBackend, NotAllowed
from binder_backends.asker.limits import Limits
from binder_backends.asker.settings import AskerSettings, Credential
from binder_core.plugin import HttpGet, HttpReply, ProviderUnavailable

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_ELSEWHERE: Final = frozenset({"accept", "accept-language"})
"""The headers of a question that another host may see as well."""
_CONNECTIONS: Final = 64
_IDLE: Final = 15.0


class Broken(ProviderUnavailable):
    """A connection that broke: another try may go better."""


class Fetcher:
    """Gets URLs.

    Args:
        settings: The operator's.
        guard: Says whom we may talk to.
        limits: Is told every answer.
    """

    def __init__(self, settings: AskerSettings, guard: Guard, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._credentials = {host.lower(): it for host, it in settings.credentials.items()}
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_certificates(),
            max_connections=_CONNECTIONS,
            keepalive_expiry=_IDLE,
            network_backend=GuardedBackend(guard),
        )
        step = settings.step_timeout
        self._timeouts = {"connect": step, "read": step, "write": step, "pool": settings.timeout}

    async def __aenter__(self) -> Self:
        """Return itself."""
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        await self._pool.__aexit__(exc_type, exc, traceback)

    async def get(self, question: HttpGet, known: HttpReply | None, now: float) -> HttpReply:
        """Return what is at the end of all redirects.

        Args:
            question: What to get.
            known: An earlier answer with an ETag; it is returned if it still holds.
            now: Seconds since the epoch, for rate limits.

        Raises:
            NotAllowed: A hop leads where it may not, there are too many, or too much is said.
            Broken: The connection broke.
            ProviderUnavailable: The host asks to be left alone, or cannot be found.
        """
        url = first = _url(question.url)
        for _ in range(self._settings.max_redirects + 1):
            self._limits.check(url.host, now)
            headers = self._headers(question, first, url)
            if known is not None and known.url == str(url):
                headers["if-none-match"] = known.headers["etag"]
            reply = await self._hop(url, headers, head=question.head)
            self._limits.learn(url.host, reply, now)
            if reply.status == 304 and known is not None and known.url == str(url):
                return known
            target = reply.headers.get("location")
            if reply.status not in REDIRECTS or target is None:
                return reply
            url = _next(question, first, url, target)
        raise NotAllowed(
            f"{first.host} redirects more than {self._settings.max_redirects} times: given up."
        )

    def _headers(self, question: HttpGet, first: httpx.URL, url: httpx.URL) -> dict[str, str]:
        home = _origin(url) == _origin(first)
        headers = {
            "host": url.netloc.decode("ascii"),
            "user-agent": self._settings.user_agent,
            "accept": "*/*",
            "accept-encoding": "gzip",
        }
        headers |= {
            name.lower(): value
            for name, value in question.headers
            if home or name.lower() in _ELSEWHERE
        }
        if credential := self._credential(url):
            headers.setdefault(credential.header.lower(), credential.value)
        return headers

    def _credential(self, url: httpx.URL) -> Credential | None:
        named = self._credentials.get(url.host.lower())
        if url.port is not None:
            named = self._credentials.get(f"{url.host.lower()}:{url.port}")
        if named is None or (url.scheme != "https" and not named.plain_http):
            return None
        return named

    async def _hop(self, url: httpx.URL, headers: Mapping[str, str], *, head: bool) -> HttpReply:
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        try:
            async with self._pool.stream(
                "HEAD" if head else "GET",
                target,
                headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                extensions={"timeout": self._timeouts},
            ) as response:
                told = _told(response.headers)
                # The body of a redirect is of no interest.
                if head or response.status in REDIRECTS:
                    return HttpReply(response.status, str(url), told)
                chunks = response.aiter_stream()
                try:
                    body = await self._body(url, told, chunks)
                except (NotAllowed, Broken):
                    # The iterators inside must not be left half way for the garbage collector
                    # (trio warns): once the connection is closed, they come to their end.
                    await response.aclose()
                    with suppress(httpcore.NetworkError, httpcore.ProtocolError):
                        async for _ in chunks:
                            pass
                    raise
                return HttpReply(response.status, str(url), told, body)
        except httpcore.TimeoutException as error:
            raise Broken(
                f"{url.host} said nothing for {self._settings.step_timeout:g} seconds. "
                "Try again in a few minutes."
            ) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise Broken(
                f"The connection to {url.host} could not be made or broke. "
                "Try again in a few minutes."
            ) from error

    async def _body(
        self, url: httpx.URL, headers: Mapping[str, str], chunks: AsyncIterable[bytes]
    ) -> bytes:
        """Return a body, decompressed, neither of which may be longer than allowed."""
        most = self._settings.max_body_bytes
        coding = headers.get("content-encoding", "").strip().lower()
        if coding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise NotAllowed(f"{url.host} answered in an encoding that was not asked for.")
        # 32 more than the largest window: gzip or zlib, whichever it is.
        unzip = zlib.decompressobj(zlib.MAX_WBITS | 32) if coding not in {"", "identity"} else None
        body, raw = bytearray(), 0
        async for chunk in chunks:
            raw += len(chunk)
            try:
                # One byte more than there is room for tells that there is too much, without
                # making room for all of it.
                piece = unzip.decompress(chunk, most - len(body) + 1) if unzip else chunk
            except zlib.error as error:
                raise Broken(f"{url.host} answered something garbled.") from error
            body += piece
            if raw > most or len(body) > most:
                raise NotAllowed(
                    f"{url.host} answered more than {most} bytes: the rest was not read."
                )
        if unzip is not None and raw and not unzip.eof:
            raise Broken(f"The answer of {url.host} broke off.")
        return bytes(body)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return whom to trust; ``SSL_CERT_FILE`` names others. Reading them takes a while."""
    return httpx.create_ssl_context()


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise NotAllowed("The URL to ask is malformed.") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise NotAllowed(f"Only http and https URLs are asked, not {url.scheme or 'this'} ones.")
    return url


def _next(question: HttpGet, first: httpx.URL, url: httpx.URL, location: str) -> httpx.URL:
    """Return where a redirect leads.

    Raises:
        NotAllowed: It may not lead there.
    """
    try:
        target = _url(str(url.join(location)))
    except (httpx.InvalidURL, ValueError) as error:
        raise NotAllowed(f"{url.host} redirects to a malformed URL.") from error
    host = target.host.lower()
    if host != first.host.lower() and not _matches(host, question.redirect_hosts):
        raise NotAllowed(f"{url.host} redirects to {host}, where it may not lead.")
    return target


def _matches(host: str, patterns: tuple[str, ...]) -> bool:
    return any(
        pattern == "*"
        or host == pattern.lower()
        or (pattern.startswith("*.") and host.endswith(pattern[1:].lower()))
        for pattern in patterns
    )


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port


def _told(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    told: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        told[name] = f"{told[name]}, {value}" if name in told else value
    return told
