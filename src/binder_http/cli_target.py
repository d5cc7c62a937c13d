"""What a person typed behind ``binder launch``: a spec, a pasted URL or a folder."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import click

from binder_core.errors import SpecError
from binder_core.plugin import Provider
from binder_core.providers import recognise
from binder_core.providers.directory import spec_text

LEFT_OUT: Final = frozenset({".git", ".hg", ".svn", "__pycache__", ".ipynb_checkpoints"})
"""Names that do not belong to what a folder holds: a change in them is none. Nor do virtual
environments, whatever their names."""

_LINK: Final = re.compile(r"/v2/([a-z0-9]+/[^?#]+)")
_FOLDER: Final = re.compile(r"\.{0,2}/|~|\.{1,2}$")
_SCP: Final = re.compile(r"[\w.-]+@[\w.-]+:")


@dataclass(frozen=True, slots=True)
class Target:
    """What to launch."""

    spec: str
    """``<provider>/<spec>``; empty for a folder: see `folder_spec`."""
    path: str = ""
    """The file that a pasted URL showed."""
    folder: Path | None = None
    """A folder of this machine, absolute."""


def read_target(text: str, providers: Mapping[str, Provider], *, ours: bool) -> Target:
    """Return what `text` means.

    Args:
        text: What was typed.
        providers: Those that read pasted URLs.
        ours: Whether these are all there are, and the spec will be read by them: then it is
            checked here.

    Raises:
        click.UsageError: It means nothing; it says what to try.
    """
    if _FOLDER.match(text) or text.startswith("file://"):
        return _folder(text)
    prefix, _, rest = text.partition("/")
    if prefix in providers and rest:
        return Target(f"{prefix}/{_checked(rest, providers[prefix]) if ours else rest}")
    if "://" in text or _SCP.match(text) or "." in prefix:
        return _pasted(text, providers)
    if text and Path(text).is_dir():
        return _folder(text)
    if ours or not rest:
        raise _nothing(text, providers)
    return Target(text)


def _checked(rest: str, provider: Provider) -> str:
    rest = rest.removesuffix("/")
    try:
        provider.parse(rest)
    except SpecError as error:
        raise click.UsageError(str(error)) from None
    return rest


def _pasted(text: str, providers: Mapping[str, Provider]) -> Target:
    if found := recognise(text, providers.values()):
        provider, pasted = found
        return Target(f"{provider.prefix}/{pasted.spec}", pasted.path)
    # A launch link of a Binder, as badges have it.
    if (link := _LINK.search(text)) and link[1].partition("/")[0] in providers:
        return Target(link[1].rstrip("/"))
    raise click.UsageError(
        f"No provider here knows the URL {text!r}. If it is a git repository, try:\n"
        f"    git/{quote(text, safe='')}/HEAD"
    )


def _nothing(text: str, providers: Mapping[str, Provider]) -> click.UsageError:
    prefix, _, rest = text.partition("/")
    if prefix in providers:
        example = providers[prefix].display.repo_placeholder
        return click.UsageError(f"Behind {prefix}/ stands a repository ({example}) and a ref.")
    known = ", ".join(sorted(providers))
    if near := difflib.get_close_matches(prefix, providers, n=1):
        hint = f"did you mean {near[0]}/{rest}?"
    elif rest and "gh" in providers:
        ref = "" if rest.count("/") else "/HEAD"
        hint = f"for a repository on GitHub: gh/{text}{ref}. Providers: {known}."
    else:
        hint = f"expected <provider>/<spec>, a URL or a folder. Providers: {known}."
    return click.UsageError(f"There is no provider {prefix!r} and no such folder; {hint}")


# -- Folders --------------------------------------------------------------------------------------


def _folder(text: str) -> Target:
    path = Path(unquote(urlsplit(text).path) if text.startswith("file://") else text)
    try:
        path = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise click.UsageError(f"{text}: there is no such folder ({_why(error)})") from None
    if not path.is_dir():
        raise click.UsageError(f"{text}: a folder is expected, this is a file")
    return Target("", folder=path)


def folder_spec(folder: Path) -> str:
    """Return the spec of a folder as it is now.

    Raises:
        click.UsageError: Not all of it can be read, or its path cannot be told in a spec.
    """
    try:
        return spec_text(str(folder), fingerprint(folder))
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {_why(error)}") from None
    except (SpecError, UnicodeEncodeError) as error:
        raise click.UsageError(f"The folder's path cannot be used: {error}") from None


def fingerprint(folder: Path) -> str:
    """Return 64 hexadecimal digits that change when something in the folder does.

    Paths, sizes, times and modes are looked at, not what the files hold.

    Raises:
        OSError: A part of it cannot be read.
    """
    digest = hashlib.sha256()
    for name, facts in _walk(folder, ""):
        digest.update(os.fsencode(f"{name}\0{facts}\0"))
    return digest.hexdigest()


def _walk(folder: Path, above: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in LEFT_OUT:
            continue
        name = f"{above}{entry.name}"
        status = entry.stat(follow_symlinks=False)
        mode = stat.S_IMODE(status.st_mode)
        if entry.is_symlink():
            yield name, f"-> {Path(entry.path).readlink()}"
        elif stat.S_ISDIR(status.st_mode):
            if Path(entry.path, "pyvenv.cfg").exists():
                continue
            # Not its time: that changes when something left out comes or goes.
            yield name, f"{mode:o}/"
            yield from _walk(Path(entry.path), f"{name}/")
        elif stat.S_ISREG(status.st_mode):
            yield name, f"{mode:o} {status.st_size} {status.st_mtime_ns}"


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
