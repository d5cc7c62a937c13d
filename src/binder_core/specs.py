"""What a person typed, and what it turned out to mean."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """A spec as a person typed it, taken apart. Nothing about it has been checked with a service.

    It starts with no ``-`` in any part that git or a builder will see, and holds no control
    character (CVE-2021-39159).
    """

    provider: str
    """The prefix it was asked under, e.g. ``gh``."""
    repo: str
    """The repository in the provider's own terms: ``user/repo``, a URL, a DOI, an id."""
    ref: str
    """A branch, tag, commit or version; empty where the provider has none or takes the newest."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A spec pinned to one state of its repository. Two equal ones make equal images."""

    provider: str
    """The prefix it was asked under."""
    spec: str
    """The spec that always means this state: ``user/repo/<commit>``."""
    repo_url: str
    """What a builder fetches."""
    ref: str
    """The commit or version."""
    ref_url: str
    """A page where a person can look at this state."""
    slug: str
    """Names the repository among all of this provider; see `binder_core.naming`."""
    content_provider: str = "Git"
    """The one of repo2docker's content providers that can fetch it."""
    notice: str = ""
    """What the person who asked should know, e.g. that another ref was taken; else empty."""
