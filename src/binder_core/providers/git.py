"""Any git repository, by its URL.

Source: https://git-scm.com/docs/git-ls-remote
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from binder_core.plugin import (
    Asks,
    Display,
    Pasted,
    RefNotFound,
    Resolved,
    Spec,
    SpecError,
    git_ls_remote,
)
from binder_core.providers import _service, _text
from binder_core.providers._pasted import clean, escaped_ref

_SCP: Final = re.compile(r"([\w.-]+@[\w.-]+):(?!//)(.+)")
_HOST: Final = re.compile(r"(?!-)[\w.-]+|\[[0-9a-fA-F:.]+\]")
_NOT_IN_URL: Final = re.compile(r"[ \\#]")
_MAX_PORT: Final = 65535
_PORT: Final = re.compile(r"[0-9]{1,5}")


class GitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which repositories may be asked for."""

    schemes: tuple[str, ...] = ("http", "https", "git", "ssh")
    """How they may be fetched."""
    hosts: tuple[str, ...] = ()
    """Only from these hosts; from any public one if empty."""
    name: str = "Git repository"
    """What people call it."""


class Git:
    """Any git repository: ``<URL, escaped>/<ref, escaped>``."""

    Settings: ClassVar[type[msgspec.Struct]] = GitSettings

    def __init__(self, prefix: str, settings: GitSettings) -> None:
        self.prefix = prefix
        self._settings = settings
        self._hosts = frozenset(host.lower() for host in settings.hosts)
        self.display = Display(
            name=settings.name,
            repo_label="Arbitrary git repository URL (https://git.example.org/repo)",
            repo_placeholder="example: https://git.example.org/repo",
            spec_regex=r"[^/]+/.+",
        )

    def parse(self, text: str) -> Spec:
        """Take ``<URL, escaped>/<ref, escaped>`` apart.

        ``git@host:path`` is ``ssh://git@host/path``.

        Raises:
            SpecError: It has another form, or a scheme or host that is not allowed.
        """
        whole = _text.whole(text)
        first, *rest = whole.split(1)
        url = self._url(first)
        if not rest or not str(rest[0]):
            raise whole.error(
                f'A ref is missing. Did you mean "{first}/HEAD"?', (first.end, len(text))
            )
        return Spec(self.prefix, url, _text.ref(rest[0]))

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return f"{_text.escape(spec.repo)}/{escaped_ref(spec.ref)}"

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Ask the repository for the commit of the ref, unless it is one.

        Raises:
            RefNotFound: There is no such repository or ref.
            ProviderUnavailable: Nobody said.
        """
        if _text.COMMIT.fullmatch(spec.ref):
            return self.pinned(spec, spec.ref.lower())
        # An annotated tag is an object of its own; what it stands for is listed as "<tag>^{}".
        patterns = [spec.ref, f"{spec.ref}^{{}}"]
        if spec.ref in _text.HEADS:
            patterns.append("HEAD")
        refs = (yield from git_ls_remote(spec.repo, *patterns)).refs
        # A pattern also matches the end of a longer name ("main" that of "refs/heads/x/main").
        for full in (
            spec.ref,
            f"refs/heads/{spec.ref}",
            f"refs/tags/{spec.ref}^{{}}",
            f"refs/tags/{spec.ref}",
        ):
            if commit := refs.get(full):
                return self.pinned(spec, _service.commit(self._name(spec), commit))
        if spec.ref in _text.HEADS and (commit := refs.get("HEAD")):
            found = self.pinned(spec, _service.commit(self._name(spec), commit))
            return replace(found, notice=_service.dead_branch(spec.repo, spec.ref))
        raise RefNotFound(
            f'The repository {spec.repo} has no branch or tag "{spec.ref}". '
            "A commit has to be given by its whole name of 40 digits."
        )

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to the commit `ref`."""
        return Resolved(
            provider=self.prefix,
            spec=f"{_text.escape(spec.repo)}/{ref}",
            repo_url=spec.repo,
            ref=ref,
            # How an unknown server shows a commit is unknown.
            ref_url=spec.repo,
            slug=spec.repo,
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what a URL means that can only be a git repository's."""
        url = clean(url)
        is_git = url.startswith(("git://", "ssh://")) or _SCP.fullmatch(url)
        if not is_git and not url.rstrip("/").endswith(".git"):
            return None
        text = f"{_text.escape(url.rstrip('/'))}/HEAD"
        try:
            self.parse(text)
        except SpecError:
            return None
        return Pasted(text)

    def _name(self, spec: Spec) -> str:
        return f"The repository {spec.repo}"

    def _url(self, part: _text.Part) -> str:
        url = _text.unescaped(part, "the URL")
        if scp := _SCP.fullmatch(url):
            url = f"ssh://{scp[1]}/{scp[2]}"
        try:
            parts = urlsplit(url)
        except ValueError:
            raise part.error("The URL of the repository is malformed.") from None
        schemes = self._settings.schemes
        if str(part).endswith(":"):
            raise part.error(
                "The slashes in the URL of the repository have to be escaped: "
                '"https%3A%2F%2Fhost%2Frepo/HEAD".'
            )
        if parts.scheme not in schemes:
            told = f"{parts.scheme} is none of them" if parts.scheme else "it names none"
            raise part.error(f"The repository's URL starts with {', '.join(schemes)}; {told}.")
        if problem := self._problem(parts):
            raise part.error(problem)
        return url

    def _problem(self, parts: SplitResult) -> str:
        """Return what is wrong with a URL, empty if nothing is."""
        user, at, rest = parts.netloc.rpartition("@")
        host, port = rest, ""
        if ":" in rest.rpartition("]")[2]:
            host, _, port = rest.rpartition(":")
        # In this order: the first that holds is told.
        problems = {
            "The URL of a repository holds no space, backslash or #.": bool(
                _NOT_IN_URL.search(parts.geturl())
            ),
            # It would end up in logs, events and image names.
            "No user name, password or token belongs into the URL of a repository.": bool(at)
            and (parts.scheme != "ssh" or ":" in user),
            "The user name in the URL is missing or starts with a dash.": bool(at)
            and (not user or user.startswith("-")),
            "The URL names no host, or one that is malformed.": not _HOST.fullmatch(host),
            "The port in the URL is no number up to 65535.": port != ""
            and not (_PORT.fullmatch(port) and int(port) <= _MAX_PORT),
            f"Repositories of {host} are not allowed here.": bool(self._hosts)
            and host.lower() not in self._hosts,
            "The URL names a host but no repository on it.": not parts.path.strip("/"),
        }
        if parts.scheme == "file":
            return "A file URL names no host: file:///path." if parts.netloc else ""
        return next((told for told, holds in problems.items() if holds), "")
