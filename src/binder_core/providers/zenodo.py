"""Zenodo, and what else looks like it.

Source: https://help.zenodo.org/docs/deposit/describe-records/reserve-doi/
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import msgspec

from binder_core.plugin import (
    Asks,
    Pasted,
    ProviderUnavailable,
    Resolved,
    Spec,
    SpecError,
)
from binder_core.providers import _doi
from binder_core.providers._pasted import take_apart

_EXAMPLE: Final = "10.5281/zenodo.3242074"
_DOI: Final = re.compile(r"(10\.[0-9.]+/zenodo\.)[0-9]+")
_RECORD: Final = re.compile(r"[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*")


class ZenodoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where records are."""

    hosts: tuple[str, ...] = ("zenodo.org", "*.zenodo.org", "data.caltech.edu")
    """Where a DOI may lead."""
    name: str = "Zenodo DOI"
    """What people call it."""


class Zenodo:
    """Records of Zenodo, by their DOI. The DOI of all versions means the newest one."""

    Settings: ClassVar[type[msgspec.Struct]] = ZenodoSettings

    def __init__(self, prefix: str, settings: ZenodoSettings) -> None:
        self.prefix = prefix
        self._settings = settings
        self.display = _doi.display(
            settings.name, _EXAMPLE, r"^https://doi\.org/(?<repo>10\.\d+/zenodo\.\d+)$"
        )

    def parse(self, text: str) -> Spec:
        """Return the spec that is a DOI.

        Raises:
            SpecError: It is none.
        """
        return _doi.parse(self.prefix, text, _EXAMPLE)

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return spec.repo

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Follow the DOI to its record.

        Raises:
            RefNotFound: There is no such DOI.
            ProviderUnavailable: Nobody said, or it leads to no record.
        """
        where = yield from _doi.follow("Zenodo", spec.repo, self._settings.hosts)
        record = where.path.rstrip("/").rpartition("/")[2]
        if not _RECORD.fullmatch(record):
            raise ProviderUnavailable(
                f"The DOI {spec.repo} leads to a page of {where.hostname} that is no record."
            )
        return self.pinned(spec, record)

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to the record `ref`."""
        # The DOI of all versions is replaced by that of the version.
        doi = _DOI.fullmatch(spec.repo)
        version = f"{doi[1]}{ref}" if doi else spec.repo
        return Resolved(
            provider=self.prefix,
            spec=version,
            repo_url=version,
            ref=ref,
            ref_url=f"https://doi.org/{version}",
            slug=f"zenodo-{ref}",
            content_provider="Zenodo",
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a DOI or a record means."""
        pasted = take_apart(url)
        if pasted is None:
            return None
        doi = _doi.pasted_doi(pasted)
        if pasted.host == "zenodo.org":
            match pasted.steps:
                case ("record" | "records", number, *_) if number.isascii() and number.isdigit():
                    doi = f"10.5281/zenodo.{number}"
                case ("doi", *steps):
                    doi = "/".join(steps)
        try:
            return Pasted(self.parse(doi).repo) if _DOI.fullmatch(doi) else None
        except SpecError:
            return None
