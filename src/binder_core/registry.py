"""Is this image there? A dialogue with its registry.

It asks for the image's manifest and learns from the answer whether, and how, it has to prove who
it is. Only 200 says that the image is there and only 404 that it is not: whatever else a registry
answers leaves the question open, and an open question never starts a build.

Sources: https://distribution.github.io/distribution/spec/api/#existing-manifests,
https://distribution.github.io/distribution/spec/auth/token/,
https://distribution.github.io/distribution/spec/auth/oauth/,
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from binder_core.asking import HttpGet, HttpReply
from binder_core.errors import ProviderUnavailable, RegistryUnavailable

DOCKER_HUB: Final = "docker.io"

ACCEPT: Final = (
    "application/vnd.oci.image.index.v1+json, "
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)

T = TypeVar("T")

_HUB_API: Final = "registry-1.docker.io"
_HOST: Final = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(?::\d+)?"
)
_NAME: Final = re.compile(
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
)
_TAG: Final = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}")
_TOKEN: Final = r"[\w!#$%&'*+.^`|~-]+"  # noqa: S105 - HTTP's word for a word
_PARAMETER: Final = re.compile(
    rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))', re.ASCII
)
_SCHEME: Final = re.compile(rf"({_TOKEN})(?=[\s,]|$)", re.ASCII)
_CLIENT: Final = "binderkit"
_SAID_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class ImageName:
    """The name of an image, with all that a short one leaves out."""

    registry: str
    """``docker.io``, ``registry.example:5000``."""
    repository: str
    """``library/python``."""
    reference: str
    """A tag, or a digest."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks."""

    user: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    """What some registries give for a password; then that is empty."""


@dataclass(frozen=True, slots=True)
class HttpPost:
    """A POST request of a form."""

    url: str
    form: tuple[tuple[str, str], ...] = field(repr=False)
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Challenge:
    """How to prove who asks: one of the ways that a registry takes."""

    scheme: str
    """In lower case: ``bearer``, ``basic``."""
    parameters: Mapping[str, str]
    """Names in lower case."""


RegistryAsks: TypeAlias = Generator[HttpGet | HttpPost, HttpReply, T]
"""A dialogue with a registry that ends with a ``T``."""


class _Secret(str):
    """A header's value that does not show when a question is printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class _Token(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None


class _Fault(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Faults(msgspec.Struct):
    errors: tuple[_Fault, ...] = ()


# -- Names -----------------------------------------------------------------------------------------


def parse_image(image: str) -> ImageName:
    """Return the parts of an image's name; those left out are Docker Hub's and ``latest``.

    Raises:
        ValueError: It is no name of an image.
    """
    first, slash, rest = image.partition("/")
    # As docker does: a first part without a dot, a colon or "localhost" is not a host.
    if slash and (any(char in first for char in ".:") or first == "localhost"):
        registry = DOCKER_HUB if first == "index.docker.io" else first
    else:
        registry, rest = DOCKER_HUB, image
    repository, at, reference = rest.partition("@")
    if not at:
        repository, colon, reference = rest.partition(":")
        reference = reference if colon else "latest"
    elif ":" in repository:
        repository = repository.partition(":")[0]
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    well_formed = _DIGEST if at else _TAG
    if (
        not _HOST.fullmatch(registry)
        or not _NAME.fullmatch(repository)
        or not well_formed.fullmatch(reference)
    ):
        raise ValueError(f"{image!r} is no name of an image")
    return ImageName(registry, repository, reference)


def is_loopback(host: str) -> bool:
    """Return whether a host, with or without its port, is this machine.

    As docker does: unless told otherwise it talks to a registry there unencrypted.
    """
    name = (urlsplit(f"//{host}").hostname or "") if _HOST.fullmatch(host) else ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


# -- The dialogue ----------------------------------------------------------------------------------


def exists(
    image: str, login: Login | None = None, *, plain_http: Collection[str] = ()
) -> RegistryAsks[bool]:
    """Find out whether an image is in its registry.

    Args:
        image: Its full name.
        login: Whom to say we are, where the registry asks.
        plain_http: Hosts that are talked to unencrypted, each as in the name of an image.

    Raises:
        RegistryUnavailable: Nobody knows; the message names the registry and what it answered.
        ValueError: `image` is no name of an image.
    """
    name = parse_image(image)
    return (yield from _Dialogue(name, login, plain_http).exists())


class _Dialogue:
    def __init__(self, name: ImageName, login: Login | None, plain_http: Collection[str]) -> None:
        self._name = name
        self._login = login
        self._plain_http = plain_http
        host = _HUB_API if name.registry == DOCKER_HUB else name.registry
        scheme = "http" if name.registry in plain_http else "https"
        reference = quote(name.reference, safe=":")
        self._origin = f"{scheme}://{host}"
        self._url = f"{self._origin}/v2/{name.repository}/manifests/{reference}"

    def exists(self) -> RegistryAsks[bool]:
        reply = yield from self._manifest()
        if reply.status == 401 and (challenge := self._challenge(reply)):
            reply = yield from self._proven(challenge, reply)
        if reply.status == 200:
            return True
        if reply.status == 404:
            return False
        raise self._unavailable(reply)

    def _manifest(self, authorization: str = "") -> RegistryAsks[HttpReply]:
        # An image may be pushed at any moment: no answer may come from memory.
        known = {"authorization": authorization} if authorization else {}
        headers = {"accept": ACCEPT, **known, "cache-control": "no-cache"}
        reply = yield from self._ask(HttpGet(self._url, tuple(headers.items()), head=True))
        if 400 <= reply.status < 500 and reply.status not in (401, 404, 429):
            # Some registries know no HEAD; of the others this one's body tells what is wrong.
            reply = yield from self._ask(HttpGet(self._url, tuple(headers.items())))
        return reply

    def _proven(self, challenge: Challenge, refusal: HttpReply) -> RegistryAsks[HttpReply]:
        """Ask again, as the registry wants to be asked."""
        if challenge.scheme == "basic":
            return (yield from self._manifest(self._basic()))
        name = self._name.repository
        scope = challenge.parameters.get("scope") or f"repository:{name}:pull"
        token = yield from self._token(challenge, scope, refusal)
        reply = yield from self._manifest(token)
        if reply.status not in (401, 403) or self._login is None:
            return reply
        # Docker Hub and Quay allow nobody to pull from a repository that is not there, its owner
        # neither; who may push to it is told that there is nothing yet. (Quay makes it, empty, as
        # the push would have done.) Not asked for at first: who may pull only, gets nothing for
        # both from some registries.
        scope = f"repository:{name}:pull,push"
        token = yield from self._token(challenge, scope, refusal)
        return (yield from self._manifest(token))

    def _challenge(self, reply: HttpReply) -> Challenge | None:
        """Return how to prove who asks, None if there is no way.

        Raises:
            RegistryUnavailable: There is one, and it is not taken: a password does not go there.
        """
        if _origin(reply.url) != _origin(self._url):
            raise RegistryUnavailable(
                f"{self._unknown()}: the registry {self._name.registry} leads to"
                f" {_host(reply.url)}, which asks for a login. It gets none: name images by"
                " the registry that holds them."
            )
        found = challenges(reply.headers.get("www-authenticate", ""))
        for challenge in found:
            realm = challenge.parameters.get("realm", "")
            if challenge.scheme == "bearer" and realm:
                self._check_realm(realm)
                return challenge
        for challenge in found:
            if challenge.scheme == "basic" and self._login and not self._login.identity_token:
                return challenge
        return None

    def _check_realm(self, realm: str) -> None:
        parts = urlsplit(realm)
        plain = parts.scheme == "http" and (
            # It could be heard on the way already.
            (self._origin.startswith("http:") and parts.hostname == urlsplit(self._origin).hostname)
            or parts.netloc in self._plain_http
            or is_loopback(parts.netloc)
        )
        if not parts.hostname or "@" in parts.netloc or not (parts.scheme == "https" or plain):
            raise RegistryUnavailable(
                f"{self._unknown()}: the registry {self._name.registry} wants its tokens (401) to"
                f" be asked for at {_shown(realm)}, which is not encrypted. Set the registry's"
                " public address, with https, in its own configuration; or allow plain_http"
                " for that host."
            )

    def _token(self, challenge: Challenge, scope: str, refusal: HttpReply) -> RegistryAsks[str]:
        realm, service = challenge.parameters["realm"], challenge.parameters.get("service", "")
        question: HttpGet | HttpPost
        if self._login is not None and self._login.identity_token:
            form = {"grant_type": "refresh_token", "service": service, "client_id": _CLIENT}
            form |= {"scope": scope, "refresh_token": self._login.identity_token}
            question = HttpPost(realm, tuple(form.items()), (("cache-control", "no-cache"),))
        else:
            query = f"scope={quote(scope, safe=':/,')}"
            if service:
                query = f"service={quote(service, safe='')}&{query}"
            headers = {"cache-control": "no-cache"}
            if self._login is not None:
                headers["authorization"] = self._basic()
            url = f"{realm}{'&' if '?' in realm else '?'}{query}"
            question = HttpGet(url, tuple(headers.items()))
        reply = yield from self._ask(question)
        if reply.status != 200:
            raise self._unavailable(reply)
        try:
            told = msgspec.json.decode(reply.body, type=_Token)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = _Token()
        token = told.token or told.access_token or ""
        if not token or not token.isascii() or not token.isprintable():
            raise RegistryUnavailable(
                f"{self._unknown()}: {_host(reply.url)}, which grants access to the registry"
                f" {_host(refusal.url)}, answered with no token. Try again in a few minutes."
            )
        return _Secret(f"Bearer {token}")

    def _ask(self, question: HttpGet | HttpPost) -> RegistryAsks[HttpReply]:
        try:
            return (yield question)
        except ProviderUnavailable as error:
            registry, host = self._name.registry, _host(question.url)
            grants = "" if question.url == self._url else f" ({host}, which grants access to it)"
            raise RegistryUnavailable(
                f"{self._unknown()}: the registry {registry}{grants} did not answer:"
                f" {error.message}"
            ) from error

    def _basic(self) -> str:
        assert self._login is not None  # noqa: S101 - narrows; nobody asks without
        pair = f"{self._login.user}:{self._login.password}"
        return _Secret(f"Basic {base64.b64encode(pair.encode()).decode()}")

    def _unknown(self) -> str:
        return f"Whether the image {self._name.repository} is there is unknown"

    def _unavailable(self, reply: HttpReply) -> RegistryUnavailable:
        host, registry = _host(reply.url), self._name.registry
        who = registry if host == registry else f"{registry} ({host})"
        return RegistryUnavailable(
            f"{self._unknown()}: the registry {who} answered {reply.status}{self._said(reply)}."
            f" {self._cure(reply.status)}"
        )

    def _said(self, reply: HttpReply) -> str:
        """Return what a body tells of what is wrong."""
        try:
            faults = msgspec.json.decode(reply.body, type=_Faults).errors
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""
        said = "; ".join(filter(None, (fault.message or fault.code for fault in faults)))
        secrets = (self._login.password, self._login.identity_token) if self._login else ()
        if any(secret and secret in said for secret in secrets):
            return ""
        said = _shown(said)
        return f" ({said})" if said else ""

    def _cure(self, status: int) -> str:
        registry = self._name.registry
        match status:
            case 401 if self._login is None:
                return f"It asks for a login and none is configured for {registry}: give one."
            case 401:
                return (
                    f"It refuses the login that is configured for {registry}: has it expired, and"
                    f" may it push to {self._name.repository}?"
                )
            case 403:
                return (
                    f"Who we are there may not look into {self._name.repository}: check what the"
                    " login may do, and whether the repository has to be made before."
                )
            case 429:
                return "It has been asked too often: log in there, or wait for some minutes."
            case _ if status >= 500:
                return "Try again in a few minutes."
            case _:
                return f"Is {registry} the address of a registry, and the name right?"


def challenges(header: str) -> list[Challenge]:
    """Return the ways that a ``WWW-Authenticate`` header names, one or several of them.

    Source: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1
    """
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(header):
        if parameter := _PARAMETER.match(header, at):
            name, quoted, bare = parameter.groups()
            if found:
                value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1][1].setdefault(name.lower(), value)
            at = parameter.end()
        elif scheme := _SCHEME.match(header, at):
            found.append((scheme[1].lower(), {}))
            at = scheme.end()
        elif header[at] in ", \t":
            at += 1
        else:  # a token68, or garbage
            comma = header.find(",", at)
            at = len(header) if comma < 0 else comma
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _shown(text: str) -> str:
    """Return somebody else's text, fit for a line of ours."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(line.split())[:_SAID_CHARS].rstrip(" .")
