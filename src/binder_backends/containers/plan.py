"""From settings and a request to what a build container runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

from binder_backends.containers.settings import BuildSettings, GitCredential, byte_size
from binder_backends.runner import CommandRecipe, EngineOptions, PushOptions, RunnerOptions
from binder_core.plugin import BackendUnavailable, BuildFailed, BuildRequest

FOLDER: Final = "/etc/binderkit"
"""Where the files are in the container; nobody else's files are there."""
STOP_FILE: Final = "/tmp/binderkit-stop"  # noqa: S108 - in a container of our own
"""Where whoever ends the build writes why."""
_BUILDX_FOLDER: Final = "/tmp/binderkit-buildx"  # noqa: S108 - in a container of our own
LABEL: Final = "io.binderkit"
"""What our labels begin with."""

_OPTIONS: Final = f"{FOLDER}/options.json"
_R2D_CONFIG: Final = f"{FOLDER}/repo2docker_config.py"
_GIT_CONFIG: Final = f"{FOLDER}/gitconfig"
_GIT_CREDENTIALS: Final = f"{FOLDER}/git-credentials"
_DOCKER_CONFIG: Final = f"{FOLDER}/config.json"
_PROVIDER: Final = re.compile(r"[A-Za-z]{1,40}")
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")
_TOKEN_LENGTH: Final = 20


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a build container runs."""

    argv: tuple[str, ...]
    """The command; there is no secret in it."""
    env: Mapping[str, str]
    """Environment variables; there is no secret among them."""
    labels: Mapping[str, str]
    """Of the container; there is no secret among them."""
    files: Mapping[str, bytes] = field(repr=False)
    """Files that must be there before the start, by path, all in `FOLDER`: readable for root
    alone, and brought in a way that no listing shows."""
    stop_file: str = STOP_FILE
    """Where the reason goes when the build is stopped, before the signal."""


def plan_build(
    settings: BuildSettings,
    request: BuildRequest,
    *,
    push_config: bytes = b"",
    engine: EngineOptions = EngineOptions(),  # noqa: B008 - it never changes
) -> BuildPlan:
    """Return what a container runs to build what `request` names.

    Args:
        settings: The operator's.
        request: What to build.
        push_config: A Docker ``config.json`` with the login of the image's registry; empty: none
            is needed.
        engine: The engine that builds, as the container reaches it.

    Raises:
        BuildFailed: Nobody can build this.
        BackendUnavailable: The operator's settings name a file that cannot be read.
    """
    url, credentials = _git_credentials(settings, request.repo_url)
    for name, text in (("repository", url), ("ref", request.ref)):
        # Behind "--" or "=" it would be no option either; git has other ways to take it for one.
        if not text or text.startswith("-") or _CONTROL.search(text):
            raise BuildFailed(f"The {name} {text[:100]!r} cannot be fetched: it is no {name}.")
    pushes_itself = settings.push and not settings.runner
    files = {
        # Where buildx pushes by itself it must not be told to load as well.
        _R2D_CONFIG: _repo2docker_config(request.content_provider, load=not pushes_itself),
        _GIT_CONFIG: _GIT_CONFIG_TEXT.encode(),
        _GIT_CREDENTIALS: "".join(f"{line}\n" for line in credentials).encode(),
    }
    env = {
        "GIT_CONFIG_GLOBAL": _GIT_CONFIG,
        "GIT_TERMINAL_PROMPT": "0",
        "PYTHONUNBUFFERED": "1",
        **settings.environment,
    }
    env["DOCKER_HOST"] = engine.host
    if engine.certs:
        env |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": engine.certs}
    push = settings.push
    if push and push_config:
        files[_DOCKER_CONFIG] = push_config
    if pushes_itself and push_config:
        # The folder may be read-only, and buildx keeps its state below it.
        env |= {"DOCKER_CONFIG": FOLDER, "BUILDX_CONFIG": _BUILDX_FOLDER}
    command = _command(settings, request, url, push=pushes_itself)
    if settings.runner:
        options = RunnerOptions(
            CommandRecipe(
                command,
                engine=engine,
                push=PushOptions(
                    image=request.image, config_file=_DOCKER_CONFIG if push_config else ""
                )
                if push
                else None,
                memory_limit=byte_size(settings.memory_limit),
            ),
            time_limit=settings.build_timeout,
            silence_limit=settings.silence_timeout,
            log_cap_bytes=settings.log_cap_bytes,
            secrets=_secrets(credentials),
            stop_file=STOP_FILE,
        )
        files[_OPTIONS] = msgspec.json.encode(options)
        command = ("python3", "-m", "binder_backends.runner", "--options", _OPTIONS)
    labels = {
        f"{LABEL}.build": request.name,
        f"{LABEL}.image": request.image,
        f"{LABEL}.repo": url,
        f"{LABEL}.ref": request.ref,
        f"{LABEL}.runner": "yes" if settings.runner else "no",
    }
    return BuildPlan(command, env, labels, files)


def _command(
    settings: BuildSettings, request: BuildRequest, url: str, *, push: bool
) -> tuple[str, ...]:
    # Not the label of build containers: what is started from the image inherits its labels.
    labels = {f"{LABEL}.built-by": request.name, **settings.labels}
    return (
        *settings.repo2docker,
        f"--config={_R2D_CONFIG}",
        f"--ref={request.ref}",
        f"--image-name={request.image}",
        f"--user-id={settings.user_id}",
        f"--user-name={settings.user_name}",
        "--no-run",
        "--json-logs",
        *(("--push",) if push else ()),
        *(f"--label={name}={value}" for name, value in labels.items()),
        *settings.extra_args,
        "--",
        url,
    )


def _repo2docker_config(content_provider: str, *, load: bool) -> bytes:
    if not _PROVIDER.fullmatch(content_provider):
        raise BuildFailed(f"There is no content provider {content_provider[:100]!r}.")
    return f"""\
from repo2docker import contentproviders
from repo2docker.docker import DockerEngine

# The others would be asked first whether they know the repository, some of them over the network.
_provider = getattr(contentproviders, {content_provider!r}, None)
if _provider is None:
    raise SystemExit("This repo2docker is too old: it cannot fetch from {content_provider}.")
c.Repo2Docker.content_providers = [_provider]
if {load} and hasattr(DockerEngine, "extra_buildx_build_args"):
    # Into the engine, whichever of its builders is the default.
    c.DockerEngine.extra_buildx_build_args = ["--load"]
""".encode()


# Git may read the credentials. It would also write those that worked, and the folder may be
# read-only.
_GIT_HELPER: Final = (
    r"!f() { test \"$1\" = get && git credential-store"
    f" --file={_GIT_CREDENTIALS} get; "
    "}; f"
)
_GIT_CONFIG_TEXT: Final = f"""\
[credential]
\thelper =
\thelper = "{_GIT_HELPER}"
[protocol]
\tallow = never
[protocol "http"]
\tallow = always
[protocol "https"]
\tallow = always
[protocol "git"]
\tallow = always
[protocol "ssh"]
\tallow = always
[core]
\thooksPath = /dev/null
[advice]
\tdetachedHead = false
"""
# Neither another program (ext::, CVE-2021-39159) nor the files of this container are repositories,
# those of submodules included.


def _git_credentials(settings: BuildSettings, repo_url: str) -> tuple[str, list[str]]:
    """Return the URL without who asks, and the lines of git's credential store."""
    lines = []
    for host, who in settings.credentials().items():
        user, password = quote(who.user, safe=""), quote(_password(host, who), safe="")
        # Unencrypted only where the operator says so: "http://git.example.org".
        scheme, _, name = host.rpartition("://")
        lines.append(f"{scheme or 'https'}://{user}:{password}@{name}")
    parts = urlsplit(repo_url) if "://" in repo_url else None
    if parts is None or parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return repo_url, lines
    # Somebody's own credentials, as a part of the URL: they go where the others are.
    userinfo, _, host = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    user, password = (quote(unquote(part), safe="") for part in (user, password))
    lines.insert(0, f"{parts.scheme}://{user}:{password}@{host}")
    return urlunsplit(parts._replace(netloc=host)), lines


def _password(host: str, who: GitCredential) -> str:
    if not who.password_file:
        return who.password
    try:
        return Path(who.password_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BackendUnavailable(
            f"The git credentials for {host} cannot be read from their password_file: {said}."
        ) from error


def _secrets(credentials: list[str]) -> tuple[str, ...]:
    """Return what must not be told of the lines of a credential store."""
    found: dict[str, None] = {}
    for line in credentials:
        user, _, password = line.partition("://")[2].rpartition("@")[0].partition(":")
        # Some services take the token as the user.
        token = [user] if not password or len(user) >= _TOKEN_LENGTH else []
        for secret in (password, *token):
            found |= {secret: None, unquote(secret): None}
    found.pop("", None)
    return tuple(found)
