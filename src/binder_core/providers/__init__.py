"""The providers of this distribution: the table, and whose URL it is that somebody pasted.

Each is one module and made like anybody else's (see `binder_core.plugin.Provider`). The prefix is
the operator's choice, so that several of one kind can stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from binder_core.plugin import Pasted, Provider
from binder_core.providers.bitbucket import Bitbucket
from binder_core.providers.ckan import Ckan
from binder_core.providers.dataverse import Dataverse
from binder_core.providers.figshare import Figshare
from binder_core.providers.gist import Gist
from binder_core.providers.git import Git
from binder_core.providers.gitea import Gitea
from binder_core.providers.github import GitHub
from binder_core.providers.gitlab import GitLab
from binder_core.providers.hydroshare import Hydroshare
from binder_core.providers.softwareheritage import SoftwareHeritage
from binder_core.providers.zenodo import Zenodo

__all__ = ["PROVIDERS", "defaults", "recognise"]

PROVIDERS: Final[dict[str, type[Any]]] = {
    "gh": GitHub,
    "gist": Gist,
    "git": Git,
    "gl": GitLab,
    "zenodo": Zenodo,
    "figshare": Figshare,
    "hydroshare": Hydroshare,
    "dataverse": Dataverse,
    "ckan": Ckan,
    "swh": SoftwareHeritage,
    "gitea": Gitea,
    "bitbucket": Bitbucket,
}
"""By the prefix that each has unless the operator says otherwise. Each class is a `Provider`, made
with a prefix and an instance of its ``Settings``."""


def defaults() -> dict[str, Provider]:
    """Return all of them with their default settings, by prefix."""
    return {prefix: kind(prefix, kind.Settings()) for prefix, kind in PROVIDERS.items()}


def recognise(url: str, providers: Iterable[Provider]) -> tuple[Provider, Pasted] | None:
    """Return the provider that knows best what a pasted URL means, and what it means.

    Args:
        url: From a browser's address bar, or what ``git clone`` takes.
        providers: Those that are enabled; where two know it, the first one is taken. Those for any
            host at all (`Git`, `Ckan`) go by the look of the URL, and are asked last.

    Returns:
        None if nobody knows it.
    """
    for provider in sorted(providers, key=lambda provider: isinstance(provider, (Ckan, Git))):
        if pasted := provider.recognise(url):
            return provider, pasted
    return None
