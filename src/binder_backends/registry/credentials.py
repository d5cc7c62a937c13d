"""Who we are at a registry: from settings, Docker's ``config.json`` and credential helpers.

Sources: https://docs.docker.com/reference/cli/docker/login/#credential-helpers,
https://github.com/docker/docker-credential-helpers#development
"""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from binder_backends.registry.settings import RegistrySettings
from binder_core.plugin import Login, RegistryUnavailable

DOCKER_HUB: Final = "docker.io"
HUB_KEY: Final = "https://index.docker.io/v1/"
"""What Docker Hub is called where logins are kept."""

_HUB: Final = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_IDENTITY: Final = "<token>"
"""The user, where a helper's secret is an identity token."""
_NOTHING: Final = ("credentials not found", "no credentials server url", "no credentials username")
"""What a helper says that has no login for a host."""
_MAX_AGE: Final = 60.0
"""Seconds for which a login is remembered: helpers take a while, and tokens run out."""


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfig(msgspec.Struct):
    auths: dict[str, _Entry] | None = None
    credsStore: str = ""  # noqa: N815 - Docker's name
    credHelpers: dict[str, str] | None = None  # noqa: N815 - Docker's name


class _Told(msgspec.Struct):
    """What a credential helper answers."""

    Username: str = ""
    Secret: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    login: Login | None
    until: float


class Logins:
    """Who we are at each registry."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._logins = {plain_host(key): login for key, login in settings.logins.items()}
        self._helpers = {plain_host(key): it for key, it in settings.credential_helpers.items()}
        self._known: dict[str, _Known] = {}
        # One after the other: many ask at once for what one helper tells.
        self._locks: dict[str, anyio.Lock] = {}

    async def of(self, registry: str) -> Login | None:
        """Return who we are at a registry, None if nobody in particular.

        Raises:
            RegistryUnavailable: There is a login, and no way to get at it.
        """
        host = plain_host(registry)
        async with self._locks.setdefault(host, anyio.Lock()):
            known = self._known.get(host)
            if known is None or known.until < anyio.current_time():
                login = await self._find(host)
                known = self._known[host] = _Known(login, anyio.current_time() + _MAX_AGE)
            return known.login

    def forget(self, registry: str) -> None:
        """Look for the login of a registry anew when it is wanted again: it was refused."""
        self._known.pop(plain_host(registry), None)

    async def _find(self, host: str) -> Login | None:
        if setting := self._logins.get(host):
            password = setting.password
            if setting.password_file:
                text = await _read(Path(setting.password_file), f"The password_file for {host}")
                password = text.decode(errors="replace").strip()
            return Login(setting.user, password)
        if helper := self._helpers.get(host):
            return await self._ask(helper, host)
        config = await self._docker_config()
        helpers = {plain_host(key): it for key, it in (config.credHelpers or {}).items()}
        if (helper := helpers.get(host, config.credsStore)) and (
            login := await self._ask(helper, host)
        ):
            return login
        return _entry(config, host)

    async def _docker_config(self) -> _DockerConfig:
        if not self._settings.read_docker_config:
            return _DockerConfig()
        given = self._settings.docker_config or os.environ.get("DOCKER_CONFIG", "")
        try:
            path = Path(given) if given else Path.home() / ".docker"
        except RuntimeError:  # a user without a home
            return _DockerConfig()
        try:
            if await anyio.Path(path).is_dir():
                path /= "config.json"
            missing = not await anyio.Path(path).exists()
        except PermissionError:
            missing = False  # reading it says what is wrong
        if missing and not self._settings.docker_config:
            return _DockerConfig()
        text = await _read(path, "Docker's config.json")
        try:
            return msgspec.json.decode(text, type=_DockerConfig)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Not what it says in detail: parts of the file might be in there.
            raise RegistryUnavailable(
                "Docker's config.json, which holds the logins of registries, is damaged: mend"
                " it, or set read_docker_config = false."
            ) from error

    async def _ask(self, helper: str, host: str) -> Login | None:
        """Return the login that a credential helper knows, None if it knows none."""
        program = f"docker-credential-{helper}"
        server = HUB_KEY if host == DOCKER_HUB else host
        if os.sep in helper:
            raise RegistryUnavailable(f"{helper[:60]!r} is no name of a credential helper.")
        # A pipe of ours, already written: a helper that ends without reading breaks nothing.
        reading, writing = os.pipe()
        try:
            with open(writing, "wb") as pipe:  # noqa: ASYNC230, PTH123 - a pipe, never full
                pipe.write(server.encode())
            with anyio.fail_after(self._settings.helper_timeout):
                done = await anyio.run_process(
                    [program, "get"], stdin=reading, stderr=subprocess.DEVNULL, check=False
                )
        except TimeoutError as error:
            raise RegistryUnavailable(
                f"The credential helper {program} did not answer within"
                f" {self._settings.helper_timeout:g} seconds: does it work for {host}"
                " by hand (its argument is get, its input the host)?"
            ) from error
        except OSError as error:
            raise RegistryUnavailable(
                f"The credential helper {program}, which knows the login for {host}, cannot be"
                f" started ({error.strerror}): install it, on the PATH of this server."
            ) from error
        finally:
            os.close(reading)
        if done.returncode != 0:
            said = done.stdout[:1000].decode(errors="replace").lower()
            if any(nothing in said for nothing in _NOTHING):
                return None
            # What it said else stays there: nobody knows what is in it.
            raise RegistryUnavailable(
                f"The credential helper {program} failed with status {done.returncode} for {host}:"
                " does it work by hand (its argument is get, its input the host)?"
            )
        try:
            told = msgspec.json.decode(done.stdout, type=_Told)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Not as the cause: its text may hold parts of the secret.
            raise RegistryUnavailable(
                f"The credential helper {program} answered no JSON for {host}."
            ) from None
        return _login(told.Username, told.Secret)


def plain_host(key: str) -> str:
    """Return the registry that a key for logins means: Docker Hub has several, all of them old."""
    host = key.strip().partition("://")[2] if "://" in key else key.strip()
    host = host.partition("/")[0].lower()
    return DOCKER_HUB if host in _HUB else host


def docker_config(registry: str, login: Login | None) -> bytes:
    """Return a ``config.json`` with one login, empty if there is none."""
    if login is None:
        return b""
    host = plain_host(registry)
    key = HUB_KEY if host == DOCKER_HUB else registry
    if login.identity_token:
        entry = {"identitytoken": login.identity_token}
    else:
        pair = f"{login.user}:{login.password}"
        entry = {"auth": base64.b64encode(pair.encode()).decode()}
    return msgspec.json.encode({"auths": {key: entry}})


def _entry(config: _DockerConfig, host: str) -> Login | None:
    auths = config.auths or {}
    exact = auths.get(HUB_KEY if host == DOCKER_HUB else host)
    others = (entry for key, entry in auths.items() if plain_host(key) == host)
    for entry in (exact, *others):
        if entry is None:
            continue
        user, password = entry.username, entry.password
        if entry.auth:
            try:
                user, _, password = base64.b64decode(entry.auth).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise RegistryUnavailable(
                    f"Docker's config.json holds no login for {host} that can be read: try"
                    f" docker login {host}"
                ) from None
            password = password.strip("\0")
        if login := _login(
            _IDENTITY if entry.identitytoken else user, entry.identitytoken or password
        ):
            return login
    return None


def _login(user: str, secret: str) -> Login | None:
    if not secret:
        return None
    return Login("", "", secret) if user == _IDENTITY else Login(user, secret)


async def _read(path: Path, what: str) -> bytes:
    try:
        return await anyio.to_thread.run_sync(partial(Path.read_bytes, path))
    except OSError as error:
        raise RegistryUnavailable(f"{what} cannot be read: {error.strerror}.") from error
