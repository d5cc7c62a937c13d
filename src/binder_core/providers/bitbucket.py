"""Bitbucket Cloud.

Source: https://developer.atlassian.com/cloud/bitbucket/rest/api-group-commits/
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from binder_core.plugin import Asks, Display, HttpReply, Spec, http_get
from binder_core.providers import _service, _text
from binder_core.providers._pasted import join
from binder_core.providers._userrepo import UserRepo

_GONE = frozenset({403, 404})
"""What it says of what is not there, or not public."""


class _Commit(msgspec.Struct):
    hash: str


class _Commits(msgspec.Struct):
    values: list[_Commit]


class _Branch(msgspec.Struct):
    name: str


class _Repository(msgspec.Struct):
    mainbranch: _Branch | None = None


class BitbucketSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What it is called."""

    name: str = "Bitbucket"
    """What people call it."""


class Bitbucket(UserRepo):
    """Repositories of Bitbucket Cloud: ``workspace/repo/ref``."""

    Settings: ClassVar[type[msgspec.Struct]] = BitbucketSettings

    def __init__(self, prefix: str, settings: BitbucketSettings) -> None:
        page = r"^https://bitbucket\.org/(?<repo>[^/]+/[^/]+)"
        display = Display(
            name=settings.name,
            repo_label=f"{settings.name} repository name or URL",
            repo_placeholder="example: https://bitbucket.org/workspace/repo",
            spec_regex=r"[^/]+/[^/]+/.+",
            url_regexes=(page + r"(/src/(?<ref>[^/]+)(/(?<filepath>.+))?)?$",),
        )
        super().__init__(prefix, "bitbucket.org", display)

    def ask(self, repo: str, ref: str) -> Asks[str | None]:
        """Ask for the commit of a ref: the first of the list that starts there."""
        base = f"https://api.bitbucket.org/2.0/repositories/{repo}"
        if ref == "HEAD":
            # It knows no HEAD, but the name of the branch that it stands for.
            reply = yield from http_get(f"{base}?fields=mainbranch.name")
            if reply.status in _GONE:
                return None
            main = _service.read(self.name, reply, _Repository).mainbranch
            if main is None:
                return None
            ref = main.name
        reply = yield from http_get(
            f"{base}/commits?include={_text.escape(ref)}&pagelen=1&fields=values.hash"
        )
        return self._first(reply)

    def ref_url(self, repo_url: str, ref: str) -> str:
        """Return the page that shows a commit's files."""
        return f"{repo_url}/src/{ref}"

    def slug(self, spec: Spec) -> str:
        """Return the slug; the host is part of it, so that it is none of another service."""
        return f"{self.host}-{super().slug(spec)}"

    def where(self, steps: tuple[str, ...]) -> tuple[str, str]:
        """Return the ref and the path that a page of a repository shows."""
        match steps:
            case ("src" | "raw" | "annotate", ref, *path):
                return ref, join(tuple(path))
            case ("branch", ref) | ("commits", "tag" | "branch", ref) | ("commits", ref):
                return ref, ""
            case _:
                return "HEAD", ""

    def _first(self, reply: HttpReply) -> str | None:
        if reply.status in _GONE:
            return None
        commits = _service.read(self.name, reply, _Commits).values
        return _service.commit(self.name, commits[0].hash) if commits else None
