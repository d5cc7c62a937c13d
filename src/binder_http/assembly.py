"""Makes a `Binder` of a configuration."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from binder_core.engine import Binder, Observer, discovery
from binder_core.errors import ConfigError
from binder_core.plugin import Asker, Launcher, Provider, Store
from binder_http.config import Config
from binder_http.late import LateAsker

_KEY_FILE: Final = "signing-key"


@asynccontextmanager
async def open_binder(
    config: Config,
    *,
    observer: Observer | None = None,
    providers: Mapping[str, Provider] | None = None,
    asker: LateAsker | None = None,
) -> AsyncGenerator[Binder]:
    """Return a `Binder` of the configuration, ready for requests while the context lasts.

    Args:
        config: See `binder_http.config.load`.
        observer: Is told of what ended.
        providers: More providers, by prefix.
        asker: What performs their questions, not opened yet; by default one is made.

    Raises:
        BackendUnavailable: A plug-in cannot be made ready.
    """
    asker = asker or make_asker(config)
    binder = make_binder(config, asker, observer=observer, providers=providers)
    async with opened(binder, asker):
        yield binder


def make_asker(config: Config) -> LateAsker:
    """Return what performs the providers' questions; not opened yet."""
    return LateAsker(config.asker)


def make_binder(
    config: Config,
    asker: Asker,
    *,
    observer: Observer | None = None,
    providers: Mapping[str, Provider] | None = None,
) -> Binder:
    """Return a `Binder` of the configuration; not opened yet, see `opened`."""
    launcher: Launcher | None = None
    if (chosen := config.launcher) is not None:
        launcher = discovery.find(discovery.LAUNCHERS, chosen.kind)(chosen.settings)
    return Binder(
        providers=make_providers(config) | dict(providers or {}),
        builder=discovery.find(discovery.BUILDERS, config.builder.kind)(config.builder.settings),
        launcher=launcher,
        asker=asker,
        key=signing_key(config),
        limits=config.limits,
        image_prefix=config.builder.image_prefix,
        observer=observer,
    )


def make_providers(config: Config) -> dict[str, Provider]:
    """Return the providers, by prefix."""
    return {
        prefix: discovery.find(discovery.PROVIDERS, chosen.kind)(prefix, chosen.settings)
        for prefix, chosen in config.providers.items()
    }


@asynccontextmanager
async def opened(binder: Binder, asker: LateAsker) -> AsyncGenerator[None]:
    """Keep both open while the context lasts."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asker)
        await stack.enter_async_context(binder)
        yield


# -- Records -------------------------------------------------------------------------------------


def make_store(config: Config) -> Store:
    """Return the store of records; not opened yet. It may take long to import.

    Raises:
        BackendUnavailable: A library that it needs is missing.
    """
    plugin = discovery.find(discovery.STORES, config.records.kind)
    settings = plugin.Settings() if config.store is None else config.store
    store: Store = plugin(settings, state_dir(config))
    return store


# -- Keys ----------------------------------------------------------------------------------------


def signing_key(config: Config) -> bytes:
    """Return the key that event ids and build tokens are signed with.

    It is the configured one, or one that is made at the first start and kept in a file that only
    this user can read.

    Raises:
        ConfigError: The file cannot be made or read, or others can read it.
    """
    if config.security.key:
        return config.security.key.encode()
    path = state_dir(config) / _KEY_FILE
    try:
        return _kept_key(path)
    except OSError as error:
        raise ConfigError(
            f"security.key: is not given, and {path} cannot be made or read: {error.strerror}; "
            "give a key or another server.state_dir"
        ) from error


def state_dir(config: Config) -> Path:
    """Return the folder for what shall outlive the server."""
    if config.server.state_dir:
        return Path(config.server.state_dir).expanduser()
    import platformdirs  # noqa: PLC0415 - not where a folder is configured

    return platformdirs.user_state_path("binderkit")


def access_token(config: Config) -> str:
    """Return the token that each request needs, empty where none is needed.

    If it is not configured it is made from the signing key: it stays the same over a restart, so
    that clients can go on where they were.
    """
    if not config.needs_token:
        return ""
    return config.security.token or _derived_token(signing_key(config))


def _derived_token(key: bytes) -> str:
    digest = hmac.digest(key, b"access token", hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:24]).decode()


def _kept_key(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written whole before it gets its name: of two servers that start at once one wins.
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path}: others can read this key; try: chmod 600 {path}")
    key = path.read_bytes().strip()
    if len(key) < 16:
        raise ConfigError(f"{path}: this key has less than 16 bytes; delete it to get a new one")
    return key
