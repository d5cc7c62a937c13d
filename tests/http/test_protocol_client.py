"""Clients made from a declaration, against servers on real sockets."""

from __future__ import annotations

import inspect
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import anyio
import httpx
import pytest
from declarations import Case, answers, cases
from declared import Declared, Got, serving_declared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import Reply, scripted

import binder_http.protocol_client as clients
from binder_core.protocol import (
    BINDER,
    DeclarationError,
    dumps,
    failure,
    failure_class,
    python_name,
)
from binder_http import protocol_calls
from binder_http.protocol_calls import docstring, signature
from binder_http.protocol_client import (
    AlreadyBuilding,
    BadResponse,
    BlockingClient,
    BlockingProtocolClient,
    Client,
    Failure,
    Generic,
    MalformedRequest,
    ProtocolClient,
    Refused,
    Timeout,
    Unauthorized,
    load,
)
from binder_http.protocol_stub import stub

REPO: Final = "https://github.com/a/b"
KEY: Final = "k3y-with-$igns"
SOURCE: Final = Path(clients.__file__).parent


def started(got: Got) -> Any:
    return {"name": "a-b"}


@pytest.fixture
def server() -> Iterator[Declared]:
    with serving_declared(BINDER, started) as running:
        yield running


# One declaration, both ends.


@given(case=cases(), data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_clients_and_handlers_agree(case: Case, data: st.DataObject) -> None:
    answer = data.draw(answers(case.endpoint.response.body))
    outcomes: list[Any] = [answer]
    known = {error.name: error for error in case.protocol.errors}
    known |= {error.name: error for error in case.endpoint.response.errors}
    outcomes += [failure(case.protocol, case.endpoint, name, case.values) for name in known]
    given_ = {python_name(name): value for name, value in case.values.items()}

    def handler(_: Got) -> Any:
        outcome = outcomes[len(RUNNING.got) - 1]
        if isinstance(outcome, Failure):
            raise outcome
        return outcome

    RUNNING.protocol, RUNNING.handler = case.protocol, handler
    where: dict[str, Any] = {"host": "127.0.0.1", "port": RUNNING.port, "api_key": KEY}
    blocking = BlockingProtocolClient(case.protocol, http=BLOCKING, **where)
    for told in (_blocking(blocking, case, given_), _asynchronous(case, given_, where)):
        RUNNING.got.clear()
        for outcome in outcomes:
            result = next(told)
            if isinstance(outcome, Failure):
                assert type(result) is failure_class(outcome.name)
                # A server's message is sent as it is; an empty one is told in the client's words.
                assert result.message == outcome.message or not outcome.message
                assert result.endpoint == outcome.endpoint
                assert len(result.suggestions) == len(outcome.suggestions)
            else:
                assert result == outcome
        for got in RUNNING.got:
            assert got.endpoint is case.endpoint
            assert got.values == case.values
            assert got.key == KEY
        assert len(RUNNING.got) == len(outcomes)


RUNNING: Declared
BLOCKING: httpx.Client


@pytest.fixture(scope="module", autouse=True)
def _one_for_all_examples() -> Iterator[None]:
    global RUNNING, BLOCKING
    with serving_declared(BINDER, started) as RUNNING, httpx.Client() as BLOCKING:
        yield


def _blocking(client: BlockingProtocolClient, case: Case, given_: dict[str, Any]) -> Iterator[Any]:
    function = client.function(f"{case.group.name}.{case.endpoint.name}")
    while True:
        try:
            yield function(**given_)
        except Failure as error:
            yield error


def _asynchronous(case: Case, given_: dict[str, Any], where: dict[str, Any]) -> Iterator[Any]:
    async def ask() -> Any:
        # A client lives in one event loop; without TLS it costs nothing.
        async with httpx.AsyncClient(verify=False) as http:
            client = ProtocolClient(case.protocol, http=http, **where)
            group = getattr(client, python_name(case.group.name) + "_")
            try:
                return await getattr(group, python_name(case.endpoint.name))(**given_)
            except Failure as error:
                return error

    while True:
        yield anyio.run(ask)


# The older protocol.


def test_one_call_says_where_and_who(server: Declared) -> None:
    with BlockingClient() as client:
        result = client.build.start(
            host="localhost", port=server.port, api_key=KEY, repository=REPO, force=True
        )
    assert result["name"] == "a-b"
    assert [(got.values, got.key) for got in server.got] == [
        ({"repository": REPO, "force": True}, KEY)
    ]


@pytest.mark.anyio
async def test_the_client_can_be_told_once(server: Declared) -> None:
    async with Client(host="127.0.0.1", port=server.port, api_key=KEY) as client:
        assert (await client.build.start(repository=REPO))["name"] == "a-b"
        # What one call says goes before.
        await client.build.start(repository=REPO, api_key="another")
    assert [got.key for got in server.got] == [KEY, "another"]


@pytest.mark.parametrize("base", ["http://127.0.0.1", "http://127.0.0.1/"])
def test_a_host_can_be_a_url(server: Declared, base: str) -> None:
    with BlockingClient(host=base, port=server.port, api_key=KEY) as client:
        assert client.build.start(repository=REPO)["name"] == "a-b"


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "http://127.0.0.1:{port}"])
def test_a_host_can_have_the_port(server: Declared, host: str) -> None:
    with BlockingClient(host=host.format(port=server.port), api_key=KEY) as client:
        assert client.build.start(repository=REPO)["name"] == "a-b"


def test_a_path_can_stand_before() -> None:
    with scripted(lambda *_: _json(b"[]")) as there:
        with BlockingClient(host=f"{there.url}/base/", api_key=KEY) as client:
            assert client.registry.fetch_all() == []
        assert there.asked[0].target == "/base/templates/"
        assert there.asked[0].headers["authorization"] == KEY


def test_an_open_endpoint_needs_no_key_and_gets_one_if_there_is_one() -> None:
    body = b'{"id":"1","location":null}'
    with scripted(lambda *_: _json(body)) as there, BlockingClient(host=there.url) as client:
        assert client.deploy.status(template_name="a/b", id="..x")["location"] is None
        client.deploy.status(template_name="a", id="b", api_key=KEY)
    assert there.asked[0].target == "/applications/a%2Fb/..x"
    assert there.asked[0].headers["connection"] == "close"
    assert [asked.headers.get("authorization") for asked in there.asked] == [None, KEY]


def test_names_of_python_keep_clear_of_what_clients_have(server: Declared) -> None:
    with BlockingProtocolClient(BINDER, host="127.0.0.1", port=server.port) as client:
        assert "build" in dir(client)
        assert "status_all" in dir(client.build)
        assert client.build_.start.__qualname__ == "build.start"
        assert client.function("deploy._preload").__name__ == "preload"
        with pytest.raises(KeyError):
            client.function("deploy.preload")
        with pytest.raises(AttributeError, match="no group 'built'; there are: build, registry"):
            _ = client.built
        with pytest.raises(AttributeError, match="no 'begin'; there are: start, status"):
            _ = client.build.begin


def test_a_declared_error_has_its_suggestions(server: Declared) -> None:
    def handler(got: Got) -> Any:
        raise failure(BINDER, got.endpoint, "alreadyBuilding", got.values)

    server.handler = handler
    with BlockingClient(host="127.0.0.1", port=server.port, api_key=KEY) as client:
        with pytest.raises(AlreadyBuilding) as caught:
            client.build.start(repository=REPO)
        assert any(error is AlreadyBuilding for error in client.errors)
        assert client.errors.AlreadyBuilding is AlreadyBuilding
        assert "AlreadyBuilding" in dir(client.errors)
        with pytest.raises(AttributeError, match="no error 'Nothing'"):
            _ = client.errors.Nothing
    assert caught.value.message == f"{REPO} is being built already"
    assert caught.value.status == 500
    assert caught.value.name == "alreadyBuilding"
    assert "start another one with `force`" in caught.value.suggestions


# What is malformed is not sent.


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({}, "repository is missing"),
        ({"repository": None}, "repository is missing"),
        ({"repository": 5}, "repository is a String, not 5"),
        ({"repository": REPO, "force": "yes"}, "force is a Boolean"),
        ({"repository": REPO, "ref": "main"}, "no parameter 'ref'"),
        ({"repository": REPO, "host": "a b"}, "host is"),
        ({"repository": REPO, "host": 5}, "host is no text"),
        ({"repository": REPO, "host": "http://"}, "host is a name, an address"),
        ({"repository": REPO, "host": "ftp://x"}, "host is a name, an address"),
        ({"repository": REPO, "host": "u:secret@x"}, "host is a name, an address"),
        ({"repository": REPO, "host": "http://x?token=secret"}, "host is a name, an address"),
        ({"repository": REPO, "host": "x:99999"}, "host is no name or address"),
        ({"repository": REPO, "host": "[::1"}, "host is no name or address"),
        ({"repository": REPO, "port": 70000}, "port is a number from 1 to 65535"),
        ({"repository": REPO, "port": "80"}, "port is a number from 1 to 65535"),
        ({"repository": REPO, "api_key": "secret\nx: y"}, "api-key holds what no header can"),
        ({"repository": REPO, "api_key": "secrét"}, "api-key holds what no header can"),
        ({"repository": REPO, "api_key": 5}, "api-key is missing"),
    ],
)
def test_malformed(server: Declared, given_: dict[str, Any], why: str) -> None:
    where = {"host": "127.0.0.1", "port": server.port, "api_key": KEY}
    with BlockingProtocolClient(BINDER) as client, pytest.raises(MalformedRequest) as caught:
        client.build.start(**where | given_)
    assert why in caught.value.message
    assert caught.value.endpoint == "build.start"
    assert not server.got
    assert "secr" not in str(caught.value)


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({"port": 80, "api_key": KEY}, "host is missing"),
        ({"host": "localhost", "api_key": KEY}, "port is missing"),
        ({"host": "localhost", "port": 80}, "api-key is missing"),
    ],
)
def test_what_nobody_said_is_missing(given_: dict[str, Any], why: str) -> None:
    with BlockingProtocolClient(BINDER) as client, pytest.raises(MalformedRequest, match=why):
        client.build.start(repository=REPO, **given_)


# Servers that are not there, or not what they should be.


def _json(body: bytes, status: str = "200 OK") -> Reply:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
    return Reply(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def _html(status: str, body: bytes = b"<!doctype html><title>Hello</title>") -> Reply:
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/html\r\nlocation: /login\r\n"
    return Reply(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


BAD: Final[list[tuple[Reply, type[Failure], str]]] = [
    (_html("200 OK"), BadResponse, "it is not JSON"),
    (_html("302 Found"), BadResponse, "status 302"),
    (_html("404 Not Found"), BadResponse, "status 404"),
    (_html("502 Bad Gateway"), BadResponse, "status 502"),
    (_html("403 Forbidden"), Unauthorized, "The API key"),
    (_json(b"{}"), BadResponse, "name is missing"),
    (_json(b'{"name":1}'), BadResponse, "name is no String"),
    (_json(b'{"name":"a"'), BadResponse, "it is not JSON"),
    (_json(b"{}", "500 No"), Generic, "status 500, {}"),
    (Reply(b"SSH-2.0-OpenSSH_9.9\r\n"), BadResponse, "The answer to registry.fetch makes no sense"),
    (Reply(b""), BadResponse, "makes no sense"),
    (Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), BadResponse, "makes no sense"),
    (
        Reply(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"),
        BadResponse,
        "makes no sense",
    ),
    (Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "reset"), Generic, "connection"),
    (Reply(b"", "hang"), Timeout, "did not answer in time"),
    (Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "hang"), Timeout, "in time"),
]


@pytest.mark.parametrize(("reply", "kind", "why"), BAD, ids=[str(n) for n in range(len(BAD))])
@pytest.mark.anyio
async def test_a_bad_answer_is_a_declared_error(
    reply: Reply, kind: type[Failure], why: str
) -> None:
    timeout = 0.2 if reply.then == "hang" else 20
    with scripted(lambda *_: reply) as there:
        async with Client(host=there.url, api_key=KEY, timeout=timeout) as client:
            with pytest.raises(kind, match=why) as caught:
                await client.registry.fetch(template_name="a-b")
        # The script answers from other threads: this one can wait.
        with (
            BlockingClient(host=there.url, api_key=KEY, timeout=timeout) as blocking,
            pytest.raises(kind) as again,
        ):
            blocking.registry.fetch(template_name="a-b")
    assert why in again.value.message
    assert KEY not in repr((caught.value, caught.value.__cause__, again.value))
    assert caught.value.suggestions


def test_an_answer_that_trickles_in_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    # Never silent for long, but late all the same: five seconds pass at each look at the clock.
    now = itertools.count(0.0, 5.0)
    monkeypatch.setattr(protocol_calls, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with (
        scripted(lambda *_: _json(b"{}")) as there,
        BlockingClient(host=there.url, api_key=KEY, timeout=4) as client,
        pytest.raises(Timeout),
    ):
        client.registry.fetch(template_name="a-b")


@pytest.mark.anyio
async def test_an_answer_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_calls, "_LARGEST_ANSWER_BYTES", 1000)
    with scripted(lambda *_: _json(b"[" + b" " * 5000 + b"]")) as there:
        async with Client(host=there.url, api_key=KEY) as client:
            with pytest.raises(BadResponse, match="it has more than"):
                await client.registry.fetch(template_name="a-b")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.anyio
async def test_nobody_there(host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with Client(host=host, port=port, api_key=KEY) as client:
            with pytest.raises(Refused) as caught:
                await client.registry.fetch(template_name="a-b")
        with (
            BlockingClient(host=host, port=port, api_key=KEY) as blocking,
            pytest.raises(Refused),
        ):
            blocking.registry.fetch(template_name="a-b")
    assert caught.value.message == f"No server takes connections at {host}:{port}"
    assert caught.value.name == "refused"


def test_a_server_without_tls_is_told_from_one_that_is_not_there(server: Declared) -> None:
    with (
        BlockingClient(host="https://127.0.0.1", port=server.port, api_key=KEY) as client,
        pytest.raises(Generic, match=r"no way to 127\.0\.0\.1: "),
    ):
        client.build.start(repository=REPO)


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with (
        BlockingClient(host="nowhere.example", port=80, api_key=KEY) as client,
        pytest.raises(Generic, match=r"no way to nowhere\.example: .*not known"),
    ):
        client.build.start(repository=REPO)


def test_no_proxy_leads_to_this_machine(server: Declared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    for host in ("localhost", "127.0.0.1"):
        with BlockingClient(host=host, port=server.port, api_key=KEY) as client:
            assert client.build.start(repository=REPO)["name"] == "a-b"


@pytest.mark.anyio
async def test_a_client_of_yours_stays_open(server: Declared) -> None:
    async with httpx.AsyncClient() as http:
        async with Client(host="127.0.0.1", port=server.port, api_key=KEY, http=http) as client:
            await client.build.start(repository=REPO)
        assert not http.is_closed
    with httpx.Client() as blocking:
        with BlockingClient(http=blocking):
            pass
        assert not blocking.is_closed


# Generated, for tools and people.


def test_the_stub_is_up_to_date() -> None:
    assert (SOURCE / "protocol_client.pyi").read_text() == stub(BINDER)


def test_the_stub_and_the_module_have_the_same_names() -> None:
    assert sorted(clients.__all__) == sorted(set(clients.__all__))
    for name in clients.__all__:
        assert f"\nclass {name}" in stub(BINDER) or f'    "{name}",' in stub(BINDER)
        assert getattr(clients, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        getattr(clients, "Nothing")  # noqa: B009 - the stub has none


@pytest.mark.parametrize("kind", [Client, BlockingClient])
def test_signatures_and_docstrings_come_from_the_declaration(kind: Any) -> None:
    client = kind(http=httpx.Client() if kind is BlockingClient else None)
    for group, endpoint in BINDER:
        function = getattr(getattr(client, group.name), python_name(endpoint.name))
        made = inspect.signature(function)
        assert made == signature(endpoint)
        assert [*made.parameters] == [
            *(python_name(param.name) for param in endpoint.params),
            "host",
            "port",
            "api_key",
        ]
        for param in endpoint.params:
            bare = made.parameters[python_name(param.name)].default is inspect.Parameter.empty
            assert bare == param.required
        assert function.__doc__ == docstring(BINDER, endpoint)
        assert endpoint.description in function.__doc__
        assert all(param.description in function.__doc__ for param in endpoint.params)
        assert inspect.iscoroutinefunction(function) == (kind is Client)


# Somebody else's declaration.

SHOP: Final = b"""
{
  "shop": {
    "findAll": {
      "path": "/shelf/{shelf}",
      "params": {
        "shelf": {"type": "Number", "description": "which one"},
        "class": {"type": "String", "description": "what kind", "required": false}
      },
      "description": "Find all",
      "msg": "Looking at {shelf}",
      "request": {"method": "GET"},
      "response": {
        "body": [{"title": "String"}],
        "error": {
          "outOfStock": {"status": 410, "msg": "Nothing on {shelf}", "suggestions": ["wait"]}
        }
      }
    }
  }
}
"""


def test_a_file_gives_a_client(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_bytes(SHOP)
    shop = load(tmp_path / "shop.json")
    replies = [_json(b'[{"title":"A"}]'), _json(b'{"type":"outOfStock"}', "410 Gone")]
    with (
        scripted(lambda _, count: replies[count]) as there,
        BlockingProtocolClient(shop, host=there.url) as client,
    ):
        assert client.shop.find_all(shelf=3, class_="x y") == [{"title": "A"}]
        with pytest.raises(client.errors.OutOfStock, match="Nothing on 4") as caught:
            client.shop.find_all(shelf=4)
    assert [asked.target for asked in there.asked] == ["/shelf/3?class=x%20y", "/shelf/4"]
    assert isinstance(caught.value, Failure)
    assert caught.value.suggestions == ("wait",)


def test_a_bad_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(dumps(BINDER).replace(b"{image-name}", b"{image}", 1))
    with pytest.raises(DeclarationError, match=r"build\.status: .*there is no parameter 'image'"):
        load(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")
