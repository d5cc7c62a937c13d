"""The environment that builds and notebook servers get: an allow-list.

They run other people's code. What the server itself was given, tokens above all, stays with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

_NAMES: Final = frozenset({
    "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
    # How to reach the network.
    "ALL_PROXY", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY",
    "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "NIX_SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE",
    # Where packages come from.
    "CONDARC", "CONDA_PKGS_DIRS", "MAMBARC", "MAMBA_ROOT_PREFIX",
})  # fmt: skip
_PREFIXES: Final = ("LC_", "PIP_", "UV_")
_NEVER: Final = ("UV_PUBLISH_",)
# What would turn an installation elsewhere, were it set for the server's own environment.
_MISLEADING: Final = frozenset({
    "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_ROOT", "PIP_TARGET", "PIP_USER", "UV_PYTHON",
    "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_SYSTEM_PYTHON", "UV_WORKING_DIRECTORY",
})  # fmt: skip
_PIP_TO_UV: Final = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}
_SECRET: Final = ("PASSWORD", "TOKEN", "SECRET")
_PIP_CONFIGS: Final = (".config/pip/pip.conf", ".pip/pip.conf")


def build_environment(ours: Mapping[str, str], extra: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment of a build.

    Args:
        ours: The server's.
        extra: Names that the operator allows beside the usual ones.
    """
    env = _allowed(ours, extra)
    for pip, uv in _PIP_TO_UV.items():
        # uv does not read pip's settings; where only these name an index, they are meant.
        if (
            pip in env
            and uv not in env
            and not (uv == "UV_DEFAULT_INDEX" and "UV_INDEX_URL" in env)
        ):
            env[uv] = env[pip]
            if pip == "PIP_EXTRA_INDEX_URL":
                env[uv] = " ".join(env[pip].split())
                env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip does
    # postBuild has another home, and may call pip.
    if "PIP_CONFIG_FILE" not in env and "HOME" in env:
        found = (Path(env["HOME"], name) for name in _PIP_CONFIGS)
        file = next((file for file in found if file.is_file()), None)
        env |= {"PIP_CONFIG_FILE": str(file)} if file else {}
    return env


def server_environment(ours: Mapping[str, str], extra: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment of a notebook server: that of a build without its credentials."""
    allowed = set(extra)
    return {
        name: value
        for name, value in build_environment(ours, extra).items()
        if name in allowed or not (name in secret_names([name]) or _has_userinfo(name, value))
    }


def secret_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return those names of a build's variables whose values must not be told."""
    return tuple(name for name in names if any(word in name for word in _SECRET))


def _has_userinfo(name: str, value: str) -> bool:
    return name.startswith(("UV_", "PIP_")) and "@" in value and "://" in value


def _allowed(ours: Mapping[str, str], extra: Iterable[str]) -> dict[str, str]:
    extra = frozenset(extra)
    return {
        name: value
        for name, value in ours.items()
        if name in extra
        or (
            (name.upper() in _NAMES or name.startswith(_PREFIXES))
            and name not in _MISLEADING
            and not name.startswith(_NEVER)
        )
    }
