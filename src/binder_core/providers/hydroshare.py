"""HydroShare.

Source: https://help.hydroshare.org/introduction-to-hydroshare/getting-started/hydroshare-api/
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import msgspec

from binder_core.plugin import (
    Asks,
    Display,
    Pasted,
    ProviderUnavailable,
    RefNotFound,
    Resolved,
    Spec,
    http_get,
)
from binder_core.providers import _doi, _service, _text
from binder_core.providers._pasted import take_apart

# Greedy: where there are more digits, the last ones count ("%2f" may stand before them).
_ID: Final = re.compile(r".*([0-9a-f]{32})", re.DOTALL)


class _Date(msgspec.Struct):
    type: str
    start_date: str = ""


class _Elements(msgspec.Struct):
    dates: list[_Date]


class HydroshareSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which HydroShare it is."""

    host: str = "www.hydroshare.org"
    """The server."""
    name: str = "Hydroshare resource"
    """What people call it."""


class Hydroshare:
    """Resources of HydroShare, by an id that may stand anywhere in the spec."""

    Settings: ClassVar[type[msgspec.Struct]] = HydroshareSettings

    def __init__(self, prefix: str, settings: HydroshareSettings) -> None:
        self.prefix = prefix
        self._host = host = settings.host.lower()
        self.display = Display(
            name=settings.name,
            repo_label="Hydroshare resource id or URL",
            repo_placeholder=f"example: https://{host}/resource/142c59757ed54de1816777828c9716e7",
            ref_enabled=False,
            spec_regex=r".*[0-9a-f]{32}.*",
            url_regexes=(rf"^https://{re.escape(host)}/resource/(?<repo>[0-9a-f]{{32}})/?$",),
        )

    def parse(self, text: str) -> Spec:
        """Return the spec that is the resource's id.

        Raises:
            SpecError: There is no id in the text.
        """
        whole = _text.whole(text)
        found = _ID.match(_text.unescaped(whole, "the resource").lower())
        if found is None:
            raise whole.error(
                "The id of a HydroShare resource has 32 hexadecimal digits, and there is none."
            )
        return Spec(self.prefix, found[1], "")

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return spec.repo

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Ask when the resource was changed last: that is its version.

        Raises:
            RefNotFound: There is no such resource, or it is not public.
            ProviderUnavailable: HydroShare did not say.
        """
        reply = yield from http_get(
            f"https://{self._host}/hsapi/resource/{spec.repo}/scimeta/elements"
        )
        if reply.status in {401, 403, 404}:
            raise RefNotFound(f"HydroShare has no public resource {spec.repo}. Check its id.")
        for date in _service.read("HydroShare", reply, _Elements).dates:
            if date.type == "modified":
                seconds = _service.epoch("HydroShare", date.start_date)
                return self.pinned(spec, f"{spec.repo}.v{seconds}")
        raise ProviderUnavailable(
            f"HydroShare did not say when the resource {spec.repo} was changed."
        )

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to ``<id>.v<seconds>``."""
        # HydroShare keeps no history: the page is that of the newest state.
        url = f"https://{self._host}/resource/{spec.repo}"
        return Resolved(
            provider=self.prefix,
            spec=spec.repo,
            repo_url=url,
            ref=ref,
            ref_url=url,
            slug=f"hydroshare-{ref}",
            content_provider="Hydroshare",
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a resource or its DOI means."""
        pasted = take_apart(url)
        if pasted is None:
            return None
        here = pasted.host == self._host.removeprefix("www.") and pasted.steps[:1] == ("resource",)
        text = pasted.steps[1] if here and len(pasted.steps) > 1 else _doi.pasted_doi(pasted)
        if not here and not text.startswith("10.4211/hs."):
            return None
        found = _ID.match(text.lower())
        return Pasted(found[1]) if found else None
