"""Is this image there?"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_core.asking import HttpGet, HttpReply
from binder_core.errors import ProviderUnavailable, RegistryUnavailable
from binder_core.registry import (
    ACCEPT,
    Challenge,
    HttpPost,
    ImageName,
    Login,
    challenges,
    exists,
    is_loopback,
    parse_image,
)

NO_CACHE = ("cache-control", "no-cache")
LOGIN = Login("me", "s3cret")
BASIC = "Basic " + base64.b64encode(b"me:s3cret").decode()


@pytest.mark.parametrize(
    ("image", "registry", "repository", "reference"),
    [
        ("python", "docker.io", "library/python", "latest"),
        ("python:3.12", "docker.io", "library/python", "3.12"),
        ("user/image:x", "docker.io", "user/image", "x"),
        ("docker.io/python", "docker.io", "library/python", "latest"),
        ("index.docker.io/user/image", "docker.io", "user/image", "latest"),
        ("localhost/x", "localhost", "x", "latest"),
        ("[::1]:5000/x", "[::1]:5000", "x", "latest"),
        ("localhost:5000/a/b:c", "localhost:5000", "a/b", "c"),
        ("gcr.io/p/binder-u-2dr-397df2:1479e02", "gcr.io", "p/binder-u-2dr-397df2", "1479e02"),
        ("gcr.io/proj/binder--c3-9cn-9fa9c1:1", "gcr.io", "proj/binder--c3-9cn-9fa9c1", "1"),
        (f"r.example/x@sha256:{'a' * 64}", "r.example", "x", f"sha256:{'a' * 64}"),
        (f"r.example/x:tag@sha256:{'a' * 64}", "r.example", "x", f"sha256:{'a' * 64}"),
    ],
)  # fmt: skip
def test_names(image: str, registry: str, repository: str, reference: str) -> None:
    assert parse_image(image) == ImageName(registry, repository, reference)


@pytest.mark.parametrize(
    "image",
    [
        *("", "/", ":x", "a:", "a: b", "A/b", "-x", "x@sha", "r.example/", "r.example/../x"),
        *("r.example/a//b", "r.example/x:a/b", "r.example/x\n", "r.example/x?y=z"),
        f"r.example/x:{'t' * 129}",
        *("me@r.example/x", "r.exam ple/x", "r.example:x/y", "r.example\\@q/x", "[::1/x", ".r/x"),
    ],
)
def test_what_is_no_name(image: str) -> None:
    with pytest.raises(ValueError, match="no name of an image"):
        parse_image(image)


@given(st.text())
def test_any_text_is_a_name_or_none(text: str) -> None:
    try:
        name = parse_image(text)
    except ValueError:
        return
    before = "@" if ":" in name.reference else ":"
    assert parse_image(f"{name.registry}/{name.repository}{before}{name.reference}") == name


MANIFEST = "https://r.example:5000/v2/a/b/manifests/t"
ASKED = HttpGet(MANIFEST, (("accept", ACCEPT), NO_CACHE), head=True)


def test_there_or_not() -> None:
    for status, there in ((200, True), (404, False)):
        flow = exists("r.example:5000/a/b:t")
        assert next(flow) == ASKED
        with pytest.raises(StopIteration) as stop:
            flow.send(HttpReply(status, MANIFEST))
        assert stop.value.value is there


def test_unencrypted_where_the_operator_says_so() -> None:
    question = next(exists("127.0.0.1:5055/x:t", plain_http={"127.0.0.1:5055"}))
    assert question.url == "http://127.0.0.1:5055/v2/x/manifests/t"


@pytest.mark.parametrize("status", [0, 201, 301, 429, 500, 503])
def test_anything_else_leaves_it_open(status: int) -> None:
    flow = exists("r.example:5000/a/b:t")
    next(flow)
    with pytest.raises(RegistryUnavailable, match=rf"r\.example:5000.*answered {status}"):
        flow.send(HttpReply(status, MANIFEST))


@pytest.mark.parametrize(("status", "there"), [(200, True), (404, False)])
@pytest.mark.parametrize("first", [400, 403, 405])
def test_a_registry_that_knows_no_head_is_asked_with_get(
    first: int, status: int, *, there: bool
) -> None:
    flow = exists("r.example:5000/a/b:t")
    next(flow)
    assert flow.send(HttpReply(first, MANIFEST)) == replace(ASKED, head=False)
    with pytest.raises(StopIteration) as stop:
        flow.send(HttpReply(status, MANIFEST))
    assert stop.value.value is there


@pytest.mark.parametrize("status", [400, 403, 405, 429, 503])
def test_what_the_registry_says_of_it_is_told(status: int) -> None:
    flow = exists("r.example:5000/a/b:t", LOGIN)
    next(flow)
    flow.send(HttpReply(403, MANIFEST))
    body = b'{"errors": [{"code": "DENIED", "message": "not\\nfor you."}, {"code": "X"}]}'
    with pytest.raises(RegistryUnavailable, match=rf"{status} \(not for you\.; X\)\. \w+"):
        flow.send(HttpReply(status, MANIFEST, {}, body))


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b"<html>", b'{"errors": null}', b'{"errors": [{"message": "s3cret"}]}'],
)
def test_a_body_that_tells_nothing_fit_to_be_told(body: bytes) -> None:
    flow = exists("r.example:5000/a/b:t", LOGIN)
    next(flow)
    flow.send(HttpReply(403, MANIFEST))
    with pytest.raises(RegistryUnavailable, match=r"answered 403\. Who we are there"):
        flow.send(HttpReply(403, MANIFEST, {}, body))


def test_no_answer_leaves_it_open() -> None:
    flow = exists("r.example:5000/a/b:t")
    next(flow)
    with pytest.raises(RegistryUnavailable, match=r"r\.example:5000 did not answer: nobody"):
        flow.throw(ProviderUnavailable("nobody"))


def challenge(text: str, url: str = MANIFEST) -> HttpReply:
    return HttpReply(401, url, {"www-authenticate": text})


def test_basic() -> None:
    flow = exists("r.example:5000/a/b:t", LOGIN)
    next(flow)
    question = flow.send(challenge('Basic realm="r"'))
    assert question == HttpGet(
        MANIFEST, (("accept", ACCEPT), ("authorization", BASIC), NO_CACHE), head=True
    )
    with pytest.raises(StopIteration) as stop:
        flow.send(HttpReply(404, MANIFEST))
    assert stop.value.value is False


HUB = "https://registry-1.docker.io/v2/library/python/manifests/3.12"
BEARER = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/python:pull"'
)
TOKEN = (
    "https://auth.docker.io/token?service=registry.docker.io&scope=repository:library/python:pull"
)


@pytest.mark.parametrize("login", [None, LOGIN])
@pytest.mark.parametrize("key", ["token", "access_token"])
def test_bearer(login: Login | None, key: str) -> None:
    flow = exists("python:3.12", login)
    assert next(flow).url == HUB
    question = flow.send(challenge(BEARER, HUB))
    headers = (NO_CACHE,) if login is None else (NO_CACHE, ("authorization", BASIC))
    assert question == HttpGet(TOKEN, headers)
    question = flow.send(HttpReply(200, TOKEN, {}, b'{"%s": "t0ken"}' % key.encode()))
    assert question == HttpGet(
        HUB, (("accept", ACCEPT), ("authorization", "Bearer t0ken"), NO_CACHE), head=True
    )
    with pytest.raises(StopIteration) as stop:
        flow.send(HttpReply(200, HUB))
    assert stop.value.value is True


def test_a_second_refusal_leaves_it_open() -> None:
    flow = exists("r.example:5000/a/b:t", LOGIN)
    next(flow)
    flow.send(challenge('Basic realm="r"'))
    with pytest.raises(RegistryUnavailable, match=r"answered 401\. It refuses the login"):
        flow.send(challenge('Basic realm="r"'))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Negotiate",
        'Basic realm="r"',
        "Bearer",
        'Bearer realm="http://elsewhere.example/token"',
        'Bearer realm="/token"',
        'Bearer realm="ftp://r.example:5000x/token"',
    ],
)
def test_what_it_wants_cannot_be_given(header: str) -> None:
    flow = exists("r.example:5000/a/b:t")
    next(flow)
    with pytest.raises(RegistryUnavailable, match="401"):
        flow.send(challenge(header))


def test_the_realm_may_be_the_registry_itself() -> None:
    flow = exists("r.example:5000/a/b:t", plain_http={"r.example:5000"})
    url = next(flow).url
    question = flow.send(
        challenge('Bearer realm="http://r.example:5000/token?a=b", Basic x=y', url)
    )
    assert question.url == "http://r.example:5000/token?a=b&scope=repository:a/b:pull"


@pytest.mark.parametrize(
    "reply",
    [
        HttpReply(200, TOKEN, {}, b"<html>"),
        HttpReply(200, TOKEN, {}, b"{}"),
        HttpReply(200, TOKEN, {}, b'{"token": "a\\nb: c"}'),
        HttpReply(500, TOKEN),
        HttpReply(401, TOKEN),
    ],
)
def test_no_token_leaves_it_open(reply: HttpReply) -> None:
    flow = exists("python:3.12")
    next(flow)
    flow.send(challenge(BEARER, HUB))
    with pytest.raises(RegistryUnavailable, match=r"docker\.io"):
        flow.send(reply)


def test_no_secret_shows() -> None:
    flow = exists("python:3.12", LOGIN)
    shown = repr(LOGIN) + repr(next(flow)) + repr(flow.send(challenge(BEARER, HUB)))
    shown += repr(flow.send(HttpReply(200, TOKEN, {}, b'{"token": "t0ken"}')))
    with pytest.raises(RegistryUnavailable) as caught:
        flow.send(HttpReply(500, HUB))
    shown += str(caught.value)
    for secret in ("s3cret", "t0ken", BASIC.removeprefix("Basic ")):
        assert secret not in shown


REGISTRIES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("registries.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("known", REGISTRIES, ids=lambda known: str(known["registry"]))
def test_the_registries_of_the_field(known: dict[str, Any]) -> None:
    flow = exists(known["image"], LOGIN)
    url = next(flow).url
    assert url == known["asked"]
    question = flow.send(challenge(", ".join(known["challenge"]), url))
    if known["token"] is not None:
        assert question == HttpGet(known["token"], (NO_CACHE, ("authorization", BASIC)))
        question = flow.send(HttpReply(200, question.url, {}, b'{"token": "t0ken"}'))
        proof = "Bearer t0ken"
    else:
        proof = BASIC
    headers = (("accept", ACCEPT), ("authorization", proof), NO_CACHE)
    assert question == HttpGet(url, headers, head=True)
    with pytest.raises(StopIteration) as stop:
        flow.send(HttpReply(404, url))
    assert stop.value.value is False


@pytest.mark.parametrize("refused", [401, 403])
@pytest.mark.parametrize(("status", "there"), [(200, True), (404, False)])
def test_a_repository_that_is_not_there_is_shown_to_who_may_push(
    refused: int, status: int, *, there: bool
) -> None:
    flow = exists("python:3.12", LOGIN)
    next(flow)
    flow.send(challenge(BEARER, HUB))
    flow.send(HttpReply(200, TOKEN, {}, b'{"token": "pull"}'))
    question = flow.send(challenge(BEARER, HUB) if refused == 401 else HttpReply(403, HUB))
    if refused == 403:  # asked again for what it says
        assert question.url == HUB
        question = flow.send(HttpReply(403, HUB))
    assert question == HttpGet(f"{TOKEN},push", (NO_CACHE, ("authorization", BASIC)))
    question = flow.send(HttpReply(200, TOKEN, {}, b'{"token": "push"}'))
    assert ("authorization", "Bearer push") in question.headers
    with pytest.raises(StopIteration) as stop:
        flow.send(HttpReply(status, HUB))
    assert stop.value.value is there


def test_who_may_not_push_either_leaves_it_open() -> None:
    flow = exists("python:3.12", LOGIN)
    next(flow)
    for token in (b'{"token": "pull"}', b'{"token": "push"}'):
        flow.send(challenge(BEARER, HUB))
        flow.send(HttpReply(200, TOKEN, {}, token))
    with pytest.raises(RegistryUnavailable, match=r"docker\.io \(.*401.*may it push to library/py"):
        flow.send(challenge(BEARER, HUB))


def test_who_is_nobody_is_not_told_to_push() -> None:
    flow = exists("python:3.12")
    next(flow)
    flow.send(challenge(BEARER, HUB))
    flow.send(HttpReply(200, TOKEN, {}, b'{"token": "pull"}'))
    with pytest.raises(RegistryUnavailable, match=r"401\. It asks for a login and none is"):
        flow.send(challenge(BEARER, HUB))


def test_an_identity_token_is_told_in_a_form() -> None:
    flow = exists("me.azurecr.io/x:1", Login("", "", "idt0ken"))
    url = next(flow).url
    question = flow.send(challenge('Bearer realm="https://me.azurecr.io/t",service="acr"', url))
    assert isinstance(question, HttpPost)
    assert question.url == "https://me.azurecr.io/t"
    assert dict(question.form) == {
        "grant_type": "refresh_token",
        "service": "acr",
        "client_id": "binderkit",
        "scope": "repository:x:pull",
        "refresh_token": "idt0ken",
    }
    assert "idt0ken" not in repr(question)
    question = flow.send(HttpReply(200, question.url, {}, b'{"access_token": "t0ken"}'))
    assert ("authorization", "Bearer t0ken") in question.headers


def test_an_identity_token_is_no_password() -> None:
    flow = exists("r.example:5000/a/b:t", Login("", "", "idt0ken"))
    next(flow)
    with pytest.raises(RegistryUnavailable, match="answered 401"):
        flow.send(challenge('Basic realm="r"'))


@pytest.mark.parametrize("led", ["https://cdn.example/x", "http://r.example:5000/x"])
def test_a_host_that_it_leads_to_gets_no_login(led: str) -> None:
    flow = exists("r.example:5000/a/b:t", LOGIN)
    next(flow)
    with pytest.raises(RegistryUnavailable, match=r"example:5000 leads to .*asks for a login"):
        flow.send(challenge('Basic realm="r"', led))


@pytest.mark.parametrize(
    ("realm", "plain"),
    [
        ("http://r.example/token", {"r.example"}),
        ("http://r.example:81/token", {"r.example"}),
        ("http://auth.example/token", {"r.example", "auth.example"}),
        ("http://auth.example:81/token", {"auth.example:81"}),
        ("http://127.0.0.1:81/token", set[str]()),
        ("https://auth.example/token", {"r.example"}),
    ],
)
def test_where_tokens_may_be_asked_for(realm: str, plain: set[str]) -> None:
    flow = exists("r.example/x:t", LOGIN, plain_http=plain)
    url = next(flow).url
    assert flow.send(challenge(f'Bearer realm="{realm}"', url)).url.startswith(f"{realm}?scope=")


@pytest.mark.parametrize(
    ("realm", "plain"),
    [
        ("http://r.example/token", set[str]()),
        ("http://auth.example/token", {"r.example"}),
        ("http://harbor-core.default.svc.cluster.local/token", set[str]()),
        ("https://me:pw@auth.example/token", set[str]()),
        ("https:///token", set[str]()),
    ],
)
def test_where_a_password_does_not_go(realm: str, plain: set[str]) -> None:
    flow = exists("r.example/x:t", LOGIN, plain_http=plain)
    url = next(flow).url
    with pytest.raises(RegistryUnavailable, match=r"registry r\.example wants its tokens \(401\)"):
        flow.send(challenge(f'Bearer realm="{realm}"', url))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        ("Negotiate", [Challenge("negotiate", {})]),
        ('BASIC realm = "a"', [Challenge("basic", {"realm": "a"})]),
        (
            'Basic realm="x, Bearer y", Bearer realm="https://a/t",service=s,Scope="a,b"',
            [
                Challenge("basic", {"realm": "x, Bearer y"}),
                Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "a,b"}),
            ],
        ),
        (
            'Negotiate abc/+==, Basic realm="say \\"a\\""',
            [Challenge("negotiate", {}), Challenge("basic", {"realm": 'say "a"'})],
        ),
        ("Negotiate, Basic", [Challenge("negotiate", {}), Challenge("basic", {})]),
        ('realm="a", "", =, Basic', [Challenge("basic", {})]),
        ('Bearer realm="one",realm="two"', [Challenge("bearer", {"realm": "one"})]),
        ('Bearer realm="open', [Challenge("bearer", {})]),
    ],
)
def test_challenges(header: str, found: list[Challenge]) -> None:
    assert challenges(header) == found


@given(st.text() | st.text('Basic realm="a", =\\\t'))
def test_any_header_is_read_to_its_end(header: str) -> None:
    assert all(one.scheme == one.scheme.lower() for one in challenges(header))


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        *((host, True) for host in ("localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:1")),
        *((host, True) for host in ("[::1]", "[::1]:5000")),
        *((host, False) for host in ("", "docker.io", "127.0.0.1.example", "10.0.0.1:5000")),
        *((host, False) for host in ("localhost.example", "me@localhost", "[::1", "::1")),
    ],
)
def test_this_machine(host: str, *, is_it: bool) -> None:
    assert is_loopback(host) is is_it


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        (401, "It asks for a login and none is configured for r.example:5000: give one."),
        (403, "Who we are there may not look into a/b"),
        (418, "Is r.example:5000 the address of a registry, and the name right?"),
        (429, "It has been asked too often: log in there, or wait"),
        (502, "Try again in a few minutes."),
    ],
)
def test_what_to_try(status: int, cure: str) -> None:
    flow = exists("r.example:5000/a/b:t")
    next(flow)
    with pytest.raises(RegistryUnavailable) as caught:
        for _ in range(2):  # once more with GET, where that may help
            flow.send(HttpReply(status, MANIFEST))
    assert f"answered {status}. {cure}" in str(caught.value)
