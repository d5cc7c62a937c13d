from __future__ import annotations

from typing import Any

import jwt
import msgspec
import pytest
from serving import KEY, SPEC, conf

from binder_core.errors import Refused
from binder_http.config import Config
from binder_http.security import BuildTokens, Guard, guard, origin_of

HOST = "localhost:8585"


def local(**flags: Any) -> Config:
    """Return what the embedded default looks like."""
    config = conf(flags)
    return msgspec.structs.replace(
        config, builder=msgspec.structs.replace(config.builder, kind="local")
    )


def passes(one: Guard, token: str = "", **headers: str) -> bool:
    given = {"host": HOST} | {name.replace("_", "-"): text for name, text in headers.items()}
    return one.refusal(given, token) is None


# -- The token ------------------------------------------------------------------------------------

TOKEN = Guard(token="s3cret")


@pytest.mark.parametrize(
    "given",
    [
        {"token": "s3cret"},
        {"authorization": "Bearer s3cret"},
        {"authorization": "bearer  s3cret "},
        {"authorization": "token s3cret"},
        {"authorization": "Bearer wrong", "token": "s3cret"},
        {"authorization": "Bearer s3cret", "token": "wrong"},
    ],
)
def test_the_token_in_each_of_its_places(given: dict[str, str]) -> None:
    assert passes(TOKEN, **given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"token": ""},
        {"token": "s3cre"},
        {"token": "s3cret "},
        {"token": "é"},
        {"authorization": "s3cret"},
        {"authorization": "Basic s3cret"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer é"},
    ],
)
def test_no_token_or_a_wrong_one(given: dict[str, str]) -> None:
    assert not passes(TOKEN, **given)


def test_a_guard_shows_no_token() -> None:
    assert "s3cret" not in repr(TOKEN)
    assert "s3cret" not in str(TOKEN.refusal({"host": HOST}, "wrong"))


# -- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "localhost.",
        "127.0.0.1:8585",
        "127.1.2.3",
        "[::1]:8585",
        "[::1]",
    ],
)
def test_loopback_is_always_known(host: str) -> None:
    assert passes(Guard(hosts=frozenset()), host=host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "0.0.0.0:8585",
        "[::]",
        "10.0.0.1",
        "evil.example:80@localhost",
        "[2001:db8::1]",
    ],
)
def test_unknown_names(host: str) -> None:
    assert not passes(Guard(hosts=frozenset()), host=host)


def test_configured_names() -> None:
    config = local(**{"security.hosts": ["Binder.Example"], "server.host": "10.1.2.3"})
    made = guard(config, "")
    assert passes(made, host="binder.example:8585")
    assert passes(made, host="10.1.2.3:8585")
    assert not passes(made, host="other.example")


def test_the_local_default_knows_loopback_only() -> None:
    made = guard(local(), "")
    assert passes(made, host="localhost:8585")
    assert not passes(made, host="evil.example")
    everywhere = guard(local(**{"server.host": "0.0.0.0"}), "")
    assert not passes(everywhere, host="0.0.0.0:8585")
    assert passes(guard(local(**{"security.hosts": ["*"]}), ""), host="evil.example")


def test_the_public_url_is_known() -> None:
    made = guard(local(**{"server.public_url": "https://binder.example/x/"}), "")
    assert passes(made, host="binder.example")
    assert passes(made, host="binder.example", origin="https://binder.example")
    assert not passes(made, host="other.example")


def test_elsewhere_any_name_will_do() -> None:
    assert passes(guard(conf(), ""), host="whatever.example")


# -- Other people's pages -------------------------------------------------------------------------

PLAIN = Guard()
ALLOWING = Guard(origins=frozenset({"https://page.example"}))
ANYBODY = Guard(origins=frozenset({"*"}))


@pytest.mark.parametrize(
    "headers",
    [
        {},  # not a browser
        {"sec_fetch_site": "none"},  # typed into the address bar
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "same-origin", "origin": "http://localhost:8585"},
        {"origin": "https://LOCALHOST:8585"},
    ],
)
def test_our_own_pages_and_no_pages(headers: dict[str, str]) -> None:
    assert passes(PLAIN, **headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "something new"},
        {"origin": "https://page.example"},
        {"origin": "http://localhost:8888"},  # a notebook, perhaps
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://["},
        {"origin": "http://localhost:8585@evil.example"},
    ],
)
def test_other_peoples_pages(headers: dict[str, str]) -> None:
    assert not passes(PLAIN, **headers)
    assert passes(ANYBODY, **headers)


def test_pages_of_allowed_sites() -> None:
    assert passes(ALLOWING, origin="https://page.example", sec_fetch_site="cross-site")
    assert not passes(ALLOWING, origin="http://page.example")
    assert not passes(ALLOWING, origin="https://page.example.evil.example")
    # Which page it was is not told: an image, say.
    assert not passes(ALLOWING, sec_fetch_site="cross-site")


def test_an_allowed_site_still_needs_the_token() -> None:
    both = Guard(token="s3cret", origins=frozenset({"*"}))
    assert not passes(both, origin="https://page.example")
    assert passes(both, "s3cret", origin="https://page.example")


def test_no_host_is_nobodys_own() -> None:
    assert not passes(PLAIN, host="", origin="null")
    assert not passes(PLAIN, host="", origin="")


def test_origins_are_configured() -> None:
    made = guard(conf({"security.origins": "https://Page.example"}), "")
    assert made.allows("https://page.example")
    assert not made.allows("https://other.example")


# -- Build tokens ---------------------------------------------------------------------------------


def test_where_a_request_comes_from() -> None:
    assert origin_of({"host": "Binder.example:1"}) == "binder.example:1"
    assert origin_of({"host": "x", "origin": "https://Page.example"}) == "page.example"
    assert origin_of({}) == ""


def test_a_build_token_is_good_for_one_spec_from_one_origin() -> None:
    tokens = BuildTokens(KEY.encode())
    token = tokens.issue(SPEC, "page.example")
    tokens.check(token, SPEC, "page.example")
    for text, origin in [(SPEC, "other.example"), (SPEC + "x", "page.example"), ("", "")]:
        with pytest.raises(Refused):
            tokens.check(token, text, origin)


def test_a_build_token_expires() -> None:
    old = BuildTokens(KEY.encode(), now=lambda: 1000.0).issue(SPEC, "h")
    with pytest.raises(Refused, match="expired"):
        BuildTokens(KEY.encode()).check(old, SPEC, "h")


def test_a_build_token_is_signed_with_our_key() -> None:
    foreign = BuildTokens(b"some other key, long enough too").issue(SPEC, "h")
    with pytest.raises(Refused, match="not good"):
        BuildTokens(KEY.encode()).check(foreign, SPEC, "h")


@pytest.mark.parametrize(
    ("algorithm", "payload"),
    [
        ("none", {"aud": SPEC, "origin": "h", "exp": 2**33}),
        pytest.param(
            "HS512",
            {"aud": SPEC, "origin": "h", "exp": 2**33},
            marks=pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),
        ),
        ("HS256", {"aud": SPEC, "origin": "h"}),
        ("HS256", {"origin": "h", "exp": 2**33}),
        ("HS256", {"aud": SPEC, "exp": 2**33}),
    ],
)
def test_tokens_of_another_make(algorithm: str, payload: dict[str, Any]) -> None:
    tokens = BuildTokens(KEY.encode())
    key: bytes | str = tokens._secret() if algorithm != "none" else ""
    forged = jwt.encode(payload, key, algorithm=algorithm)
    with pytest.raises(Refused):
        tokens.check(forged, SPEC, "h")


def test_the_signing_key_does_not_show() -> None:
    assert KEY not in repr(BuildTokens(KEY.encode()))
