"""Specs that are a DOI.

Source: https://www.doi.org/the-identifier/resources/handbook
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from binder_core.plugin import Asks, Display, RefNotFound, Spec, http_get
from binder_core.providers import _service, _text
from binder_core.providers._pasted import PastedUrl

RESOLVERS: Final = frozenset({"doi.org", "dx.doi.org"})

_BEFORE: Final = re.compile(r"(?i:(?:https?://)?(?:dx\.)?doi\.org/|doi:)")
_DOI: Final = re.compile(r"10\.[0-9]{4,9}(?:\.[0-9]+)*/[-._;()/:A-Za-z0-9]+")


def display(name: str, example: str, url_regex: str) -> Display:
    """Return how a form asks for a DOI.

    Args:
        name: What people call the service.
        example: One of its DOIs.
        url_regex: The URLs that are recognised while they are typed.
    """
    return Display(
        name=name,
        repo_label=f"{name} ({example})",
        repo_placeholder=f"example: {example}",
        ref_enabled=False,
        spec_regex=r"10\.\d+/.+",
        url_regexes=(url_regex,),
    )


def parse(prefix: str, text: str, example: str) -> Spec:
    """Return the spec that is the DOI in a text; ``doi:`` or a resolver's URL may stand before it.

    Raises:
        SpecError: There is none.
    """
    whole = _text.whole(text)
    value = _text.unescaped(whole, "the DOI")
    doi = _BEFORE.sub("", value, count=1) if _BEFORE.match(value) else value
    steps = doi.split("/")
    if not _DOI.fullmatch(doi) or any(step in {"", ".", ".."} or step[0] == "-" for step in steps):
        raise whole.error(f'The spec is no DOI, such as "{example}".')
    return Spec(prefix, doi, "")


def follow(service: str, doi: str, hosts: tuple[str, ...]) -> Asks[SplitResult]:
    """Find out where a DOI leads.

    Args:
        service: Whose it should be, for the messages.
        doi: The DOI.
        hosts: Where it may lead.

    Raises:
        RefNotFound: There is no such DOI, or nothing is where it leads.
        ProviderUnavailable: Nobody said.
    """
    reply = yield from http_get(
        f"https://doi.org/{quote(doi, safe='/')}", redirect_hosts=hosts, head=True
    )
    if reply.status in {404, 410}:
        raise RefNotFound(f"{service} has nothing under the DOI {doi}. Check the spelling.")
    where = urlsplit(reply.url)
    # What a page says to a machine does not matter (403, for one): the way there was the answer.
    if reply.status >= 500 or not where.hostname or where.hostname in RESOLVERS:
        raise _service.unavailable(service, reply)
    return where


def pasted_doi(pasted: PastedUrl) -> str:
    """Return the DOI in a resolver's URL, empty if there is none."""
    return "/".join(pasted.steps) if pasted.host in RESOLVERS else ""
