"""Is this image there? A dialogue with its registry.

It asks for the image's manifest and learns from the answer whether, and how, it has to prove who
it is. Only 200 says that the image is there and only 404 that it is not: whatever else a registry
answers leaves the question open, and an open question never starts a build.

Sources: https://distribution.github.io/distribution/spec/api/#existing-manifests,
https://distribution.github.io/distribution/spec/auth/token/,
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from binder_core.asking import Asks, HttpReply, http_get
from binder_core.errors import ProviderUnavailable, RegistryUnavailable

DOCKER_HUB: Final = "docker.io"

ACCEPT: Final = (
    "application/vnd.oci.image.index.v1+json, "
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)

_HUB_API: Final = "registry-1.docker.io"
_NAME: Final = re.compile(
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
)
_TAG: Final = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}")
_PARAMETER: Final = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


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


class _Secret(str):
    """A header's value that does not show when a question is printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


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
    if not _NAME.fullmatch(repository) or not well_formed.fullmatch(reference):
        raise ValueError(f"{image!r} is no name of an image")
    return ImageName(registry, repository, reference)


def exists(image: str, login: Login | None = None, *, plain_http: bool = False) -> Asks[bool]:
    """Find out whether an image is in its registry.

    Args:
        image: Its full name.
        login: Whom to say we are, where the registry asks.
        plain_http: Whether to talk to the registry unencrypted.

    Raises:
        RegistryUnavailable: Nobody knows; the message names the registry and what it answered.
        ValueError: `image` is no name of an image.
    """
    name = parse_image(image)
    host = _HUB_API if name.registry == DOCKER_HUB else name.registry
    scheme = "http" if plain_http else "https"
    url = f"{scheme}://{host}/v2/{name.repository}/manifests/{quote(name.reference, safe=':')}"
    reply = yield from _get(name, url, {"accept": ACCEPT})
    if reply.status == 401:
        authorization = yield from _authorization(name, reply, login)
        reply = yield from _get(name, url, {"accept": ACCEPT, "authorization": authorization})
    if reply.status == 200:
        return True
    if reply.status == 404:
        return False
    raise _unavailable(name, reply)


def _get(name: ImageName, url: str, headers: dict[str, str]) -> Asks[HttpReply]:
    # An image may be pushed at any moment: no answer may come from memory.
    try:
        return (
            yield from http_get(url, headers={**headers, "cache-control": "no-cache"}, head=True)
        )
    except ProviderUnavailable as error:
        raise RegistryUnavailable(
            f"The registry {name.registry} did not answer: {error.message}"
        ) from error


def _authorization(name: ImageName, reply: HttpReply, login: Login | None) -> Asks[str]:
    """Return the header that the registry asks for."""
    challenge = reply.headers.get("www-authenticate", "")
    scheme, _, text = challenge.strip().partition(" ")
    if scheme.lower() == "basic" and login is not None:
        return _basic(login)
    if scheme.lower() != "bearer":
        raise _unavailable(name, reply)
    asked: dict[str, str] = {}
    for match in _PARAMETER.finditer(text):
        value = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        # The first of each: a second challenge may stand behind this one.
        asked.setdefault(match[1].lower(), value)
    realm = asked.get("realm", "")
    if urlsplit(realm).scheme != "https" and not _same_host(realm, reply.url):
        # Elsewhere and unencrypted: a password does not go there.
        raise _unavailable(name, reply)
    scope = asked.get("scope") or f"repository:{name.repository}:pull"
    query = f"scope={quote(scope, safe=':/,')}"
    if service := asked.get("service"):
        query = f"service={quote(service, safe='')}&{query}"
    headers = {"cache-control": "no-cache"}
    if login is not None:
        headers["authorization"] = _basic(login)
    return (yield from _token(name, f"{realm}{'&' if '?' in realm else '?'}{query}", headers))


def _token(name: ImageName, url: str, headers: dict[str, str]) -> Asks[str]:
    try:
        reply = yield from http_get(url, headers=headers)
    except ProviderUnavailable as error:
        raise RegistryUnavailable(
            f"Who grants access to the registry {name.registry} did not answer: {error.message}"
        ) from error
    if reply.status != 200:
        raise _unavailable(name, reply)
    try:
        told = msgspec.json.decode(reply.body, type=_Token)
    except msgspec.DecodeError as error:
        raise RegistryUnavailable(
            f"Who grants access to the registry {name.registry} answered with no token."
        ) from error
    token = told.token or told.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise RegistryUnavailable(
            f"Who grants access to the registry {name.registry} answered with no token."
        )
    return _Secret(f"Bearer {token}")


def _basic(login: Login) -> str:
    encoded = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
    return _Secret(f"Basic {encoded}")


def _same_host(one: str, other: str) -> bool:
    return bool(urlsplit(one).netloc) and urlsplit(one).netloc == urlsplit(other).netloc


def _unavailable(name: ImageName, reply: HttpReply) -> RegistryUnavailable:
    who = urlsplit(reply.url).hostname or name.registry
    hints = {
        401: ": it wants other credentials",
        403: ": it does not allow us to look",
        429: ": it has been asked too often",
    }
    return RegistryUnavailable(
        f"Whether the image is there is unknown: the registry {name.registry} ({who}) answered "
        f"{reply.status}{hints.get(reply.status, '')}."
    )
