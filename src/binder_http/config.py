"""The configuration: one tree of settings, read from one file, the environment and flags.

Sources in rising order: a TOML file; the environment, ``BINDER_<SECTION>__<KEY>``; flags. A key
that does not exist or a value of the wrong type is a `ConfigError` that names it.

The tables ``[builder.<kind>]``, ``[launcher.<kind>]`` and ``[providers.<prefix>]`` are checked
against the ``Settings`` of the plug-in they are for.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from binder_backends.asker.settings import AskerSettings
from binder_core.engine import discovery
from binder_core.engine.limits import Limits
from binder_core.errors import BackendUnavailable, ConfigError
from binder_http.filling import Given, Tree, fill, lay_over, put, shown, tree, unknown

log = logging.getLogger("binder.http")

ENV_PREFIX: Final = "BINDER_"
ENV_FILE: Final = "BINDER_CONFIG"
"""Names the file where no flag does."""

NO_LAUNCHER: Final = "none"
"""The kind of launcher that is none: this server only builds."""

_LOCAL: Final = "local"
_SQL: Final = "sql"

Secret = Annotated[str, Meta(extra={"secret": True})]
"""A setting that is never shown."""

_Seconds = Annotated[float, Meta(ge=0)]
_Port = Annotated[int, Meta(ge=0, le=65535)]
_Bytes = Annotated[int, Meta(ge=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    def __repr__(self) -> str:
        """Show all but the secrets."""
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown(self).items())})"


class Server(_Section, frozen=True):
    """Where the server listens and how it treats streams."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: _Port = 8585
    """0 takes a free one."""
    base_url: str = "/"
    """The path under which everything is served."""
    public_url: str = ""
    """What the outside calls this server, base_url included; told as ``binder_launch_host``. Empty:
    taken from each request."""
    build_only: bool = False
    """Whether ``?build_only=true`` is allowed."""
    linger: _Seconds = 5.0
    """Seconds for which a stream stays open after its last event, so that clients close first."""
    retry: _Seconds = 2.0
    """Seconds after which EventSource clients shall reconnect."""
    grace: _Seconds = 3.0
    """Seconds that open streams get to end when the server stops."""
    max_spec_bytes: _Bytes = 4096
    """How long a spec may be."""
    max_headers_bytes: _Bytes = 16384
    """How long the headers of a request may be, all together."""
    access_log: bool = True
    """Whether each request is logged, without its secrets."""
    state_dir: str = ""
    """Where a signing key is kept if none is configured. Empty: this user's state folder."""

    def __post_init__(self) -> None:
        if not self.base_url.startswith("/") or set("?#%") & set(self.base_url):
            raise ValueError(f"base_url is a path that starts with /, not {self.base_url!r}")
        if self.public_url:
            url = urlsplit(self.public_url)
            if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment:
                raise ValueError(
                    f"public_url is like https://binder.example.org/, not {self.public_url[:80]!r}"
                )

    @property
    def prefix(self) -> str:
        """Return base_url as a URL prefix: empty or ``/like/this``."""
        return self.base_url.rstrip("/")


class Security(_Section, frozen=True):
    """Who may ask."""

    auth: Literal["auto", "token", "none"] = "auto"
    """Whether each request needs the token; auto: where builds or servers run as this user."""
    token: Secret = ""
    """The token; empty: one made from the key, told at start."""
    operator_token: Secret = ""
    """What listing, reading and stopping builds needs; good for all else as well. Empty: the token,
    where each request needs it; else nobody may."""
    key: Secret = ""
    """Signs event ids and build tokens; the same on all servers and after a restart. Empty: one is
    made and kept in ``server.state_dir``."""
    hosts: tuple[str, ...] | None = None
    """Names that ``Host`` may have beside loopback's and that of public_url; ``*``: any. Not
    given: any, unless each request needs the token by `auth` ``auto``."""
    origins: tuple[str, ...] = ()
    """Web sites (``https://example.org``) whose pages may ask, beside this server's own; ``*``:
    any."""
    build_token_lifetime: _Seconds = 300.0
    """Seconds for which a build token is good."""

    def __post_init__(self) -> None:
        if self.key and len(self.key.encode()) < 16:
            raise ValueError("key has less than 16 bytes; make one with `openssl rand -hex 32`")
        for origin in self.origins:
            url = urlsplit(origin)
            if origin != "*" and (not url.scheme or not url.netloc or url.path or url.query):
                raise ValueError(f"origins are like https://example.org, not {origin[:80]!r}")


class Metrics(_Section, frozen=True):
    """What is counted."""

    enabled: bool = True
    """Whether there is ``/metrics``."""
    repo_label: bool = False
    """Whether counts are kept by repository: 10,000 of them make a page of megabytes."""


class Older(_Section, frozen=True):
    """The older Binder protocol: its routes, and what its templates say."""

    enabled: bool = True
    """Whether it is served. Nothing is opened before its first request."""
    template_port: _Port = 8888
    """The port that templates name."""
    template_memory: str = ""
    """The limit that templates name, as ``1G``; empty: none."""
    template_cpu: Annotated[float, Meta(ge=0)] = 0.0
    """The limit that templates name, in CPUs; 0: none."""


class Chosen(_Section, frozen=True):
    """A plug-in, and its settings."""

    kind: str
    """The name of its entry point."""
    settings: msgspec.Struct
    """An instance of its ``Settings``."""


class BuilderChoice(Chosen, frozen=True):
    """The builder."""

    image_prefix: str = ""
    """What image names start with: a registry, and a path in it."""


class Records(_Section, frozen=True):
    """Where records are kept, and for how long."""

    kind: str = _SQL
    """The store: the name of its entry point."""
    keep_for: Annotated[float, Meta(gt=0)] = 90 * 86400.0
    """Seconds for which ended builds and deployments are kept."""
    keep_log_bytes: _Bytes = 2**30
    """How much of logs is kept, compressed: the oldest ones go first."""
    lease: Annotated[float, Meta(gt=0)] = 30.0
    """Seconds after which another server goes on with what a server that died was following."""


class Config(_Section, frozen=True):
    """All settings."""

    server: Server
    security: Security
    metrics: Metrics
    limits: Limits
    asker: AskerSettings
    protocol: Older
    records: Records
    store: msgspec.Struct | None
    """The settings of the store. None: nothing was given, and the store is not even imported before
    it is needed."""
    builder: BuilderChoice
    launcher: Chosen | None
    providers: dict[str, Chosen]
    """By prefix."""

    @property
    def local(self) -> bool:
        """Return whether builds or servers run here, as this user."""
        kinds = {self.builder.kind, self.launcher.kind if self.launcher else ""}
        return _LOCAL in kinds

    @property
    def needs_token(self) -> bool:
        """Return whether each request needs the token."""
        return self.security.auth == "token" or (self.security.auth == "auto" and self.local)


_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "server": Server,
    "security": Security,
    "metrics": Metrics,
    "limits": Limits,
    "asker": AskerSettings,
    "protocol": Older,
}
_ALL: Final = (*_SECTIONS, "records", "builder", "launcher", "providers")


def load(
    path: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Return the configuration.

    Args:
        path: A TOML file; None: the one that ``BINDER_CONFIG`` names in `env`, or none.
        env: Where to look for ``BINDER_<SECTION>__<KEY>``; None: the environment.
        flags: Nested, or by dotted name: ``{"server.port": 0}``. A value None is as if not given;
            strings may stand for values of other types.

    Raises:
        ConfigError: A setting is unknown or wrong; the message names it.
        BackendUnavailable: A library that a chosen plug-in needs is missing.
    """
    env = os.environ if env is None else env
    path = path or env.get(ENV_FILE) or None
    given = _from_file(Path(path)) if path else {}
    given = lay_over(given, _from_env(env))
    given = lay_over(given, _from_flags(flags or {}))
    sections: dict[str, Tree] = {key: {} for key in _ALL}
    for key, value in given.items():
        if key not in sections:
            raise _unknown_section(key, value)
        if isinstance(value, Given):
            raise ConfigError(f"{key}: expected a table, got {value.value!r} ({value.where})")
        sections[key] = value
    builder = _builder(sections["builder"])
    records, store = _records(sections["records"])
    return Config(
        server=fill(Server, sections["server"], "server"),
        security=fill(Security, sections["security"], "security"),
        metrics=fill(Metrics, sections["metrics"], "metrics"),
        limits=fill(Limits, sections["limits"], "limits"),
        asker=fill(AskerSettings, sections["asker"], "asker"),
        protocol=fill(Older, sections["protocol"], "protocol"),
        records=records,
        store=store,
        builder=builder,
        launcher=_launcher(sections["launcher"], builder.kind),
        providers=_providers(sections["providers"]),
    )


def effective(config: Config) -> dict[str, Any]:
    """Return the configuration as it would stand in the file, secrets replaced by ``***``."""
    made: dict[str, Any] = {name: shown(getattr(config, name)) for name in _SECTIONS}
    made["records"] = shown(config.records)
    if config.store is not None:
        made["records"][config.records.kind] = shown(config.store)
    builder = config.builder
    made["builder"] = {
        "kind": builder.kind,
        "image_prefix": builder.image_prefix,
        builder.kind: shown(builder.settings),
    }
    if config.launcher is None:
        made["launcher"] = {"kind": NO_LAUNCHER}
    else:
        kind = config.launcher.kind
        made["launcher"] = {"kind": kind, kind: shown(config.launcher.settings)}
    made["providers"] = {
        prefix: {"kind": chosen.kind, **shown(chosen.settings)}
        for prefix, chosen in config.providers.items()
    }
    return made


def render(config: Config) -> str:
    """Return `effective` as TOML. Settings that are None are left out: TOML has no such value."""
    import tomli_w  # noqa: PLC0415 - only `binder config` needs it

    return tomli_w.dumps(_without_none(effective(config)))


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


# -- Sources -------------------------------------------------------------------------------------


def _from_file(path: Path) -> Tree:
    try:
        return tree(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from error


def _from_env(env: Mapping[str, str]) -> Tree:
    found: Tree = {}
    for name in sorted(env):
        # Without a section it is none of ours: notebooks have a BINDER_REPO_URL, for one.
        if name.startswith(ENV_PREFIX) and "__" in name:
            path = name.removeprefix(ENV_PREFIX).lower().split("__")
            put(found, path, Given(env[name], f"environment variable {name}", text=True))
    return found


def _from_flags(flags: Mapping[str, Any]) -> Tree:
    found: Tree = {}
    for name, value in flags.items():
        given = _flag(value)
        for section in reversed(name.split(".")):
            given = {section: given} if given is not None else None
        if isinstance(given, dict):
            found = lay_over(found, given)
    return found


def _flag(value: Any) -> Given | Tree | None:
    """Return a flag's value; None where there is none. Names below the first are no paths."""
    if isinstance(value, Mapping):
        below = {str(name): _flag(one) for name, one in value.items()}
        return {name: one for name, one in below.items() if one is not None}
    return None if value is None else Given(value, "flag", text=isinstance(value, str))


def _unknown_section(key: str, value: Given | Tree) -> ConfigError:
    where = value.where if isinstance(value, Given) else "a table"
    for section, cls in _SECTIONS.items():
        if key in cls.__struct_fields__:
            return ConfigError(
                f"{key}: there is no such section ({where}); did you mean {section}.{key}?"
            )
    return unknown(key, _ALL, where, "")


# -- Plug-ins ------------------------------------------------------------------------------------


class _Choice(msgspec.Struct, frozen=True, kw_only=True):
    kind: str = ""


class _BuilderKeys(_Choice, frozen=True, kw_only=True):
    image_prefix: str = ""


_KeysT = TypeVar("_KeysT", bound=msgspec.Struct)


def _builder(given: Tree) -> BuilderChoice:
    keys, tables = _split(given, _BuilderKeys, "builder", discovery.BUILDERS)
    kind = keys.kind or _LOCAL
    settings = _settings(discovery.BUILDERS, kind, tables.get(kind, {}), "builder")
    return BuilderChoice(kind=kind, settings=settings, image_prefix=keys.image_prefix)


def _records(given: Tree) -> tuple[Records, msgspec.Struct | None]:
    records, tables = _split(given, Records, "records", discovery.STORES)
    kind = records.kind
    if kind == _SQL and kind not in tables:
        return records, None
    return records, _settings(discovery.STORES, kind, tables.get(kind, {}), "records")


def _launcher(given: Tree, builder: str) -> Chosen | None:
    keys, tables = _split(given, _Choice, "launcher", discovery.LAUNCHERS)
    kind = keys.kind
    if kind == NO_LAUNCHER:
        return None
    if not kind:
        installed = discovery.names(discovery.LAUNCHERS)
        if builder not in installed:
            raise ConfigError(
                f"launcher.kind: is missing; no launcher has the builder's name {builder!r}; "
                f"installed: {', '.join(installed)}; or {NO_LAUNCHER!r}"
            )
        kind = builder
    settings = _settings(discovery.LAUNCHERS, kind, tables.get(kind, {}), "launcher")
    return Chosen(kind=kind, settings=settings)


def _split(
    given: Tree, keys: type[_KeysT], section: str, group: str
) -> tuple[_KeysT, dict[str, Tree]]:
    """Return a section's own keys and the tables of its plug-ins.

    Tables of plug-ins that are not chosen may stand there; they have to be installed ones.
    """
    own = set(keys.__struct_fields__)
    installed = discovery.names(group)
    tables: dict[str, Tree] = {}
    for key, value in given.items():
        if key in own:
            continue
        if key not in installed:
            where = value.where if isinstance(value, Given) else "a table"
            raise unknown(f"{section}.{key}", [*own, *installed], where, section)
        if isinstance(value, Given):
            raise ConfigError(
                f"{section}.{key}: expected a table, got {value.value!r} ({value.where})"
            )
        tables[key] = value
    return fill(keys, {key: given[key] for key in own & set(given)}, section), tables


def _providers(given: Tree) -> dict[str, Chosen]:
    installed = discovery.names(discovery.PROVIDERS)
    chosen: dict[str, Chosen] = {}
    for prefix in [*installed, *(prefix for prefix in given if prefix not in installed)]:
        table = given.get(prefix)
        if table is None:
            try:
                settings = _settings(discovery.PROVIDERS, prefix, {}, "providers")
            except BackendUnavailable as error:
                log.warning("the provider %s is left out: %s", prefix, error)
                continue
            chosen[prefix] = Chosen(kind=prefix, settings=settings)
            continue
        if isinstance(table, Given):
            raise ConfigError(
                f"providers.{prefix}: expected a table, got {table.value!r} ({table.where})"
            )
        if one := _provider(prefix, table, installed):
            chosen[prefix] = one
    return chosen


class _ProviderKeys(_Choice, frozen=True, kw_only=True):
    enabled: bool = True


def _provider(prefix: str, table: Tree, installed: list[str]) -> Chosen | None:
    name = f"providers.{prefix}"
    if not prefix.isascii() or not prefix.isalnum():
        raise ConfigError(f"{name}: a prefix is letters and digits")
    own = {key: table[key] for key in _ProviderKeys.__struct_fields__ if key in table}
    keys = fill(_ProviderKeys, own, name)
    if not keys.enabled:
        return None
    kind = keys.kind or prefix
    if not keys.kind and prefix not in installed:
        raise ConfigError(f"{name}.kind: is missing; installed: {', '.join(installed)}")
    rest = {key: value for key, value in table.items() if key not in own}
    return Chosen(kind=kind, settings=_settings(discovery.PROVIDERS, kind, rest, name))


def _settings(group: str, kind: str, given: Tree, section: str) -> msgspec.Struct:
    """Return the settings of a plug-in."""
    try:
        plugin = discovery.find(group, kind)
    except ConfigError as error:
        raise ConfigError(f"{section}.kind: {error}") from error
    cls: type[msgspec.Struct] = plugin.Settings
    path = section if group == discovery.PROVIDERS else f"{section}.{kind}"
    return fill(cls, given, path)
