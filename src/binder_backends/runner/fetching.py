"""Fetches a repository.

What a user typed reaches git behind ``--``, allowed schemes only (CVE-2021-39159); git sees neither
the machine's nor the user's configuration and credentials, and runs no hooks (CVE-2024-32002).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from binder_backends.runner.options import LocalRecipe
from binder_backends.runner.recipes import (
    Breath,
    RecipeFailed,
    Say,
    Step,
    StepResult,
    Todo,
    must,
    run_step,
)
from binder_backends.runner.text import strip_userinfo
from binder_core.plugin import Phase

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF: Final = re.compile(r"[^-\x00-\x20\x7f~^:?*\[\\][^\x00-\x20\x7f~^:?*\[\\]*")
_SCHEMES: Final = ("http", "https", "git", "ssh")
_SCP: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:(?!/)\S+")
_DEAD: Final = 120
"""Seconds in which a host that works has sent something."""
_NOT_FOR_GIT: Final = ("UV_", "PIP_")
_SAFE: Final = (
    ("core.hooksPath", os.devnull),
    ("core.fsmonitor", "false"),
    ("core.askPass", ""),
    ("credential.helper", ""),
    ("advice.detachedHead", "false"),
    ("init.defaultBranch", "main"),
)


def fetch(recipe: LocalRecipe, repo: Path, home: Path) -> Generator[Todo, StepResult | None, None]:
    """Put the repository into the folder `repo`.

    Args:
        recipe: What to fetch.
        repo: Where to; its parent exists.
        home: An empty folder, for git to take as the user's.

    Raises:
        RecipeFailed: That did not work.
    """
    match recipe.content_provider:
        case "Git":
            yield from _git(recipe, repo, home)
        case "Local":
            yield from _directory(recipe, repo)
        case other:
            raise RecipeFailed(
                f"The local backend fetches with git, and cannot fetch what {other} keeps."
                ' The docker backend (builder = "docker") can build this repository.'
            )


def _git(recipe: LocalRecipe, repo: Path, home: Path) -> Generator[Todo, StepResult | None, None]:
    url, ref = recipe.repo_url, recipe.ref or "HEAD"
    _check_url(url, file_allowed=recipe.allow_directories)
    if not _REF.fullmatch(ref):
        raise RecipeFailed(f"{ref[:80]!r} is no name of a commit, branch or tag.")
    shown = strip_userinfo(url)
    env = git_environment(os.environ, url, home, file_allowed=recipe.allow_directories)

    def git(what: str, *arguments: str) -> Step:
        safe = [word for key, value in _SAFE for word in ("-c", f"{key}={value}")]
        argv = (recipe.git, *safe, *arguments)
        return Step(what, argv, Phase.FETCHING, cwd=str(repo), env=env)

    repo.mkdir()
    yield Say(f"Fetching {shown} at {ref}", Phase.FETCHING)
    what = f"Fetching {shown}"
    yield from must(git(what, "init", "--quiet"))
    plain = _without_userinfo(url)
    yield from must(git(what, "remote", "add", "--", "origin", plain))
    fetch = git(what, "fetch", "--progress", "--depth=1", "--no-tags", "--", plain, ref)
    result = yield from run_step(fetch)
    if result.status and _COMMIT.fullmatch(ref):
        # Not every server hands out a commit by its name, or a part of the history.
        yield Say("The server does not give this commit alone; fetching all", Phase.FETCHING)
        yield from must(
            git(what, "fetch", "--progress", "--tags", "--", plain, "+refs/*:refs/remotes/origin/*")
        )
        checkout = git(f"Checking out {ref}", "checkout", "--quiet", "--detach", ref)
        yield from must(checkout, f"The repository has no commit {ref}.")
    elif result.status:
        raise result.failure()
    else:
        checkout = git(f"Checking out {ref}", "checkout", "--quiet", "--detach", "FETCH_HEAD")
        yield from must(checkout)
    if (repo / ".gitmodules").is_file():
        yield Say("Fetching submodules", Phase.FETCHING)
        update = ("submodule", "update", "--init", "--recursive")
        result = yield from run_step(git("Fetching submodules", *update, "--depth=1"))
        if result.status:
            yield from must(git("Fetching submodules", *update))
    yield from must(git("Looking at the commit", "log", "-1", "--format=HEAD is now at %h %s"))


def git_environment(
    ours: Mapping[str, str], url: str, home: Path, *, file_allowed: bool
) -> dict[str, str]:
    """Return the environment that git gets.

    Args:
        ours: The runner's own, which holds no secrets of the server.
        url: What is fetched; credentials in it are handed on here, where no other user can read
            them, and not in the arguments.
        home: An empty folder.
        file_allowed: Whether git may fetch from a directory.
    """
    env = {key: value for key, value in ours.items() if not key.startswith(_NOT_FOR_GIT)}
    env |= {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": ":".join((*_SCHEMES, *(("file",) if file_allowed else ()))),
        "GIT_SSH_COMMAND": (
            "ssh -F none -oBatchMode=yes -oIdentityFile=none -oIdentityAgent=none"
            f" -oStrictHostKeyChecking=accept-new -oUserKnownHostsFile={os.devnull}"
            f" -oConnectTimeout={_DEAD} -oServerAliveInterval={_DEAD} -oServerAliveCountMax=1"
        ),
        # A host that says nothing at all is given up.
        "GIT_HTTP_LOW_SPEED_LIMIT": "1",
        "GIT_HTTP_LOW_SPEED_TIME": str(_DEAD),
    }
    plain = _without_userinfo(url)
    if plain != url:
        whole, bare = url.partition("://"), plain.partition("://")
        env |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{whole[0]}://{whole[2].partition('/')[0]}/.insteadOf",
            "GIT_CONFIG_VALUE_0": f"{bare[0]}://{bare[2].partition('/')[0]}/",
        }
    return env


def url_secrets(url: str) -> tuple[str, ...]:
    """Return the credentials in `url`: what must not be told."""
    if _without_userinfo(url) == url:
        return ()
    userinfo = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    user, _, password = userinfo.partition(":")
    return tuple(filter(None, (password or user, unquote(password or user))))


def _without_userinfo(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    userinfo, _, bare = host.rpartition("@")
    # A user alone is a name to ssh, and a token to a web server.
    if not userinfo or (scheme not in {"http", "https"} and ":" not in userinfo):
        return url
    return f"{scheme}{mark}{bare}{slash}{path}"


def _check_url(url: str, *, file_allowed: bool) -> None:
    shown = strip_userinfo(url[:200])
    if url.startswith("-") or not url.isprintable() or " " in url:
        raise RecipeFailed(f"{shown!r} is no URL of a git repository.")
    if _SCP.fullmatch(url):
        return
    scheme = url.partition("://")[0] if "://" in url else "file"
    if scheme not in _SCHEMES and not (file_allowed and scheme == "file"):
        raise RecipeFailed(
            f"{shown!r} cannot be fetched here: expected a URL with one of"
            f" {', '.join(f'{scheme}://' for scheme in _SCHEMES)}."
        )


def _directory(recipe: LocalRecipe, repo: Path) -> Iterator[Todo]:
    if not recipe.allow_directories:
        raise RecipeFailed("A directory of this machine is no repository here.")
    source = directory_of(recipe.repo_url)
    if not source.is_dir():
        raise RecipeFailed(f"{str(source)[:200]!r} is no directory of this machine.")
    yield Say(f"Copying {source}", Phase.FETCHING)
    try:
        yield from _copy(source, repo, leave_out=Path(recipe.folder).resolve())
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename else "a file"
        raise RecipeFailed(f"Copying {name} failed: {error.strerror}.") from error


def directory_of(repo_url: str) -> Path:
    """Return the directory that a path or a ``file://`` URL names."""
    if repo_url.startswith("file://"):
        return Path(unquote(urlsplit(repo_url).path))
    return Path(repo_url)


def _copy(source: Path, target: Path, *, leave_out: Path) -> Iterator[Todo]:
    target.mkdir()
    for entry in os.scandir(source):
        yield Breath()
        to = target / entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            to.symlink_to(Path(entry.path).readlink())
        elif stat.S_ISDIR(mode):
            if _is_ours_to_make(entry, leave_out):
                continue
            yield from _copy(Path(entry.path), to, leave_out=leave_out)
        elif stat.S_ISREG(mode):
            shutil.copy2(entry.path, to)
    shutil.copystat(source, target)


def _is_ours_to_make(entry: os.DirEntry[str], leave_out: Path) -> bool:
    """Return whether a folder is a virtual environment, a cache, or where the build itself is."""
    return (
        entry.name == "__pycache__"
        or (Path(entry.path) / "pyvenv.cfg").exists()
        or leave_out.is_relative_to(Path(entry.path).resolve())
    )
