"""Names of builds and users. Image names are held against BinderHub's in test_providers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_core import naming

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
texts = st.text(max_size=300)


@given(texts, texts, texts)
def test_build_names_are_dns_labels_that_differ(slug: str, url: str, ref: str) -> None:
    name = naming.build_name(naming.image_name("", slug, ref), url, ref)
    assert DNS_LABEL.fullmatch(name)
    assert name != naming.build_name(naming.image_name("", slug, ref), url, ref + "x")
    assert name != naming.build_name(naming.image_name("p-", slug, ref), url, ref)


@given(texts, st.text("0123456789abcdef", min_size=10, max_size=10))
def test_user_names_are_dns_labels_that_end_in_what_is_unique(slug: str, unique: str) -> None:
    name = naming.user_name(slug, unique)
    assert DNS_LABEL.fullmatch(name)
    assert name.endswith(f"-{unique}")


@given(texts, texts)
def test_image_names_are_no_longer_than_a_registry_takes(prefix: str, slug: str) -> None:
    name = naming.image_name(prefix[:100], slug, "ref")
    assert len(name.rpartition(":")[0]) <= naming.MAX_IMAGE_NAME + len(prefix)
    assert name == name.lower()


prefixes = st.from_regex(r"([a-z]+\.example/)?([A-Za-z_-]*)", fullmatch=True)


@given(prefixes, texts, st.from_regex(r"[0-9a-zA-Z_.-]{1,40}", fullmatch=True))
def test_what_was_named_here_is_known_again(prefix: str, slug: str, ref: str) -> None:
    assert naming.is_image_name(prefix, naming.image_name(prefix, slug, ref))


@pytest.mark.parametrize(
    "image",
    [
        "ubuntu:latest",
        "r.example/b-ubuntu:latest",
        "r.example/other-x-abc123:1",
        "r.example/b-x-abc123",
        "r.example/b-x-abc123:1/2",
        "r.example/b-x-abc123:1\n",
        "r.example/b-x-abc123@sha256:aa",
        "r.example/b-up/x-abc123:1",
        "evil.example/r.example/b-x-abc123:1",
        "",
    ],
)
def test_what_was_not_named_here_is_not(image: str) -> None:
    assert naming.is_image_name("r.example/b-", "r.example/b-x-abc123:1")
    assert not naming.is_image_name("r.example/b-", image)


@given(texts)
def test_escaping_loses_nothing(text: str) -> None:
    escaped = naming.escape(text)
    assert re.fullmatch(r"([A-Za-z0-9]|-[0-9a-f]{2})*", escaped)
    unescaped = re.sub(r"-([0-9a-f]{2})|.", lambda m: chr(int(m[1], 16)) if m[1] else m[0], escaped)
    assert unescaped.encode("latin-1") == text.encode()
