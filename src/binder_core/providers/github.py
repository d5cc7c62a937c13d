"""GitHub, and GitHub Enterprise servers.

Source: https://docs.github.com/en/rest/commits/commits#get-a-commit
"""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec

from binder_core.plugin import Asks, Display, Pasted, http_get
from binder_core.providers import _service, _text
from binder_core.providers._pasted import take_apart
from binder_core.providers._userrepo import UserRepo

ACCEPT = {"accept": "application/vnd.github+json"}


class _Commit(msgspec.Struct):
    sha: str


class GitHubSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which GitHub it is."""

    host: str = "github.com"
    """Where people see the repositories."""
    api: str = ""
    """The base URL of its API; by default that of github.com, and ``https://<host>/api/v3``
    of a GitHub Enterprise server."""
    name: str = ""
    """What people call it; by default ``GitHub``, or the host."""


class GitHub(UserRepo):
    """Repositories of GitHub: ``user/repo/ref``."""

    Settings: ClassVar[type[msgspec.Struct]] = GitHubSettings

    def __init__(self, prefix: str, settings: GitHubSettings) -> None:
        host = settings.host.lower()
        public = host == "github.com"
        name = settings.name or ("GitHub" if public else host)
        default = "https://api.github.com" if public else f"https://{host}/api/v3"
        self._api = settings.api.rstrip("/") or default
        page = rf"^https://{re.escape(host)}/(?<repo>[^/]+/[^/]+)"
        display = Display(
            name=name,
            repo_label=f"{name} repository name or URL",
            repo_placeholder="example: binder-examples/requirements",
            spec_regex=r"[^/]+/[^/]+/.+",
            url_regexes=(
                page + r"(/blob/(?<ref>[^/]+)(/(?<filepath>.+))?)?$",
                page + r"(/tree/(?<ref>[^/]+)(/(?<urlpath>.+))?)?$",
            ),
        )
        super().__init__(prefix, host, display)

    def ask(self, repo: str, ref: str) -> Asks[str | None]:
        """Ask for the commit of a ref."""
        # The whole ref is escaped: "commits/feature/status" would be another question.
        reply = yield from http_get(
            f"{self._api}/repos/{repo}/commits/{_text.escape(ref)}", headers=ACCEPT
        )
        if reply.status in {404, 422}:
            return None
        return _service.commit(self.name, _service.read(self.name, reply, _Commit).sha)

    def ref_url(self, repo_url: str, ref: str) -> str:
        """Return the page that shows a commit's files."""
        return f"{repo_url}/tree/{ref}"

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a page, or of a raw file, means."""
        pasted = take_apart(url)
        if self.host == "github.com" and pasted and pasted.host == "raw.githubusercontent.com":
            match pasted.steps:
                case (user, repo, "refs", "heads" | "tags", *rest) | (user, repo, *rest) if rest:
                    url = "/".join((f"https://{self.host}", user, repo, "blob", *rest))
                case _:
                    return None
        return super().recognise(url)
