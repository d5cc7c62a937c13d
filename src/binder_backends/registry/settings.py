"""What an operator can set about image registries."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RegistryLogin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who we are at a registry."""

    user: str
    """The user: ``AWS`` at ECR, ``_json_key`` or ``oauth2accesstoken`` at Google's."""
    password: str = ""
    """The password or token."""
    password_file: str = ""
    """A file that holds it, instead; read again when it may have changed."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.user or ":" in self.user:
            raise ValueError("user must not be empty, and holds no colon")
        if bool(self.password) == bool(self.password_file):
            raise ValueError("expected either password or password_file")

    def __repr__(self) -> str:
        """Return what may be told of it."""
        return f"RegistryLogin(user={self.user!r}, …)"


class RegistrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How registries are asked, and who asks."""

    logins: dict[str, RegistryLogin] = {}
    """By registry as image names begin: ``ghcr.io``, ``docker.io``, ``registry.example.org:5000``.
    They go before those of Docker's ``config.json``."""
    credential_helpers: dict[str, str] = {}
    """By registry, who is asked for its login: ``ecr-login`` for ``docker-credential-ecr-login``,
    which must be on the ``PATH``."""
    read_docker_config: bool = True
    """Whether the logins of Docker's ``config.json`` are used, its credential helpers too."""
    docker_config: str = ""
    """That file, or its folder; empty: what ``DOCKER_CONFIG`` says, else ``~/.docker``."""
    helper_timeout: _Seconds = 20.0
    """Seconds in which a credential helper has to answer."""
    plain_http: tuple[str, ...] = ()
    """Registries, and hosts that grant access to one, that are talked to unencrypted."""
    loopback_plain_http: bool = True
    """Whether those of this machine are as well, as the Docker engine does."""
    ca_bundle: str = ""
    """A file of certificates to trust; empty: those of ``SSL_CERT_FILE``, else the usual ones."""
    use_proxies: bool = False
    """Whether the proxies of the environment (``HTTPS_PROXY``, ``NO_PROXY``) are used."""
    timeout: _Seconds = 30.0
    """Seconds after which a question is given up, with all its tries."""
    step_timeout: _Seconds = 10.0
    """Seconds for which a registry may be silent, before the next try."""
    tries: Annotated[int, msgspec.Meta(ge=1)] = 3
    """How often a registry is asked that answers 5xx, or breaks the connection."""
    user_agent: str = "binderkit"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for helper in self.credential_helpers.values():
            if not _HELPER.fullmatch(helper):
                raise ValueError(f"{helper!r} is no name of a credential helper: try 'ecr-login'")
