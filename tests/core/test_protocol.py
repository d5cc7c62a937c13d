"""The older Binder protocol as it is declared, and what a declaration may not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from binder_core.protocol import (
    BINDER,
    DeclarationError,
    Endpoint,
    ErrorCase,
    Fields,
    Group,
    Items,
    Kind,
    Maybe,
    Param,
    Protocol,
    Request,
    Response,
    Shape,
    Success,
    class_name,
    dump,
    dumps,
    failure_class,
    filled,
    kebab_name,
    load,
    loads,
    python_name,
)

STRING, NUMBER, BOOLEAN = Kind.STRING, Kind.NUMBER, Kind.BOOLEAN

# group.endpoint: method, path, key, parameters (? optional), body, errors
TABLE: Final = {
    "build.start": (
        "POST", "/builds/", True, "repository:String force?:Boolean", "repository force",
        "noDatabase:500 badQuery:500 badRepoSource:500 alreadyBuilding:500",
    ),
    "build.status": (
        "GET", "/builds/{image-name}", False, "image-name:String", "",
        "noBuildInfo:500 badQuery:500",
    ),
    "build.statusAll": ("GET", "/builds/", True, "", "", "noBuildInfo:500 badQuery:500"),
    "registry.fetch": (
        "GET", "/templates/{template-name}", True, "template-name:String", "",
        "badDatabase:500 doesNotExist:404",
    ),
    "registry.fetchAll": ("GET", "/templates/", True, "", "", "badDatabase:500"),
    "deploy.deploy": (
        "POST", "/applications/", False, "template-name:String cull-timeout?:Number",
        "template-name cull-timeout", "registryError:500 badDatabase:500",
    ),
    "deploy.status": (
        "GET", "/applications/{template-name}/{id}", False, "template-name:String id:String", "",
        "badDatabase:500 noRecord:500",
    ),
    "deploy.statusAll": (
        "GET", "/applications/{template-name}", True, "template-name?:String", "",
        "badDatabase:500",
    ),
    "deploy._preload": (
        "POST", "/preload/{template-name}", True, "template-name:String", "",
        "badDatabase:500 registryError:500 badKubeRequest:500 unknownFailure:500",
    ),
    "deploy._preloadStatus": (
        "GET", "/preload/{template-name}", True, "template-name:String", "", "badDatabase:500",
    ),
    "health.status": ("GET", "/health/", True, "", "", "badQuery:500"),
}  # fmt: skip

RESULTS: Final[dict[str, Any]] = {
    "build.start": {"name": "String"},
    "build.status": {
        "name": "String",
        "start-time": "Date",
        "status": "String",
        "phase": "String",
        "repository": "String",
    },
    "registry.fetch": {
        "name": "String",
        "image-name": "String",
        "image-source": "String",
        "port": "Number",
        "limits": {"memory": "String?", "cpu": "Number?"},
        "services": ["Object"],
    },
    "deploy.deploy": {"id": "String"},
    "deploy.status": {"id": "String", "location": "String?"},
    "health.status": [{"name": "String", "timestamp": "Date", "status": "String"}],
}


def _params(params: tuple[Param, ...]) -> str:
    return " ".join(f"{param.name}{'' if param.required else '?'}:{param.type}" for param in params)


def test_the_endpoints_are_those_of_the_original() -> None:
    declared = {
        f"{group.name}.{endpoint.name}": (
            endpoint.request.method,
            endpoint.path,
            endpoint.request.authorized,
            _params(endpoint.params),
            " ".join(endpoint.request.body),
            " ".join(f"{case.name}:{case.status}" for case in endpoint.response.errors),
        )
        for group, endpoint in BINDER
    }
    assert declared == TABLE


def test_the_global_part_is_that_of_the_original() -> None:
    assert _params(BINDER.params) == "api-key:String host:String port:Number"
    assert {case.name: case.status for case in BINDER.errors} == {
        "unauthorized": 403,
        "malformedRequest": 422,
        "badResponse": 500,
        "timeout": None,
        "refused": None,
        "generic": None,
    }


def test_the_results_are_those_of_the_original() -> None:
    document = dump(BINDER)
    for name, body in RESULTS.items():
        group, endpoint = name.split(".")
        assert document[group][endpoint]["response"]["body"] == body
    for one, many in (("status", "statusAll"), ("fetch", "fetchAll")):
        for group in ("build", "registry", "deploy"):
            if one in document[group]:
                each = document[group][one]["response"]["body"]
                assert document[group][many]["response"]["body"] == [each]


def test_every_endpoint_and_error_has_its_texts() -> None:
    for _, endpoint in BINDER:
        assert endpoint.description
        assert endpoint.msg
        assert all(param.description for param in endpoint.params)
        for case in (*endpoint.response.errors, *BINDER.errors):
            assert case.msg
            assert case.suggestions
            assert not any(text.endswith(".") for text in (case.msg, *case.suggestions))


def test_endpoints_are_found_by_name() -> None:
    endpoint = BINDER.endpoint("deploy._preload")
    assert endpoint is BINDER.group("deploy").endpoint("_preload")
    assert BINDER.full_name(endpoint) == "deploy._preload"
    for unknown in ("deploy", "deploy.", "deploy.fly", "fly.status", ""):
        with pytest.raises(KeyError):
            BINDER.endpoint(unknown)
    with pytest.raises(KeyError):
        BINDER.full_name(an_endpoint())


# What a declaration may not be.


def an_endpoint(path: str = "/a/", *params: Param, **rest: Any) -> Endpoint:
    given: dict[str, Any] = {
        "name": "start",
        "description": "",
        "msg": "",
        "request": Request("GET"),
        "response": Response(),
    }
    return Endpoint(path=path, params=params, **given | rest)


def two(first: str, second: str, *params: Param) -> Callable[[], Protocol]:
    def make() -> Protocol:
        endpoints = (
            an_endpoint(
                path, *(param for param in params if f"{{{param.name}}}" in path), name=name
            )
            for path, name in ((first, "one"), (second, "two"))
        )
        return Protocol((Group("a", tuple(endpoints)),))

    return make


X = Param("x", STRING, "")
Y = Param("y", STRING, "")
LATER = Param("x", STRING, "", required=False)

WRONG: Final[list[tuple[Callable[[], object], str]]] = [
    (lambda: Param("", STRING, ""), "no name for a parameter"),
    (lambda: Param("a b", STRING, ""), "no name for a parameter"),
    (lambda: Param("../x", STRING, ""), "no name for a parameter"),
    (lambda: Param("x", Kind.DATE, ""), "the type is String or Number or Boolean, not Date"),
    (lambda: ErrorCase("no db", 500, ""), "no name for an error"),
    (lambda: ErrorCase("x", 200, ""), "from 400 to 599, not 200"),
    (lambda: Success("", 404), "404 is no status of success"),
    (lambda: Response(errors=(ErrorCase("x", 500, ""),) * 2), "error 'x' is there twice"),
    (lambda: an_endpoint("a/"), "it starts with a /"),
    (lambda: an_endpoint("/{x}"), "there is no parameter 'x'"),
    (lambda: an_endpoint("/{}"), "there is no parameter ''"),
    (lambda: an_endpoint("/{x}/{x}", X), "placeholder 'x' is there twice"),
    (lambda: an_endpoint("/a-{x}", X), "neither plain letters nor one placeholder"),
    (lambda: an_endpoint("/a?b={x}", X), "neither plain letters nor one placeholder"),
    (lambda: an_endpoint("/a/../b"), "neither plain letters nor one placeholder"),
    (lambda: an_endpoint("/a b"), "neither plain letters nor one placeholder"),
    (lambda: an_endpoint("/a//b"), "a segment is empty"),
    (lambda: an_endpoint("/{x}/b", LATER), "'x' is optional, and not the end"),
    (lambda: an_endpoint(name="a b"), "no name for an endpoint"),
    (lambda: an_endpoint("/", X, X), "parameter 'x' is there twice"),
    (
        lambda: an_endpoint("/", Param("aB", STRING, ""), Param("a-b", STRING, "")),
        "parameter 'a-b' is there twice",
    ),
    (lambda: an_endpoint("/", Param("host", STRING, "")), "one of that name already"),
    (lambda: an_endpoint("/", Param("apiKey", STRING, "")), "one of that name already"),
    (lambda: an_endpoint(request=Request("FETCH")), "the method is GET or POST"),
    (lambda: an_endpoint("/", X, request=Request("GET", body=("x",))), "a GET request has no body"),
    (lambda: an_endpoint(request=Request("POST", body=("x",))), "there is no parameter 'x'"),
    (
        lambda: an_endpoint("/", X, request=Request("POST", body=("x", "x"))),
        "body field 'x' is there twice",
    ),
    (
        lambda: an_endpoint("/{x}", X, request=Request("POST", body=("x",))),
        "'x' is a part of the path already",
    ),
    (lambda: an_endpoint(msg="{x}"), "nothing is there to fill in {x}"),
    (lambda: an_endpoint(msg="{results}"), "nothing is there to fill in {results}"),
    (
        lambda: an_endpoint(response=Response(success=Success("{error}"))),
        "nothing is there to fill in {error}",
    ),
    (
        lambda: an_endpoint(response=Response(errors=(ErrorCase("e", 500, "", ("{x}",)),))),
        "nothing is there to fill in {x}",
    ),
    (lambda: Group("global", ()), "no name for a group"),
    (lambda: Group("a/b", ()), "no name for a group"),
    (
        lambda: Group("a", (an_endpoint(), an_endpoint("/b", name="_start"))),
        "a: endpoint 'start' is there twice",
    ),
    (lambda: Protocol((Group("aB", ()), Group("a-b", ()))), "group 'a-b' is there twice"),
    (lambda: Protocol((), (X,)), "global parameters are api-key or host or port, not 'x'"),
    (lambda: Protocol((), (), (ErrorCase("e", 500, ""),) * 2), "error 'e' is there twice"),
    (lambda: Protocol((), (), (ErrorCase("e", 500, "{x}"),)), "nothing is there to fill in {x}"),
    (
        lambda: Protocol((), (), (ErrorCase("noDb", 500, ""), ErrorCase("NoDb", 500, ""))),
        "error 'NoDb' is there twice",
    ),
    (two("/a", "/a"), "a GET of /a could mean a.two or a.one, /a"),
    (two("/{x}", "/{y}", X, Y), "could mean"),
    (two("/{x}", "/a", X), "could mean"),
    (two("/a", "/{x}", X), "could mean"),
    (two("/a/{x}", "/a/", LATER), "could mean"),
    (two("/{x}/b", "/a/{y}", X, Y), "could mean"),
]


@pytest.mark.parametrize(("make", "why"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_a_declaration_that_contradicts_itself_cannot_be_made(
    make: Callable[[], object], why: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        make()
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        two("/a/{x}", "/a/", X),
        two("/a/{x}", "/a/b/{y}", X, Y),
        two("/a/{x}", "/b/{y}", X, Y),
        two("/a", "/a/"),
    ],
)
def test_paths_that_no_request_confuses_can_be_made(make: Callable[[], Protocol]) -> None:
    assert len(list(make())) == 2


def test_the_same_path_with_two_methods_is_two_endpoints() -> None:
    one = an_endpoint(name="one")
    other = an_endpoint(name="two", request=Request("POST"))
    assert list(Protocol((Group("a", (one, other)),))) == [
        (Group("a", (one, other)), one),
        (Group("a", (one, other)), other),
    ]


# Names.


@pytest.mark.parametrize(
    ("name", "kebab", "python"),
    [
        ("start", "start", "start"),
        ("statusAll", "status-all", "status_all"),
        ("_preloadStatus", "preload-status", "preload_status"),
        ("template-name", "template-name", "template_name"),
        ("cull_timeout", "cull-timeout", "cull_timeout"),
        ("class", "class", "class_"),
        ("getURL", "get-url", "get_url"),
    ],
)
def test_names_become_words_of_command_lines_and_of_python(
    name: str, kebab: str, python: str
) -> None:
    assert kebab_name(name) == kebab
    assert python_name(name) == python


def test_errors_become_classes_always_the_same() -> None:
    assert class_name("noDatabase") == "NoDatabase"
    assert failure_class("noDatabase") is failure_class("noDatabase")
    assert failure_class("noDatabase").__name__ == "NoDatabase"


def test_a_text_is_filled_in_once() -> None:
    given: dict[str, object] = {"a": "{b}", "b": "no", "yes": True, "none": None}
    assert filled("{a} {yes} {none}.", given) == "{b} true ."


# As JSON.

SMALL: Final = """
{
  "apps": {
    "statusAll": {
      "path": "/apps/{app-name}",
      "params": {"app-name": {"type": "String", "description": "its name", "required": false}},
      "description": "All of them",
      "msg": "Asking for {app-name}",
      "request": {"method": "GET", "authorized": true},
      "response": {
        "body": [{"id": "String", "location": "String?"}],
        "error": {
          "badDatabase": {"status": 500, "msg": "No", "suggestions": ["try again", "give up"]}
        },
        "success": {"status": 200, "msg": "{results}"}
      }
    }
  }
}
"""

DEPLOYED: Final[Shape] = Items(Fields((("id", STRING), ("location", Maybe(STRING)))))


def test_the_form_of_the_readme_is_read() -> None:
    assert loads(SMALL) == Protocol(
        (
            Group(
                "apps",
                (
                    Endpoint(
                        name="statusAll",
                        path="/apps/{app-name}",
                        params=(Param("app-name", STRING, "its name", required=False),),
                        description="All of them",
                        msg="Asking for {app-name}",
                        request=Request("GET", authorized=True),
                        response=Response(
                            body=DEPLOYED,
                            errors=(ErrorCase("badDatabase", 500, "No", ("try again", "give up")),),
                            success=Success("{results}", 200),
                        ),
                    ),
                ),
            ),
        )
    )


def test_what_is_left_out_has_the_originals_defaults() -> None:
    endpoint = load(
        {
            "a": {
                "b": {
                    "path": "/",
                    "params": {"x": {"type": "String"}},
                    "request": {"method": "GET"},
                }
            }
        }
    ).endpoint("a.b")
    assert endpoint.params[0].required
    assert not endpoint.request.authorized
    assert endpoint.response == Response(None, (), Success("{results}", 200))


def test_the_whole_protocol_survives_json() -> None:
    assert loads(dumps(BINDER)) == BINDER
    assert msgspec.json.decode(dumps(BINDER)) == dump(BINDER)


def _with(**changes: Any) -> bytes:
    endpoint = {"path": "/", "request": {"method": "GET"}} | changes
    return msgspec.json.encode({"a": {"b": endpoint}})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "an object whose keys are groups"),
        (b"{", "not JSON"),
        (b'{"a": 1}', "a: Expected `object`, got `int`"),
        (b'{"a": {"b": {}}}', "a: Object missing required field `path` - at `$[...]`"),
        (b'{"global": {"paths": 1}}', "global: Object contains unknown field `paths`"),
        (_with(pth="/"), "unknown field `pth`"),
        (_with(params={"x": {"type": "Text"}}), "Invalid enum value 'Text'"),
        (_with(path="/{x}"), "a.b: path '/{x}': there is no parameter 'x'"),
        (_with(params={"x y": {"type": "String"}}), "a.b: 'x y' is no name"),
        (_with(response={"body": "Text"}), "a.b: response body: 'Text' is none of String"),
        (_with(response={"body": []}), "a.b: response body: [] is none of"),
        (_with(response={"body": ["String", "String"]}), "is none of"),
        (_with(response={"body": {"a b": "String"}}), "a.b: response body: 'a b' is no name"),
        (_with(response={"error": {"e": {"msg": "", "status": 200}}}), "a.b: error 'e'"),
        (_with(response={"success": {"status": 500}}), "a.b: success: 500"),
    ],
)
def test_a_document_that_is_no_declaration_says_where(text: bytes, why: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        loads(text)
    assert why in str(caught.value)
