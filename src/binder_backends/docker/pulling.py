"""Images from a registry to the engine, with word of how far it is."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from binder_backends.containers import repository
from binder_backends.docker.engine import NO_ENGINE, Engine
from binder_core.plugin import BackendUnavailable, LaunchFailed

_SILENCE: Final = 300.0
"""Seconds for which an engine that pulls may say nothing."""
_TELL_EVERY: Final = 1.0
_MAX_LINE_BYTES: Final = 2**20
_MEGABYTE: Final = 10**6
_UNKNOWN: Final = ("manifest unknown", "not found", "name unknown")


async def pull(engine: Engine, image: str, login: bytes, tell: Callable[[str], None]) -> None:
    """Return when the engine has an image that its registry has.

    Args:
        engine: Where to.
        image: Its name.
        login: A Docker ``config.json`` with the login of its registry, or nothing.
        tell: Gets a line about once a second.

    Raises:
        LaunchFailed: There is no such image.
        BackendUnavailable: The registry or the engine did not do it.
    """
    layers = _Layers()
    told = time.monotonic()
    tell(f"Pulling image {image}")
    with engine.faults(f"The image {image} could not be pulled"):
        async with _asked(engine, image, login) as content:
            async for word in _words(content):
                if fault := word.get("error"):
                    raise _refusal(image, str(fault))
                layers.take(word)
                if time.monotonic() - told >= _TELL_EVERY:
                    told = time.monotonic()
                    tell(f"Pulling image {image}: {layers}")
    if await engine.image(image) is None:
        # What broke off looks like what is complete.
        raise BackendUnavailable(f"The image {image} could not be pulled: the engine broke off.")
    tell(f"Pulled image {image}")


@asynccontextmanager
async def _asked(engine: Engine, image: str, login: bytes) -> AsyncIterator[aiohttp.StreamReader]:
    name, tag = repository(image)
    headers = {"X-Registry-Auth": header} if (header := _login_header(login)) else {}
    # Not aiodocker's own `pull`: it takes a connection that breaks for the end.
    query = engine.docker._do_query(  # noqa: SLF001 - what is below it
        "images/create",
        "POST",
        params={"fromImage": name, "tag": tag},
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_SILENCE),
    )
    try:
        response = await query
    except DockerError as error:
        if error.status == NO_ENGINE:
            raise
        raise _refusal(image, error.message) from error
    try:
        yield response.content
    finally:
        response.close()


async def _words(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    buffer = b""
    while data := await content.readany():
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            try:
                word = msgspec.json.decode(line) if line.strip() else None
            except msgspec.DecodeError:
                continue
            if isinstance(word, dict):
                yield word
        if len(buffer) > _MAX_LINE_BYTES:
            raise aiohttp.ClientPayloadError("a line that does not end")


class _Layers:
    """How far each layer is."""

    def __init__(self) -> None:
        self._bytes: dict[str, tuple[int, int]] = {}

    def take(self, word: dict[str, Any]) -> None:
        """Take down what the engine says of a layer."""
        layer, detail = word.get("id"), word.get("progressDetail")
        if not isinstance(layer, str) or not isinstance(detail, dict):
            return
        current, total = detail.get("current"), detail.get("total")
        if word.get("status") == "Downloading" and isinstance(current, int):
            self._bytes[layer] = current, total if isinstance(total, int) else current
        elif layer in self._bytes:  # being unpacked, or done
            total = self._bytes[layer][1]
            self._bytes[layer] = total, total

    def __str__(self) -> str:
        current = sum(current for current, _ in self._bytes.values()) / _MEGABYTE
        total = sum(total for _, total in self._bytes.values()) / _MEGABYTE
        return f"{current:.1f} of {total:.1f} MB"


def _refusal(image: str, said: str) -> LaunchFailed | BackendUnavailable:
    said = " ".join(said.split())[:300]
    lower = said.lower()
    if "denied" not in lower and any(word in lower for word in _UNKNOWN):
        return LaunchFailed(f"The image {image} is not in its registry any more. Build it again.")
    cure = ""
    if any(word in lower for word in ("denied", "unauthorized", "no basic auth")):
        cure = " Give the launcher a login that may pull, see its setting registry."
    elif "no space left" in lower:
        cure = " The disk of the Docker engine is full: make room, with `docker image prune`, say."
    return BackendUnavailable(f"The image {image} could not be pulled: {said}.{cure}")


def _login_header(config: bytes) -> str:
    """Return the login as the engine takes it with a request."""
    if not config:
        return ""
    ((registry, entry),) = msgspec.json.decode(config)["auths"].items()
    login = {"serveraddress": registry}
    if "identitytoken" in entry:
        login["identitytoken"] = entry["identitytoken"]
    else:
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        login |= {"username": user, "password": password}
    return base64.urlsafe_b64encode(msgspec.json.encode(login)).decode()
