"""Gists of GitHub.

Source: https://docs.github.com/en/rest/gists/gists#get-a-gist
"""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec

from binder_core.plugin import (
    Asks,
    Display,
    Pasted,
    RefNotFound,
    Resolved,
    Spec,
    SpecError,
    http_get,
)
from binder_core.providers import _service, _text
from binder_core.providers._pasted import take_apart
from binder_core.providers.github import ACCEPT

_NEWEST = frozenset({"", "HEAD", *_text.HEADS})


class _Revision(msgspec.Struct):
    version: str


class _Gist(msgspec.Struct):
    history: list[_Revision]
    public: bool


class GistSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which GitHub it is, and which gists."""

    host: str = "gist.github.com"
    """Where people see the gists."""
    api: str = "https://api.github.com"
    """The base URL of its API."""
    allow_secret: bool = False
    """Whether secret gists may be launched by those who know their id."""
    name: str = "Gist"
    """What people call it."""


class Gist:
    """Gists: ``user/id``, and the commit of one of its revisions or nothing for the newest."""

    Settings: ClassVar[type[msgspec.Struct]] = GistSettings

    def __init__(self, prefix: str, settings: GistSettings) -> None:
        self.prefix = prefix
        self._host = settings.host.lower()
        self._api = settings.api.rstrip("/")
        self._allow_secret = settings.allow_secret
        self.display = Display(
            name=settings.name,
            repo_label="Gist ID (username/gistId) or URL",
            repo_placeholder="example: minrk/8f9b1a3c5e7d",
            ref_label="Git commit SHA",
            spec_regex=r"[^/]+/[^/]+(/[^/]+)?",
            url_regexes=(
                rf"^https://{re.escape(self._host)}/(?<repo>[^/]+/[^/]+)(/(?<ref>[^/]+))?$",
            ),
        )

    def parse(self, text: str) -> Spec:
        """Take ``user/id`` or ``user/id/ref`` apart.

        Raises:
            SpecError: It has another form.
        """
        whole = _text.whole(text)
        user, *rest = whole.split(2)
        if not rest:
            raise whole.error(
                'The spec of a gist is "user/id", or "user/id/commit".', (len(text), len(text))
            )
        owner = _text.name(user, "the user")
        gist = _text.name(rest[0], "the gist's id")
        ref = _text.ref(rest[1]) if len(rest) > 1 else ""
        if ref not in _NEWEST and not _text.COMMIT.fullmatch(ref):
            raise rest[1].error(
                "A gist has no branches: the ref is HEAD or a commit, by its 40 digits."
            )
        return Spec(self.prefix, f"{owner}/{gist}", ref)

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        user, gist = (_text.escape(step) for step in spec.repo.split("/"))
        return f"{user}/{gist}/{spec.ref}" if spec.ref else f"{user}/{gist}"

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Ask for the revisions of the gist.

        Raises:
            RefNotFound: There is no such gist or revision, or it is secret and may not be used.
            ProviderUnavailable: GitHub did not say.
        """
        gist = spec.repo.partition("/")[2]
        reply = yield from http_get(f"{self._api}/gists/{_text.escape(gist)}", headers=ACCEPT)
        if reply.status in {404, 422}:
            raise RefNotFound(f"GitHub knows no gist {gist}. Check its id.")
        told = _service.read("GitHub", reply, _Gist)
        if not told.public and not self._allow_secret:
            raise RefNotFound(
                f"The gist {gist} is secret, and only public ones may be launched here.",
                status=403,
            )
        versions = [_service.commit("GitHub", each.version) for each in told.history]
        if versions and spec.ref in _NEWEST:
            return self.pinned(spec, versions[0])
        if spec.ref.lower() in versions:
            return self.pinned(spec, spec.ref.lower())
        raise RefNotFound(f'The gist {gist} has no revision "{spec.ref or "HEAD"}".')

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to the revision `ref`."""
        user, gist = spec.repo.split("/")
        url = f"https://{self._host}/{spec.repo}"
        return Resolved(
            provider=self.prefix,
            spec=f"{_text.escape(user)}/{_text.escape(gist)}/{ref}",
            repo_url=f"{url}.git",
            ref=ref,
            ref_url=f"{url}/{ref}",
            slug=gist,
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a gist or one of its revisions means."""
        pasted = take_apart(url)
        if pasted is None or pasted.host != self._host or not 2 <= len(pasted.steps) <= 3:
            return None
        user, gist, *ref = pasted.steps
        text = "/".join((_text.escape(user), _text.escape(gist.removesuffix(".git")), *ref))
        try:
            return Pasted(self.format(self.parse(text)))
        except SpecError:
            return None
