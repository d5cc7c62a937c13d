"""Dataverse installations.

Source: https://guides.dataverse.org/en/latest/api/native-api.html#get-json-representation-of-a-dataset
"""

from __future__ import annotations

from typing import ClassVar, Final
from urllib.parse import quote

import msgspec

from binder_core.naming import escape
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

_EXAMPLE: Final = "10.7910/DVN/TJCLKP"


class _Version(msgspec.Struct, rename="camel"):
    version_number: int
    version_minor_number: int


class _Dataset(msgspec.Struct, rename="camel"):
    id: int
    latest_version: _Version


class _Answer(msgspec.Struct):
    data: _Dataset


class DataverseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which installations may be asked."""

    hosts: tuple[str, ...] = ("*",)
    """Where a DOI may lead: any public host by default."""
    doi_prefixes: tuple[str, ...] = (
        "10.7910",
        "10.5683",
        "10.15454",
        "10.18419",
        "10.18710",
        "10.34894",
        "10.57745",
    )
    """The DOIs that are recognised as those of a Dataverse when somebody pastes their URL."""
    name: str = "Dataverse DOI"
    """What people call it."""


class Dataverse:
    """Datasets of any Dataverse, by their DOI."""

    Settings: ClassVar[type[msgspec.Struct]] = DataverseSettings

    def __init__(self, prefix: str, settings: DataverseSettings) -> None:
        self.prefix = prefix
        self._settings = settings
        self.display = _doi.display(
            settings.name,
            _EXAMPLE,
            r"^https://[^/]+/dataset\.xhtml\?persistentId=doi:(?<repo>10\.\d+/[^&]+)",
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
        """Follow the DOI to its Dataverse, and ask there for the newest version.

        Raises:
            RefNotFound: There is no such dataset.
            ProviderUnavailable: Nobody said, or what the DOI leads to is no Dataverse.
        """
        where = yield from _doi.follow("Dataverse", spec.repo, self._settings.hosts)
        query = f"persistentId=doi:{quote(spec.repo, safe='/')}"
        reply = yield from http_get(f"https://{where.netloc}/api/datasets/:persistentId?{query}")
        if reply.status in {401, 403, 404}:
            raise RefNotFound(
                f"{where.hostname} has no published dataset {spec.repo}, or is no Dataverse."
            )
        data = _service.read("Dataverse", reply, _Answer).data
        newest = data.latest_version
        return self.pinned(
            spec, f"{data.id}.v{newest.version_number}.{newest.version_minor_number}"
        )

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to ``<id>.v<major>.<minor>``."""
        identifier = spec.repo.partition("/")[2]
        return Resolved(
            provider=self.prefix,
            # A DOI stands for all versions: there is none for a single one.
            spec=spec.repo,
            repo_url=spec.repo,
            ref=ref,
            ref_url=f"https://doi.org/{spec.repo}",
            slug=f"dataverse-{escape(identifier).lower()}",
            content_provider="Dataverse",
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a dataset or its DOI means."""
        pasted = take_apart(url)
        if pasted is None:
            return None
        doi = _doi.pasted_doi(pasted)
        if doi.partition("/")[0] not in self._settings.doi_prefixes:
            page = pasted.steps in {("dataset.xhtml",), ("citation",)}
            doi = pasted.query.get("persistentId", "") if page else ""
        try:
            return Pasted(self.parse(doi).repo)
        except SpecError:
            return None
