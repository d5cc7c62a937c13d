"""What a client sends is what a server gets, and what that answers is what the client returns."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pytest
from declarations import Case, answers, cases, protocols, texts
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from binder_core.protocol import (
    BINDER,
    Endpoint,
    Fields,
    Group,
    Kind,
    Param,
    Protocol,
    Request,
    Response,
    Value,
    dumps,
    failure,
    failure_class,
    fill,
    filled,
    interpret,
    loads,
    match,
    methods,
    parse,
)

# Drawing a declaration takes a while, more so on a busy machine.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
fewer = settings(calm, max_examples=40)

START: Final = BINDER.endpoint("build.start")
FETCH: Final = BINDER.endpoint("registry.fetch")
DEPLOY: Final = BINDER.endpoint("deploy.deploy")
ALL: Final = BINDER.endpoint("deploy.statusAll")


def received(protocol: Protocol, method: str, target: str, body: bytes | None) -> Any:
    """Return what a server makes of a request: the endpoint and the values."""
    path, _, query = target.partition("?")
    found = match(protocol, method, path)
    assert found is not None
    return found.endpoint, parse(protocol, found, query=query, body=body or b"")


@calm
@given(cases())
def test_what_is_sent_is_what_is_received(case: Case) -> None:
    call = fill(case.protocol, case.endpoint, case.values)
    endpoint, values = received(case.protocol, call.method, call.target, call.body)
    assert endpoint is case.endpoint
    assert values == case.values
    assert [type(each) for each in values.values()] == [type(case.values[name]) for name in values]
    assert call.authorized == endpoint.request.authorized
    assert (call.body is None) == (not endpoint.request.body)
    assert all("!" <= char <= "~" for char in call.target)
    assert call.target.partition("?")[0].count("/") == endpoint.path.count("/")


@fewer
@given(cases())
def test_null_is_absent_and_a_text_is_what_it_says(case: Case) -> None:
    nothing: dict[str, Value | None] = {param.name: None for param in case.endpoint.params}
    call = fill(case.protocol, case.endpoint, nothing | case.values)
    assert call == fill(case.protocol, case.endpoint, case.values)
    if call.body is not None:
        sent = msgspec.json.decode(call.body)
        # The older command line sends all values as text.
        as_text = {
            name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
            for name, value in sent.items()
        }
        body = msgspec.json.encode(dict.fromkeys(case.endpoint.request.body) | as_text)
        assert received(case.protocol, call.method, call.target, body)[1] == case.values


@fewer
@given(cases(), st.data())
def test_wrong_requests_are_malformed_at_both_ends(case: Case, data: st.DataObject) -> None:
    values: dict[str, Any] = dict(case.values)
    required = [param.name for param in case.endpoint.params if param.required]
    wrong = data.draw(st.sampled_from(["extra", "missing", "type"]))
    if wrong == "extra":
        values["no such"] = 1
    elif wrong == "missing":
        assume(required)
        del values[data.draw(st.sampled_from(required))]
    else:
        assume(values)
        values[data.draw(st.sampled_from(sorted(values)))] = [1]
    with pytest.raises(failure_class("malformedRequest")) as caught:
        fill(case.protocol, case.endpoint, values)
    assert caught.value.endpoint == case.protocol.full_name(case.endpoint)
    in_body = case.endpoint.request.body
    if in_body and (wrong != "missing" or set(required) - set(values) <= set(in_body)):
        call = fill(case.protocol, case.endpoint, case.values)
        named = [name for name in values if name in in_body or name == "no such"]
        body = {name: values[name] for name in named}
        assume(body != {name: case.values[name] for name in in_body if name in case.values})
        with pytest.raises(failure_class("malformedRequest")):
            received(case.protocol, call.method, call.target, msgspec.json.encode(body))


@fewer
@given(cases(), st.data())
def test_every_answer_is_returned_as_it_is(case: Case, data: st.DataObject) -> None:
    answer = data.draw(answers(case.endpoint.response.body))
    status = case.endpoint.response.success.status
    body = msgspec.json.encode(answer)
    assert interpret(case.protocol, case.endpoint, status, body) == answer


@fewer
@given(cases(), texts)
def test_every_declared_error_arrives(case: Case, said: str) -> None:
    shown: dict[str, object] = {**case.values, "host": "h", "port": 1}
    shown["name"] = case.protocol.full_name(case.endpoint)
    # The endpoint's own goes before a global one of that name.
    known = {error.name: error for error in case.protocol.errors}
    known |= {error.name: error for error in case.endpoint.response.errors}
    for error in known.values():
        sent = failure(case.protocol, case.endpoint, error.name, case.values, message=said)
        assert sent.body() == {"type": error.name, "error": said}
        with pytest.raises(failure_class(error.name)) as caught:
            interpret(
                case.protocol,
                case.endpoint,
                error.status or 500,
                msgspec.json.encode(sent.body()),
                shown,
            )
        assert caught.value.message == (said or filled(error.msg, shown))
        assert caught.value.suggestions == tuple(filled(each, shown) for each in error.suggestions)
        assert caught.value.status == error.status or error.status is None


@fewer
@given(protocols())
def test_every_declaration_survives_json(protocol: Protocol) -> None:
    assert loads(dumps(protocol)) == protocol


@fewer
@given(protocols(), st.text("/ab.~-{}%2F", max_size=12), st.sampled_from(["GET", "POST"]))
def test_any_path_is_one_endpoint_or_none(protocol: Protocol, path: str, method: str) -> None:
    found = match(protocol, method, path)
    assert (found is not None) == (method in methods(protocol, path))
    if found is not None:
        try:
            values = parse(protocol, found)
        except failure_class("malformedRequest"):
            return
        call = fill(protocol, found.endpoint, values)
        assert received(protocol, call.method, call.target, call.body)[1] == values


@calm
@given(st.binary(max_size=40), st.binary(max_size=20))
def test_any_body_and_query_is_parsed_or_malformed(body: bytes, query: bytes) -> None:
    found = match(BINDER, "POST", "/builds/")
    assert found is not None
    with suppress(failure_class("malformedRequest")):
        parse(BINDER, found, query=query.decode("latin-1"), body=body)


# Each by itself.


def test_the_path_says_what_is_asked_for() -> None:
    found = match(BINDER, "GET", "/applications/a%2Fb/x")
    assert found is not None
    assert found.endpoint is BINDER.endpoint("deploy.status")
    assert parse(BINDER, found) == {"template-name": "a/b", "id": "x"}


@pytest.mark.parametrize("path", ["/applications/", "/applications"])
def test_what_ends_a_path_may_be_left_out_where_it_is_optional(path: str) -> None:
    found = match(BINDER, "GET", path)
    assert found is not None
    assert found.endpoint is ALL
    assert parse(BINDER, found) == {}


@pytest.mark.parametrize(
    "path",
    ["", "/", "builds/", "/builds/a/b", "/builds/a/", "//builds/", "/Builds/", "/preload/", "/x"],
)
def test_nothing_is_at_other_paths(path: str) -> None:
    assert match(BINDER, "GET", path) is None
    assert methods(BINDER, path) == ()


def test_the_methods_of_a_path() -> None:
    assert methods(BINDER, "/builds/") == ("GET", "POST")
    assert methods(BINDER, "/builds/x") == ("GET",)


def test_an_absent_option_leaves_the_end_of_its_path() -> None:
    assert fill(BINDER, ALL, {}).target == "/applications/"
    assert fill(BINDER, ALL, {"template-name": "a b/ü?"}).target == (
        "/applications/a%20b%2F%C3%BC%3F"
    )


def test_what_is_neither_path_nor_body_is_query() -> None:
    params = (
        Param("q", Kind.STRING, ""),
        Param("n", Kind.NUMBER, "", required=False),
        Param("b", Kind.BOOLEAN, "", required=False),
    )
    endpoint = Endpoint("find", "/x", "", "", Request("GET"), Response(), params)
    protocol = Protocol((Group("g", (endpoint,)),))
    call = fill(protocol, endpoint, {"q": "a&b=c +%", "n": -1.5, "b": False})
    assert call.target == "/x?q=a%26b%3Dc%20%2B%25&n=-1.5&b=false"
    assert received(protocol, "GET", call.target, None)[1] == {
        "q": "a&b=c +%",
        "n": -1.5,
        "b": False,
    }
    for query in ("q=a&q=b", "q=a&x=b", "q=%ff", "q=a&n=", "q=a&n=nan", "q=a&b=True", "n=1"):
        with pytest.raises(failure_class("malformedRequest")):
            received(protocol, "GET", f"/x?{query}", None)


REPO: Final = "https://github.com/a/b"


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ({"repository": REPO}, {"repository": REPO}),
        ({"repository": REPO, "force": None}, {"repository": REPO}),
        ({"repository": REPO, "force": True}, {"repository": REPO, "force": True}),
        ({"repository": REPO, "force": "false"}, {"repository": REPO, "force": False}),
        ({"repository": ""}, {"repository": ""}),
    ],
)
def test_good_bodies(body: dict[str, Any], values: dict[str, Any]) -> None:
    assert received(BINDER, "POST", "/builds/", msgspec.json.encode(body))[1] == values


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/builds/", b"", "repository is missing"),
        ("/builds/", b"{}", "repository is missing"),
        ("/builds/", b'{"repository":null}', "repository is missing"),
        ("/builds/", b"{", "the body is not JSON"),
        ("/builds/", b"\xff\xfe", "the body is not JSON"),
        ("/builds/", b"<html>", "the body is not JSON"),
        ("/builds/", b"[" * 100_000, "the body is not JSON"),
        ("/builds/", b"[]", "the body is not a JSON object"),
        ("/builds/", b'"x"', "the body is not a JSON object"),
        ("/builds/", b'{"repository":5}', "repository is a String, not 5"),
        ("/builds/", b'{"repository":["x"]}', "repository is a String, not ['x']"),
        ("/builds/", b'{"repository":"a\\u0000b"}', "a character that no text has"),
        ("/builds/", b'{"repository":"x","force":1}', "force is a Boolean, not 1"),
        ("/builds/", b'{"repository":"x","force":"maybe"}', "force is a Boolean, not 'maybe'"),
        ("/builds/", b'{"repository":"x","force":""}', "force is a Boolean, not ''"),
        ("/builds/", b'{"repository":"x","ref":"y"}', "'ref' in the body is not declared"),
        ("/builds/?a=b", b'{"repository":"x"}', "'a' in the query is not declared"),
        ("/builds/?repository=x", b'{"repository":"x"}', "'repository' in the query is not"),
        ("/applications/", b'{"template-name":"x","cull-timeout":true}', "is a Number, not True"),
        ("/applications/", b'{"template-name":"x","cull-timeout":"1m"}', "is a Number, not '1m'"),
        ("/applications/", b'{"template-name":"x","cull-timeout":1e999}', "the body is not JSON"),
        ("/applications/", b'{"template-name":"x","cull-timeout":"1e999"}', "is not finite"),
        ("/applications/", b'{"template-name":"x","cull-timeout":9007199254740993}', "too large"),
        ("/applications/", b'{"template-name":"x","cull-timeout":' + b"9" * 5000 + b"}", ""),
        ("/preload/x", b'{"template-name":"x"}', "'template-name' in the body is not declared"),
        ("/preload/%2e%2e", b"", "template-name is a part of the path, and cannot be '..'"),
        ("/preload/%2E", b"", "cannot be '.'"),
        ("/preload/%ff", b"", "template-name is not UTF-8"),
        ("/preload/a%00b", b"", "a character that no text has"),
    ],
)  # fmt: skip
def test_bad_requests(path: str, body: bytes, why: str) -> None:
    with pytest.raises(failure_class("malformedRequest")) as caught:
        received(BINDER, "POST", path, body)
    assert why in caught.value.message
    assert caught.value.status == 422
    assert caught.value.body()["type"] == "malformedRequest"


@pytest.mark.parametrize(
    ("endpoint", "values", "why"),
    [
        (START, {}, "repository is missing"),
        (START, {"repository": "\ud800"}, "a character that no text has"),
        (START, {"repository": "x", "Force": True}, "no parameter 'Force' (there are: repository"),
        (FETCH, {"template-name": ".."}, "cannot be '..'"),
        (FETCH, {"template-name": "."}, "cannot be '.'"),
        (FETCH, {"template-name": ""}, "cannot be ''"),
        (ALL, {"template-name": ""}, "cannot be ''"),
        (DEPLOY, {"template-name": "x", "cull-timeout": math.nan}, "is not finite"),
        (DEPLOY, {"template-name": "x", "cull-timeout": 2**53 + 1}, "too large"),
        (DEPLOY, {"template-name": "x", "cull-timeout": "60"}, "is a Number, not '60'"),
    ],
)
def test_nothing_wrong_is_sent(endpoint: Endpoint, values: dict[str, Any], why: str) -> None:
    with pytest.raises(failure_class("malformedRequest")) as caught:
        fill(BINDER, endpoint, values)
    assert why in caught.value.message
    assert caught.value.suggestions
    assert "{" not in caught.value.suggestions[0]


TEMPLATE: Final[dict[str, Any]] = {
    "name": "a-b",
    "image-name": "a-b:1",
    "image-source": REPO,
    "port": 8888,
    "limits": {"memory": None, "cpu": 1.5},
    "services": [],
}


@pytest.mark.parametrize(
    ("status", "body", "name", "why"),
    [
        (200, b"", "badResponse", "it is not JSON"),
        (200, b"<html>hello</html>", "badResponse", "it is not JSON"),
        (200, b"null", "badResponse", "it is no object"),
        (200, b"[]", "badResponse", "it is no object"),
        (200, b"[" * 100_000, "badResponse", "it is not JSON"),
        (200, msgspec.json.encode(TEMPLATE | {"port": "8888"}), "badResponse", "port is no Number"),
        (200, msgspec.json.encode(TEMPLATE | {"port": True}), "badResponse", "port is no Number"),
        (200, msgspec.json.encode(TEMPLATE | {"name": None}), "badResponse", "name is no String"),
        (200, msgspec.json.encode(TEMPLATE | {"limits": {"cpu": 1}}), "badResponse",
         "limits.memory is missing"),
        (200, msgspec.json.encode(TEMPLATE | {"services": [1]}), "badResponse",
         "services[0] is no Object"),
        (204, b"", "badResponse", "status 204"),
        (302, b"", "badResponse", "status 302"),
        (403, b"<html>", "unauthorized", "The API key is missing, wrong or revoked"),
        (403, b"", "unauthorized", "The API key is missing, wrong or revoked"),
        (422, b"{}", "malformedRequest", "The request registry.fetch is malformed"),
        (404, b"<h1>Not Found</h1>", "badResponse", "status 404"),
        (502, b"<html>", "badResponse", "status 502"),
        (500, b'{"type":"doesNotExist","error":"gone"}', "doesNotExist", "gone"),
        (404, b'{"type":"doesNotExist"}', "doesNotExist", "There is no template t-n"),
        (404, b'{"type":"doesNotExist","error":5}', "doesNotExist", "There is no template t-n"),
        (500, b'{"type":"noRecord","error":"x"}', "generic", 'status 500, {"type":"noRecord"'),
        (500, b'{"type":5}', "generic", "status 500"),
        (500, b'{"message":"x"}', "generic", "The request failed: status 500"),
        (500, b'{"type":"badResponse","error":"x"}', "badResponse", "x"),
    ],
)  # fmt: skip
def test_bad_answers(status: int, body: bytes, name: str, why: str) -> None:
    with pytest.raises(failure_class(name)) as caught:
        interpret(BINDER, FETCH, status, body, {"template-name": "t-n"})
    assert why in caught.value.message
    assert caught.value.endpoint == "registry.fetch"
    assert caught.value.suggestions


def test_good_answers() -> None:
    told = msgspec.json.encode(TEMPLATE | {"new": 1})
    assert interpret(BINDER, FETCH, 200, told) == TEMPLATE | {"new": 1}
    preload = BINDER.endpoint("deploy._preload")
    assert interpret(BINDER, preload, 200, b"") is None
    assert interpret(BINDER, preload, 200, b"{}") == {}


@calm
@given(st.data())
def test_an_answer_without_one_of_its_fields_is_none(data: st.DataObject) -> None:
    _, endpoint = data.draw(
        st.sampled_from([each for each in BINDER if isinstance(each[1].response.body, Fields)])
    )
    answer = data.draw(answers(endpoint.response.body))
    assert isinstance(endpoint.response.body, Fields)
    gone = data.draw(st.sampled_from([name for name, _ in endpoint.response.body.fields]))
    body = msgspec.json.encode({name: answer[name] for name in answer if name != gone})
    with pytest.raises(failure_class("badResponse")) as caught:
        interpret(BINDER, endpoint, 200, body)
    assert f"{gone} is missing" in caught.value.message


def test_a_declaration_without_global_errors_has_those_that_every_client_meets() -> None:
    endpoint = Endpoint("go", "/", "", "", Request("GET"), Response())
    protocol = Protocol((Group("g", (endpoint,)),))
    with pytest.raises(failure_class("unauthorized")):
        interpret(protocol, endpoint, 403, b"")
    assert failure(protocol, endpoint, "refused", {"host": "h", "port": 1}).message == (
        "No server takes connections at h:1"
    )
    with pytest.raises(KeyError):
        failure(protocol, endpoint, "noDatabase")


def test_a_name_is_no_more_than_one_segment_of_its_path() -> None:
    for name in ("a/b", "../../x", "a?b", "a#b", "%2F", "a;b", " "):
        call = fill(BINDER, FETCH, {"template-name": name})
        assert call.target == "/templates/" + quote(name, safe="")
        assert received(BINDER, "GET", call.target, None) == (FETCH, {"template-name": name})
