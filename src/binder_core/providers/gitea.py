"""Gitea and Forgejo servers: Codeberg, and any other.

Source: https://docs.gitea.com/api/1.22/#tag/repository/operation/repoGetAllCommits
"""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec

from binder_core.plugin import Asks, Display, Spec, http_get
from binder_core.providers import _service, _text
from binder_core.providers._pasted import join
from binder_core.providers._userrepo import UserRepo


class _Commit(msgspec.Struct):
    sha: str


class GiteaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which server it is."""

    host: str = "codeberg.org"
    """The server."""
    name: str = ""
    """What people call it; by default ``Codeberg``, or the host."""


class Gitea(UserRepo):
    """Repositories of a Gitea or Forgejo: ``user/repo/ref``."""

    Settings: ClassVar[type[msgspec.Struct]] = GiteaSettings

    def __init__(self, prefix: str, settings: GiteaSettings) -> None:
        host = settings.host.lower()
        name = settings.name or ("Codeberg" if host == "codeberg.org" else host)
        page = rf"^https://{re.escape(host)}/(?<repo>[^/]+/[^/]+)"
        display = Display(
            name=name,
            repo_label=f"{name} repository name or URL",
            repo_placeholder=f"example: https://{host}/user/repo",
            spec_regex=r"[^/]+/[^/]+/.+",
            url_regexes=(page + r"(/src/(branch|tag|commit)/(?<ref>[^/]+)(/(?<filepath>.+))?)?$",),
        )
        super().__init__(prefix, host, display)

    def ask(self, repo: str, ref: str) -> Asks[str | None]:
        """Ask for the commit of a ref: the first of the list that starts there."""
        # Without a ref it starts at the default branch.
        start = "" if ref == "HEAD" else f"sha={_text.escape(ref)}&"
        reply = yield from http_get(
            f"https://{self.host}/api/v1/repos/{repo}/commits"
            f"?{start}limit=1&stat=false&verification=false&files=false"
        )
        # 409: the repository is empty.
        if reply.status in {404, 409, 422}:
            return None
        commits = _service.read(self.name, reply, list[_Commit])
        return _service.commit(self.name, commits[0].sha) if commits else None

    def ref_url(self, repo_url: str, ref: str) -> str:
        """Return the page that shows a commit's files."""
        return f"{repo_url}/src/commit/{ref}"

    def slug(self, spec: Spec) -> str:
        """Return the slug; the host is part of it, there are many."""
        return f"{self.host}-{super().slug(spec)}"

    def where(self, steps: tuple[str, ...]) -> tuple[str, str]:
        """Return the ref and the path that a page of a repository shows."""
        match steps:
            case ("src" | "raw" | "blame" | "media", "branch" | "tag" | "commit", ref, *path):
                return ref, join(tuple(path))
            case _:
                return super().where(steps)
