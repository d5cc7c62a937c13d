"""Figshare.

Source: https://docs.figshare.com/#public_article_versions
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import msgspec

from binder_core.plugin import (
    Asks,
    Pasted,
    RefNotFound,
    Resolved,
    Spec,
    SpecError,
    http_get,
)
from binder_core.providers import _doi, _service
from binder_core.providers._pasted import take_apart

_EXAMPLE: Final = "10.6084/m9.figshare.9782777.v1"
_DOI: Final = re.compile(r"(.*[/.]([0-9]+))(?:\.v([0-9]+))?")


class _Version(msgspec.Struct):
    version: int


class FigshareSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which Figshare it is."""

    api: str = "https://api.figshare.com"
    """The base URL of its API."""
    name: str = "Figshare DOI"
    """What people call it."""


class Figshare:
    """Articles of Figshare, by their DOI. One without a version means the newest one."""

    Settings: ClassVar[type[msgspec.Struct]] = FigshareSettings

    def __init__(self, prefix: str, settings: FigshareSettings) -> None:
        self.prefix = prefix
        self._api = settings.api.rstrip("/")
        self.display = _doi.display(
            settings.name, _EXAMPLE, r"^https://doi\.org/(?<repo>10\.\d+/.*figshare\..+)$"
        )

    def parse(self, text: str) -> Spec:
        """Return the spec that is the DOI of an article.

        Raises:
            SpecError: It is none.
        """
        spec = _doi.parse(self.prefix, text, _EXAMPLE)
        if not _DOI.fullmatch(spec.repo):
            raise SpecError(
                "The DOI of a Figshare article ends with a number, and perhaps a version: "
                f'"{_EXAMPLE}".',
                text=text,
                span=(0, len(text)),
            )
        return spec

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return spec.repo

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Ask for the newest version, unless the DOI names one.

        Raises:
            RefNotFound: There is no such article.
            ProviderUnavailable: Figshare did not say.
        """
        _, article, version = _split(spec.repo)
        if version:
            return self.pinned(spec, f"{article}.v{version}")
        reply = yield from http_get(f"{self._api}/v2/articles/{article}/versions")
        if reply.status == 404:
            raise RefNotFound(f"Figshare has no article {article}. Check the DOI's spelling.")
        versions = _service.read("Figshare", reply, list[_Version])
        if not versions:
            raise RefNotFound(f"No version of the article {article} is published on Figshare.")
        newest = max(each.version for each in versions)
        return self.pinned(spec, f"{article}.v{newest}")

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to ``<article>.v<version>``."""
        base, _, _ = _split(spec.repo)
        doi = f"{base}.v{ref.rpartition('.v')[2]}"
        return Resolved(
            provider=self.prefix,
            spec=doi,
            repo_url=doi,
            ref=ref,
            ref_url=f"https://doi.org/{doi}",
            slug=f"figshare-{ref}",
            content_provider="Figshare",
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a DOI or an article means."""
        pasted = take_apart(url)
        if pasted is None:
            return None
        doi = _doi.pasted_doi(pasted)
        if pasted.host == "figshare.com" and pasted.steps[:1] == ("articles",):
            # articles/<kind>/<title>/<article>[/<version>]
            numbers = [step for step in pasted.steps[1:] if step.isascii() and step.isdigit()]
            doi = f"10.6084/m9.figshare.{'.v'.join(numbers[-2:])}" if numbers else ""
        try:
            return Pasted(self.parse(doi).repo) if "figshare." in doi else None
        except SpecError:
            return None


def _split(doi: str) -> tuple[str, str, str]:
    """Return a DOI without its version, the article, and the version or nothing."""
    match = _DOI.fullmatch(doi)
    if match is None:
        raise ValueError(f"{doi} is the DOI of no article")
    return match[1], match[2], match[3] or ""
