"""What an operator can set of the JupyterHub launcher."""

from __future__ import annotations

import msgspec
import pytest

from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_core.engine import Limits


@pytest.mark.parametrize(
    ("given", "base", "api"),
    [
        ({}, "http://127.0.0.1:8000/", "http://127.0.0.1:8000/hub/api/"),
        ({"url": "https://h.org"}, "https://h.org/", "https://h.org/hub/api/"),
        ({"url": "https://h.org/jupyter/"}, "https://h.org/jupyter/", "https://h.org/jupyter/hub/api/"),
        ({"api_url": "http://hub:8081/hub/api"}, "http://127.0.0.1:8000/", "http://hub:8081/hub/api/"),
    ],
)  # fmt: skip
def test_addresses(given: dict[str, str], base: str, api: str) -> None:
    settings = msgspec.convert(given, JupyterHubSettings)
    assert (settings.base, settings.api) == (base, api)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"url": "hub.example.org"}, "url is like https://hub.example.org/, not"),
        ({"url": "ftp://h.org"}, "url is like"),
        ({"url": "http://h.org:x/"}, "url is like"),
        (
            {"api_url": "http://h.org/hub/api?x=1"},
            "api_url is like https://hub.example.org/hub/api",
        ),
        ({"token": "a", "token_file": "b"}, "give one of them"),
        ({"start_timeout": 0}, "> 0"),
    ],
)
def test_what_cannot_be_meant(given: dict[str, object], why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.convert(given, JupyterHubSettings)


def test_who_is_slow_is_told_before_the_launch_is_over() -> None:
    assert JupyterHubSettings().start_timeout < Limits().launch_timeout


def test_no_secret_is_shown() -> None:
    assert "s3cret" not in repr(JupyterHubSettings(token="s3cret"))
    with pytest.raises(ValueError, match=r"not 'h\.org'") as refused:
        JupyterHubSettings(url="http://ada:s3cret@h.org")
    assert "s3cret" not in str(refused.value)
