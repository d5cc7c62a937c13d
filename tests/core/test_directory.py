from __future__ import annotations

from typing import ClassVar

import pytest

from binder_core.engine import discovery
from binder_core.errors import SpecError
from binder_core.plugin import Provider, Resolved
from binder_core.providers import PROVIDERS
from binder_core.providers.directory import PREFIX, Directory, spec_text
from binder_core.testing.providers import Dialogue, ProviderSuite

NOW = "0123456789abcdef" * 4
GOOD = f"%2Fhome%2Fme%2Fn%C3%B6tes%20%2325/{NOW}"


class TestDirectory(ProviderSuite):
    specs: ClassVar = (GOOD, f"%2F/{NOW}")
    bad_specs: ClassVar = (
        "",
        "%2Fhome",
        f"home%2Fme/{NOW}",
        f"%2Fhome%2F..%2Fetc/{NOW}",
        f"%2Fhome/{NOW[:-1]}",
        f"%2Fhome/{NOW.upper()}",
        f"%2Fhome/{NOW}/more",
        f"/home/me/{NOW}",
        f"%2Fhome%0A/{NOW}",
    )
    dialogues: ClassVar = (
        Dialogue(
            GOOD,
            steps=(),
            outcome=Resolved(
                provider="dir",
                spec=GOOD,
                repo_url="/home/me/nötes #25",
                ref=NOW,
                ref_url="file:///home/me/n%C3%B6tes%20%2325",
                slug="/home/me/nötes #25",
                content_provider="Local",
            ),
        ),
    )
    pasted: ClassVar = {"/home/me": None, "file:///home/me": None, "https://github.com/u/r": None}

    def make_provider(self) -> Provider:
        return Directory()


def test_no_server_offers_it() -> None:
    assert PREFIX not in PROVIDERS
    assert PREFIX not in discovery.names(discovery.PROVIDERS)


def test_the_spec_of_a_path() -> None:
    assert spec_text("/home/me/nötes #25", NOW) == f"dir/{GOOD}"
    with pytest.raises(SpecError):
        spec_text("/home/me/new\nline", NOW)
