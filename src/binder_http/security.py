"""Who may ask: the token, the names of this server, other people's web pages, build tokens.

A request is judged by values alone, so that all of this is tested without a server.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from binder_core.errors import Refused
from binder_http.config import Config

ANY: Final = "*"

_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})
_UNSPECIFIED: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - not bound to, but refused


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets requests pass, or says why not.

    Made without arguments it lets all pass but those that other people's web pages send.
    """

    token: str = field(default="", repr=False)
    """What each request has to bring; empty: nothing."""
    operator_token: str = field(default="", repr=False)
    """What an operator has to bring, good for all else as well; empty: `token`, if there is one."""
    hosts: frozenset[str] | None = None
    """Names that ``Host`` may have beside loopback's; None: any. This keeps out pages whose name
    was made to lead here (DNS rebinding)."""
    origins: frozenset[str] = frozenset()
    """Web sites whose pages may ask beside our own; ``*``: all."""

    def refusal(self, headers: Mapping[str, str], token: str = "") -> str | None:
        """Return why a request is refused, None if it is not.

        Args:
            headers: Names in whatever case the mapping takes.
            token: The one in the query.
        """
        host = headers.get("host", "")
        if not self._knows(host):
            return (
                f"This server does not go by the name {_name(host)[:80]!r}. Names are allowed by "
                "the setting security.hosts."
            )
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and not (self._is_own(origin, host) or self.allows(origin)):
            return (
                f"Pages of {origin[:80]!r} may not use this server. Sites are allowed by the "
                "setting security.origins."
            )
        # "same-site" is another port or name, and may well be a notebook: other people's code.
        if origin is None and site not in {"same-origin", "none"} and ANY not in self.origins:
            return (
                "Pages of other sites may not use this server. Sites are allowed by the setting "
                "security.origins."
            )
        enough = (self.token, self.operator_token) if self.operator_token else (self.token,)
        if self.token and not _brought(enough, headers, token):
            return (
                "This server needs its token, told when it was started: add ?token=… to the URL, "
                "or send the header Authorization: Bearer …"
            )
        return None

    def operator_refusal(self, headers: Mapping[str, str], token: str = "") -> str | None:
        """Return why what only the operator may do is refused, None if it is not.

        Where nobody needs a token anybody may build; that does not make everybody the operator.

        Args:
            headers: As for `refusal`, which comes first.
            token: The one in the query.
        """
        needed = self.operator_token or self.token
        if not needed:
            return (
                "Only the operator may do this, and this server does not know who that is: set "
                "security.operator_token, and send it."
            )
        if not _brought((needed,), headers, token):
            return "Only the operator may do this, who has a token (security.operator_token)."
        return None

    def allows(self, origin: str) -> bool:
        """Return whether pages of a site may ask and read the answers."""
        return ANY in self.origins or origin.lower() in self.origins

    def _knows(self, host: str) -> bool:
        if self.hosts is None or ANY in self.hosts:
            return True
        name = _name(host)
        return name in self.hosts or _is_loopback(name)

    def _is_own(self, origin: str, host: str) -> bool:
        return bool(host) and _netloc(origin) == host.lower()


def guard(config: Config, token: str) -> Guard:
    """Return the guard that the configuration asks for.

    Args:
        config: See `binder_http.config`.
        token: See `binder_http.assembly.access_token`.
    """
    security, server = config.security, config.server
    hosts = security.hosts
    if hosts is None and config.needs_token and security.auth == "auto":
        hosts = ()
    origins = {origin.lower() for origin in security.origins}
    known: frozenset[str] | None = None
    if hosts is not None:
        known = frozenset(name.lower() for name in (*hosts, server.host)) - _UNSPECIFIED
    if server.public_url:
        url = urlsplit(server.public_url)
        origins.add(f"{url.scheme}://{url.netloc}".lower())
        if known is not None:
            known |= {_name(url.netloc)}
    return Guard(
        token=token,
        operator_token=security.operator_token,
        hosts=known,
        origins=frozenset(origins),
    )


def _brought(tokens: tuple[str, ...], headers: Mapping[str, str], query: str) -> bool:
    """Return whether one of these tokens came with a request, in its query or its headers."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    given = [query]
    if scheme.lower() in {"bearer", "token"}:
        given.append(credentials.strip())
    # All are compared: how long it takes tells nothing.
    same = [hmac.compare_digest(one.encode(), good.encode()) for one in given for good in tokens]
    return any(same)


def _name(host: str) -> str:
    """Return the name in a ``Host`` header: no port, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    # An address of IPv6 without brackets, as in a setting, has no port.
    name = host if host.count(":") > 1 else host.partition(":")[0]
    return name.lower().removesuffix(".")


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


# -- Build tokens --------------------------------------------------------------------------------

BUILD_TOKEN_LIFETIME: Final = 300.0


@dataclass(frozen=True, slots=True)
class BuildTokens:
    """Proofs that a request for a build comes from our launch page.

    Args:
        key: The signing key; a key of their own is made from it.
        lifetime: Seconds for which one is good.
        now: The time, seconds since the epoch.
    """

    key: bytes = field(repr=False)
    lifetime: float = BUILD_TOKEN_LIFETIME
    now: Callable[[], float] = time.time

    def issue(self, text: str, origin: str) -> str:
        """Return a token.

        Args:
            text: ``<provider>/<spec>``, which it is good for.
            origin: The host that the request will come from, see `origin_of`.
        """
        import jwt  # noqa: PLC0415 - not where nobody has a token

        expires = int(self.now() + self.lifetime)
        payload = {"exp": expires, "aud": text, "origin": origin}
        return jwt.encode(payload, self._secret(), algorithm="HS256")

    def check(self, token: str, text: str, origin: str) -> None:
        """Return if a token is good for this request.

        Raises:
            Refused: It is not.
        """
        import jwt  # noqa: PLC0415 - not where nobody has a token

        try:
            payload = jwt.decode(
                token,
                self._secret(),
                algorithms=["HS256"],
                audience=text,
                options={"require": ["exp", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise Refused("The build token has expired; reload the launch page.") from None
        except (jwt.InvalidTokenError, ValueError):
            payload = {}
        if payload.get("origin") != origin:
            raise Refused("The build token is not good for this request; reload the launch page.")

    def _secret(self) -> bytes:
        return hmac.digest(self.key, b"build token", hashlib.sha256)


def origin_of(headers: Mapping[str, str]) -> str:
    """Return the host that a request comes from: that of ``Origin``, else ``Host``."""
    origin = headers.get("origin")
    return _netloc(origin) if origin else headers.get("host", "").lower()
