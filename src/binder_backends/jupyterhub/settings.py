"""What an operator can set."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urljoin, urlsplit

import msgspec
from msgspec import Meta

_Seconds = Annotated[float, Meta(gt=0)]


class JupyterHubSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the JupyterHub launcher."""

    url: str = "http://127.0.0.1:8000/"
    """The hub as browsers reach it, its base URL included."""
    api_url: str = ""
    """The hub's REST API as this server reaches it, such as ``http://hub:8081/hub/api``; empty:
    ``hub/api`` below `url`."""
    token: Annotated[str, Meta(extra={"secret": True})] = ""
    """The ``api_token`` of a service of the hub that may make users and start servers."""
    token_file: str = ""
    """A file that holds it, instead."""
    user: str = ""
    """The hub's user whose named servers all launches are; empty: a temporary user for each
    launch. With it people log in to the hub, as this user."""
    start_timeout: _Seconds = 270.0
    """Seconds in which a server has to be ready. Below ``limits.launch_timeout``, or only that it
    took too long is told, and not by whom."""
    request_timeout: _Seconds = 30.0
    """Seconds of silence after which the hub is taken to be out of reach. It says something every
    8 s while a server starts, and answers the request for one within its ``slow_spawn_timeout``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, url in (("url", self.url), ("api_url", self.api_url)):
            if name == "api_url" and not url:
                continue
            try:
                parts = urlsplit(url)
                fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            except ValueError:
                fine = False
            if not fine or parts.query or parts.fragment or parts.username is not None:
                example = "https://hub.example.org/" + ("hub/api" if name == "api_url" else "")
                raise ValueError(f"{name} is like {example}, not {_shown(url)!r}")
        if self.token and self.token_file:
            raise ValueError("token and token_file: give one of them")

    def __repr__(self) -> str:
        """Return what may be told of them."""
        return f"JupyterHubSettings(url={self.url!r}, api_url={self.api_url!r}, …)"

    @property
    def base(self) -> str:
        """Return the hub as browsers reach it, with a slash at its end."""
        return self.url.rstrip("/") + "/"

    @property
    def api(self) -> str:
        """Return the REST API, with a slash at its end."""
        return (self.api_url or urljoin(self.base, "hub/api")).rstrip("/") + "/"


def _shown(url: str) -> str:
    """Return what of a URL may stand in a message: no credentials."""
    return url.rpartition("@")[2][:80]
