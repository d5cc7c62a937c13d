"""Software Heritage: what was archived of any repository, by its persistent identifier.

Sources: https://docs.softwareheritage.org/devel/swh-model/persistent-identifiers.html,
https://archive.softwareheritage.org/api/1/
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import msgspec

from binder_core.plugin import (
    Asks,
    Display,
    HttpReply,
    Pasted,
    RefNotFound,
    Resolved,
    Spec,
    SpecError,
    http_get,
)
from binder_core.providers import _service, _text
from binder_core.providers._pasted import clean, take_apart

_ID: Final = re.compile(r"(swh:1:(?:cnt|dir|rev|rel|snp):[0-9a-f]{40})(?:;.*)?")
_KINDS: Final = {
    "directory": "dir",
    "release": "rel",
    "revision": "rev",
    "snapshot": "snp",
}
"""The kinds of objects by their names in the API, and in identifiers."""
_MOST_STEPS: Final = 10
_EXAMPLE: Final = "swh:1:rev:94dca98c006b80309704c717b5d83dff3c1fa3a0"


class _Revision(msgspec.Struct):
    directory: str


class _Release(msgspec.Struct):
    target: str
    target_type: str


class _Snapshot(msgspec.Struct):
    branches: dict[str, _Release | None]


class SoftwareHeritageSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """Which archive it is."""

    host: str = "archive.softwareheritage.org"
    """The archive, or a mirror."""
    name: str = "Software Heritage"
    """What people call it."""


class SoftwareHeritage:
    """Archived directories, revisions, releases and snapshots: ``swh:1:<kind>:<40 digits>``.

    Whatever is named, it comes to a directory: that is what a builder fetches.
    """

    Settings: ClassVar[type[msgspec.Struct]] = SoftwareHeritageSettings

    def __init__(self, prefix: str, settings: SoftwareHeritageSettings) -> None:
        self.prefix = prefix
        self.name = settings.name
        self._host = settings.host.lower()
        self.display = Display(
            name=settings.name,
            repo_label="Software Heritage identifier (SWHID) or URL",
            repo_placeholder=f"example: {_EXAMPLE}",
            ref_enabled=False,
            spec_regex=r"swh:1:(dir|rev|rel|snp):[0-9a-f]{40}.*",
            url_regexes=(
                rf"^https://{re.escape(self._host)}/(?<repo>swh:1:(dir|rev|rel|snp):[0-9a-f]{{40}})",
            ),
        )

    def parse(self, text: str) -> Spec:
        """Return the spec that is an identifier; what qualifies it is left out.

        Raises:
            SpecError: It is none, or that of a single file.
        """
        whole = _text.whole(text)
        found = _ID.fullmatch(_text.unescaped(whole, "the identifier"))
        if found is None:
            raise whole.error(
                "The spec is no identifier of Software Heritage (SWHID, version 1), such as "
                f'"{_EXAMPLE}".'
            )
        if ":cnt:" in found[1]:
            raise whole.error("The identifier is that of a file (cnt), not of a repository.")
        return Spec(self.prefix, found[1], "")

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return spec.repo

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Ask for what the identifier stands for, until that is a directory.

        Raises:
            RefNotFound: It is not in the archive, or comes to no directory.
            ProviderUnavailable: The archive did not say.
        """
        _, _, kind, digits = spec.repo.split(":")
        for _ in range(_MOST_STEPS):
            if kind == "rev":
                reply = yield from self._get(f"revision/{digits}", spec)
                directory = _service.read(self.name, reply, _Revision).directory
                return self.pinned(spec, _service.commit(self.name, directory))
            if kind == "dir":
                yield from self._get(f"resolve/swh:1:dir:{digits}", spec)
                return self.pinned(spec, digits)
            if kind == "rel":
                reply = yield from self._get(f"release/{digits}", spec)
                target = _service.read(self.name, reply, _Release)
            else:
                reply = yield from self._get(f"snapshot/{digits}", spec)
                target = self._head(_service.read(self.name, reply, _Snapshot), spec)
            kind = _KINDS.get(target.target_type, "")
            digits = _service.commit(self.name, target.target)
            if not kind:
                break
        raise RefNotFound(f"{spec.repo} comes to no directory: there is nothing to launch.")

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to the directory `ref`."""
        del spec  # the directory is all that counts
        identifier = f"swh:1:dir:{ref}"
        return Resolved(
            provider=self.prefix,
            spec=identifier,
            repo_url=identifier,
            ref=ref,
            ref_url=f"https://{self._host}/{identifier}",
            slug=f"swh-{ref}",
            content_provider="Swhid",
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what an identifier, or the URL of a page about it, means."""
        url = clean(url)
        if url.startswith("swh:"):
            return self._pasted(url)
        pasted = take_apart(url)
        if pasted is None or pasted.host != self._host:
            return None
        match pasted.steps:
            case (identifier, *rest) if identifier.startswith("swh:"):
                # The path in a qualifier has slashes of its own.
                return self._pasted("/".join((identifier, *rest)))
            case ("browse", kind, digits, *_) if kind in _KINDS:
                path = pasted.query.get("path", "")
                return self._pasted(f"swh:1:{_KINDS[kind]}:{digits};path={path}")
            case _:
                return None

    def _pasted(self, text: str) -> Pasted | None:
        try:
            spec = self.parse(_text.escape(text))
        except SpecError:
            return None
        path = re.search(r";path=([^;]*)", text)
        return Pasted(spec.repo, path[1].strip("/") if path else "")

    def _get(self, what: str, spec: Spec) -> Asks[HttpReply]:
        reply = yield from http_get(f"https://{self._host}/api/1/{what}/")
        if reply.status == 404:
            raise RefNotFound(
                f"{self.name} has not archived {spec.repo}. Check the identifier, or ask for the "
                "repository to be archived."
            )
        if reply.status != 200:
            raise _service.unavailable(self.name, reply)
        return reply

    def _head(self, snapshot: _Snapshot, spec: Spec) -> _Release:
        branch = snapshot.branches.get("HEAD")
        # An alias names another branch.
        if branch is not None and branch.target_type == "alias":
            branch = snapshot.branches.get(branch.target)
        if branch is None or branch.target_type == "alias":
            raise RefNotFound(f"The snapshot {spec.repo} has no HEAD: name one of its revisions.")
        return branch
