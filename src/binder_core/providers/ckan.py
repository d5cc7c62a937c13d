"""CKAN catalogues.

Source: https://docs.ckan.org/en/latest/api/#ckan.logic.action.get.package_show
"""

from __future__ import annotations

import re
from typing import ClassVar, Final
from urllib.parse import parse_qs, quote, urlsplit

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
from binder_core.providers._pasted import clean

_PAGE: Final = re.compile(
    r"(?P<base>/(?:[^/]+/)*)dataset/(?P<id>[\w.-]+)(?:/history/(?P<activity>[\w-]+))?/?"
)
_HOST: Final = re.compile(r"(?!-)[\w.-]+(?::[0-9]{1,5})?")
_EXAMPLE: Final = "https%3A%2F%2Fdemo.ckan.org%2Fdataset%2Fsample-dataset-1"


class _Package(msgspec.Struct):
    metadata_modified: str


class _Answer(msgspec.Struct):
    result: _Package


class CkanSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which catalogues may be asked."""

    hosts: tuple[str, ...] = ()
    """Only these; any public one if empty."""
    name: str = "CKAN dataset"
    """What people call it."""


class Ckan:
    """Datasets of any CKAN, by the escaped URL of their page."""

    Settings: ClassVar[type[msgspec.Struct]] = CkanSettings

    def __init__(self, prefix: str, settings: CkanSettings) -> None:
        self.prefix = prefix
        self._hosts = frozenset(host.lower() for host in settings.hosts)
        self.display = Display(
            name=settings.name,
            repo_label="CKAN dataset URL (https://demo.ckan.org/dataset/sample-dataset-1)",
            repo_placeholder="example: https://demo.ckan.org/dataset/sample-dataset-1",
            ref_enabled=False,
            spec_regex=r".+%2[Ff]dataset%2[Ff].+",
            url_regexes=(r"^(?<repo>https?://.+/dataset/[^/]+(/history/[^/]+)?/?(\?.*)?)$",),
        )

    def parse(self, text: str) -> Spec:
        """Return the spec that is the URL of a dataset's page.

        Raises:
            SpecError: It is none, or that of a catalogue that is not allowed.
        """
        whole = _text.whole(text)
        url = _text.unescaped(whole, "the URL")
        try:
            parts = urlsplit(url)
        except ValueError:
            raise whole.error("The URL of the dataset is malformed.") from None
        page = _PAGE.fullmatch(parts.path)
        steps = parts.path.split("/")
        if (
            parts.scheme not in {"http", "https"}
            or not _HOST.fullmatch(parts.netloc)
            or page is None
            or any(step in {".", ".."} for step in steps)
            or re.search(r"[\\# ]", url)
        ):
            raise whole.error(
                f'The spec is no escaped URL of a dataset\'s page, such as "{_EXAMPLE}".'
            )
        if self._hosts and parts.netloc.lower() not in self._hosts:
            raise whole.error(f"Datasets of {parts.netloc} are not allowed here.")
        return Spec(self.prefix, url, "")

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return _text.escape(spec.repo)

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Ask when the dataset was changed last: that is its version.

        Raises:
            RefNotFound: There is no such dataset, or it is not public.
            ProviderUnavailable: The catalogue did not say.
        """
        base, dataset, activity = _take_apart(spec.repo)
        question = f"package_show?id={quote(dataset, safe='')}"
        if activity:
            question = f"activity_data_show?id={quote(activity, safe='')}&object_type=package"
        host = urlsplit(spec.repo).netloc
        reply = yield from http_get(f"{base}api/3/action/{question}")
        if reply.status in {401, 403, 404}:
            raise RefNotFound(f"{host} has no public dataset {dataset}. Check the URL.")
        modified = _service.read(host, reply, _Answer).result.metadata_modified
        return self.pinned(spec, f"{dataset}.v{_service.epoch(host, modified)}")

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to ``<dataset>.v<seconds>``."""
        _, dataset, _ = _take_apart(spec.repo)
        return Resolved(
            provider=self.prefix,
            spec=_text.escape(spec.repo),
            repo_url=spec.repo,
            ref=ref,
            ref_url=spec.repo,
            slug=f"ckan-{dataset}",
            content_provider="CKAN",
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a dataset's page means."""
        text = _text.escape(clean(url))
        try:
            self.parse(text)
        except SpecError:
            return None
        return Pasted(text)


def _take_apart(url: str) -> tuple[str, str, str]:
    """Return the base URL of a catalogue, a dataset, and the activity or nothing."""
    parts = urlsplit(url)
    page = _PAGE.fullmatch(parts.path)
    if page is None:
        raise ValueError(f"{url} is the page of no dataset")
    activity = page["activity"] or parse_qs(parts.query).get("activity_id", [""])[0]
    return f"{parts.scheme}://{parts.netloc}{page['base']}", page["id"], activity
