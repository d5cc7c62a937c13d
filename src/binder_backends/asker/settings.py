"""What an operator can set about asking."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec

_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class Credential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A secret that one host gets, and no other."""

    value: str
    """The whole header: ``Bearer <token>``."""
    header: str = "Authorization"
    plain_http: bool = False
    """Whether it may travel unencrypted."""

    def __repr__(self) -> str:
        """Return it without its secret."""
        return f"Credential(header={self.header!r}, value=…)"


class AskerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How services are asked, and what is refused."""

    credentials: dict[str, Credential] = {}
    """By host, or host:port."""
    allow_networks: tuple[str, ...] = ()
    """Networks that may be asked although they are not public: ``10.1.0.0/16``."""
    allow_file_urls: bool = False
    """Whether ``file:`` URLs of repositories may be looked at."""
    timeout: _Seconds = 30.0
    """After how many seconds a question is given up, with all redirects and tries."""
    step_timeout: _Seconds = 10.0
    """How long a service may be silent, in seconds, before the next try."""
    tries: _Count = 3
    """How often a question is asked while the service answers 5xx or breaks the connection."""
    max_redirects: Annotated[int, msgspec.Meta(ge=0)] = 10
    max_body_bytes: _Count = 8 * 2**20
    """How much of an answer is read, before and after decompression."""
    cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 32 * 2**20
    """How much is kept of answers, so as to ask only whether they changed."""
    miss_age: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    """For how many seconds it is remembered that there is no such thing."""
    git: str = "git"
    """The git program."""
    max_gits: _Count = 8
    """How many of it run at once."""
    ssh_key: str = ""
    """The file of the key that ``ssh:`` URLs are asked with; without one nearly all refuse."""
    ssh_known_hosts: str = ""
    """The file of known hosts for them; without one any host key is taken."""
    user_agent: str = "binderkit"

    def __post_init__(self) -> None:
        for network in self.allow_networks:
            ipaddress.ip_network(network)  # raises a ValueError that says what is wrong
