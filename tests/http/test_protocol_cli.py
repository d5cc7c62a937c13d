"""Commands made from a declaration, against servers on real sockets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import jsonschema
import msgspec
import pytest
from click.testing import CliRunner, Result
from declarations import Case, answers, cases, protocols
from declared import Declared, Got, serving_declared
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from scripted import Reply, scripted

from binder_core.protocol import (
    BINDER,
    Failure,
    Protocol,
    Value,
    dumps,
    failure,
    kebab_name,
    loads,
)
from binder_http.cli import main
from binder_http.cli_protocol import names_of
from binder_http.protocol_docs import markdown
from binder_http.protocol_openapi import openapi
from binder_http.protocol_text import as_json, as_text

KEY: Final = "k3y"
REPO: Final = "https://github.com/a/b"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BINDER_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Declared]:
    with serving_declared(BINDER, lambda _: None) as running:
        yield running


@pytest.fixture
def asked(server: Declared) -> Declared:
    server.protocol = BINDER
    server.handler = lambda _: {"name": "a-b"}
    server.got.clear()
    return server


def binder(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, args, env=env)


def where(server: Declared) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(server.port), "--api-key", KEY]


# One declaration, both ends.


def _typed(value: Value) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


_OPTIONS: Final = {"host", "port", "api-key", "timeout", "json", "help"}


@given(case=cases(), data=st.data())
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_commands_and_handlers_agree(
    tmp_path: Path, server: Declared, case: Case, data: st.DataObject
) -> None:
    answer = data.draw(answers(case.endpoint.response.body))
    positional = data.draw(st.booleans())
    required = [param for param in case.endpoint.params if param.required]
    others = [param for param in case.endpoint.params if not param.required]
    arguments = [_typed(case.values[param.name]) for param in required]
    options: list[str] = []
    for param in others:
        if param.name not in case.values:
            positional = False  # what stands behind it could not be told from it
        elif positional:
            arguments.append(_typed(case.values[param.name]))
        elif kebab_name(param.name) in _OPTIONS:
            return  # can be given in its place only
        else:
            options.append(f"--{kebab_name(param.name)}={_typed(case.values[param.name])}")
    server.protocol, server.handler = case.protocol, lambda _: answer
    server.got.clear()
    words = [kebab_name(case.group.name), kebab_name(case.endpoint.name)]
    file = tmp_path / "api.json"
    file.write_bytes(dumps(case.protocol))
    asked = ["api", str(file), *words, *where(server), "--json", *options, "--", *arguments]
    result = binder(*asked)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == answer
    (got,) = server.got
    assert got.endpoint == case.endpoint
    assert got.values == case.values


# The older protocol.


def test_the_groups_are_those_of_the_declaration() -> None:
    context = click.Context(main)
    for name in names_of(BINDER):
        group = main.get_command(context, name)
        assert isinstance(group, click.Group)
        commands = {kebab_name(each.name) for each in BINDER.group(name).endpoints}
        assert set(group.list_commands(context)) == commands
    ours = {"api", "protocol", *names_of(BINDER)}
    assert ours <= set(main.list_commands(context))


def test_help_comes_without_the_declaration() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from binder_http.cli import main;"
        "told = CliRunner().invoke(main, ['--help']).output; assert 'registry' in told, told;"
        "late = ('binder_core', 'httpx', 'msgspec');"
        "print([name for name in sys.modules if name.startswith(late)])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_every_command_explains_itself() -> None:
    for group, endpoint in BINDER:
        told = binder(kebab_name(group.name), kebab_name(endpoint.name), "--help")
        assert told.exit_code == 0
        assert endpoint.description in told.output
        for param in endpoint.params:
            assert f"{param.name.upper()}: " in told.output
            assert (f"--{param.name}" in told.output) == (not param.required)
        assert "BINDER_API_KEY" in told.output
        assert "Exit status" in told.output


def test_a_call(asked: Declared) -> None:
    result = binder("build", "start", REPO, "true", *where(asked))
    assert result.exit_code == 0
    assert result.stdout == (
        f"Starting the build of {REPO}\nThe build of {REPO} has started:\nname  a-b\n"
    )
    assert result.stderr == ""
    assert [(got.values, got.key) for got in asked.got] == [
        ({"repository": REPO, "force": True}, KEY)
    ]


def test_the_environment_says_where_and_who(asked: Declared) -> None:
    env = {"BINDER_HOST": "localhost", "BINDER_PORT": str(asked.port), "BINDER_API_KEY": KEY}
    result = binder("build", "start", "--force", "false", REPO, env=env)
    assert result.exit_code == 0, result.output
    assert [(got.values["force"], got.key) for got in asked.got] == [(False, KEY)]


def test_a_host_can_be_a_url(asked: Declared) -> None:
    url = f"http://127.0.0.1:{asked.port}"
    assert binder("build", "start", REPO, "--host", url, "--api-key", KEY).exit_code == 0


def test_names_of_the_original_with_an_underscore(asked: Declared) -> None:
    asked.handler = lambda _: None
    result = binder("deploy", "preload", "a-b", *where(asked))
    assert result.stdout == ("Preloading the template a-b\nThe template a-b is being preloaded\n")
    asked.handler = lambda _: {"nodes": 3}
    assert binder("deploy", "preload-status", "a-b", *where(asked)).stdout.endswith("nodes  3\n")


def test_a_list_is_a_table(asked: Declared) -> None:
    asked.handler = lambda _: [
        {"id": "1", "location": None},
        {"id": "22222", "location": "http://h/\x1b[31m"},
    ]
    result = binder("deploy", "status-all", *where(asked))
    assert result.stdout.splitlines()[1:] == [
        "All servers:",
        "ID     LOCATION",
        "1      -",
        "22222  http://h/",
    ]
    assert asked.got[0].values == {}
    asked.handler = lambda _: []
    assert binder("deploy", "status-all", *where(asked)).stdout.endswith("All servers:\n(none)\n")


def test_json_is_the_answer_and_nothing_else(asked: Declared) -> None:
    asked.handler = lambda _: [{"id": "ü\x1b[31m\x9b", "location": None}]
    result = binder("deploy", "status-all", "a-b", "--json", *where(asked))
    assert json.loads(result.stdout) == [{"id": "ü\x1b[31m\x9b", "location": None}]
    assert "\x1b" not in result.stdout
    assert "\x9b" not in result.stdout


def test_an_error_and_its_possible_fixes(asked: Declared) -> None:
    def handler(got: Got) -> Any:
        raise failure(BINDER, got.endpoint, "doesNotExist", message="There is\x1b[2J\nnone")

    asked.handler = handler
    for flags in ([], ["--json"]):
        result = binder("registry", "fetch", "a-b", *where(asked), *flags)
        assert result.exit_code == 1
        assert result.stderr == (
            "Error: There is none\n"
            "  - Possible fix: check the name: `registry fetch-all` lists all of them\n"
            "  - Possible fix: build the repository first: a finished build makes its template\n"
        )
        assert result.stdout == ("" if flags else "Getting the template a-b\n")


def test_a_server_that_is_not_there() -> None:
    result = binder("health", "status", "--host", "127.0.0.1", "--port", "1", "--api-key", KEY)
    assert result.exit_code == 1
    assert "Error: No server takes connections at 127.0.0.1:1" in result.stderr
    assert "Possible fix: " in result.stderr


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(b"", "hang"), "did not answer in time"),
        (Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>"), "it is not JSON"),
        (Reply(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), "it is no list"),
        (Reply(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"), "The API key"),
    ],
)
def test_a_server_that_is_no_binder(reply: Reply, why: str) -> None:
    with scripted(lambda *_: reply) as there:
        options = ["--host", there.url, "--api-key", KEY, "--timeout", "0.3"]
        result = binder("health", "status", *options)
    assert result.exit_code == 1
    assert why in result.stderr
    assert KEY not in result.output


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["build", "start"], "Missing argument 'REPOSITORY'"),
        (["build", "start", REPO, "maybe"], "force is a Boolean, not 'maybe'"),
        (["build", "start", REPO, "true", "--force", "true"], "force is given twice"),
        (["build", "start", REPO, "true", "x"], "unexpected extra argument"),
        (["build", "begin"], "No such command 'begin'"),
        (["build"], "Usage: "),
        (["deploy", "deploy", "a-b", "1m"], "cull-timeout is a Number, not '1m'"),
        (["deploy", "deploy", "a-b", "1e999"], "cull-timeout is not finite"),
        (["registry", "fetch", ".."], "template-name is a part of the path"),
        (["registry", "fetch", ""], "template-name is a part of the path"),
    ],
)
def test_wrong_usage(asked: Declared, args: list[str], why: str) -> None:
    result = binder(*args, *(where(asked) if len(args) > 1 else []))
    assert result.exit_code == 2
    assert why in result.output
    assert not asked.got


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--port", "1", "--api-key", KEY], "Missing option '--host'"),
        (["--port", "1", "--host", "h"], "Missing option '--api-key'"),
        (["--port", "0", "--host", "h", "--api-key", KEY], "Invalid value for '--port'"),
        (["--timeout", "0", "--host", "h", "--api-key", KEY], "Invalid value for '--timeout'"),
    ],
)
def test_where_and_who_have_to_be_said(options: list[str], why: str) -> None:
    result = binder("registry", "fetch-all", *options)
    assert result.exit_code == 2
    assert why in result.output


def test_a_port_that_nobody_said_is_an_error_of_the_request() -> None:
    result = binder("registry", "fetch-all", "--host", "h", "--api-key", KEY)
    assert result.exit_code == 1
    assert "port is missing" in result.stderr


def test_no_key_is_needed_where_none_is_sent(asked: Declared) -> None:
    asked.handler = lambda _: {"id": "x"}
    options = ["--host", "127.0.0.1", "--port", str(asked.port)]
    assert binder("deploy", "deploy", "a-b", "60", *options).exit_code == 0
    assert asked.got[0].values == {"template-name": "a-b", "cull-timeout": 60}
    assert asked.got[0].key is None


# Somebody else's declaration.


def test_a_file_without_more_lists_its_groups(tmp_path: Path) -> None:
    (tmp_path / "api.json").write_bytes(dumps(BINDER))
    told = binder("api", str(tmp_path / "api.json"), "--help")
    assert told.exit_code == 0
    assert all(f"\n  {name} " in told.output for name in names_of(BINDER))
    assert binder("api", "--help").exit_code == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "No such file"), (b"{", "is not JSON"), (b'{"a":{"b":{"path":"x"}}}', "`request`")],
)
def test_a_bad_file_is_wrong_usage(tmp_path: Path, text: bytes | None, why: str) -> None:
    path = tmp_path / "api.json"
    if text is not None:
        path.write_bytes(text)
    for args in (
        ["api", str(path), "a", "b"],
        ["api", str(path), "--help"],
        ["protocol", str(path)],
    ):
        result = binder(*args)
        assert result.exit_code == 2
        assert why in result.output


def test_an_unknown_group(tmp_path: Path) -> None:
    (tmp_path / "api.json").write_bytes(dumps(BINDER))
    result = binder("api", str(tmp_path / "api.json"), "nothing")
    assert result.exit_code == 2
    assert "No such command 'nothing'" in result.output


def test_a_declaration_is_printed(tmp_path: Path) -> None:
    assert loads(binder("protocol").stdout) == BINDER
    (tmp_path / "api.json").write_bytes(dumps(BINDER))
    assert binder("protocol", str(tmp_path / "api.json")).stdout == dumps(BINDER).decode()
    assert json.loads(binder("protocol", "--as", "openapi").stdout) == openapi(BINDER)
    assert binder("protocol", "--as", "markdown").stdout == markdown(BINDER)


# Descriptions.


@given(protocols())
@example(BINDER)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_declaration_is_described_for_tools(protocol: Protocol) -> None:
    described = openapi(protocol)
    validate(described)
    operations = {
        operation["operationId"]: (path, method)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    for _, endpoint in protocol:
        name = protocol.full_name(endpoint)
        assert operations.pop(name) == (endpoint.path, endpoint.request.method.lower())
        if endpoint.optional_end:
            assert operations.pop(f"{name}.any")[0].endswith("/")
    assert not operations


def test_the_description_tells_good_from_bad() -> None:
    described = openapi(BINDER)
    start = described["paths"]["/builds/"]["post"]
    assert start["security"] == [{"apiKey": []}]
    body = jsonschema.Draft202012Validator(
        start["requestBody"]["content"]["application/json"]["schema"]
    )
    body.validate({"repository": REPO, "force": True})
    for wrong in ({}, {"repository": 1}, {"repository": REPO, "more": 1}):
        assert not body.is_valid(wrong)
    errors = start["responses"]["500"]["content"]["application/json"]["schema"]
    assert errors["properties"]["type"]["enum"] == [
        "noDatabase",
        "badQuery",
        "badRepoSource",
        "alreadyBuilding",
    ]
    assert {"200", "403", "422", "500"} == set(start["responses"])
    status = described["paths"]["/applications/{template-name}/{id}"]["get"]
    answer = jsonschema.Draft202012Validator(
        status["responses"]["200"]["content"]["application/json"]["schema"]
    )
    answer.validate({"id": "x", "location": None})
    assert not answer.is_valid({"id": "x"})


def test_the_description_for_people_names_everything() -> None:
    told = markdown(BINDER)
    for group, endpoint in BINDER:
        assert f"### {group.name}.{endpoint.name}\n" in told
        assert f"`{endpoint.request.method} {endpoint.path}`" in told
        assert f"binder {group.name} {kebab_name(endpoint.name)}" in told
    for case in BINDER.errors:
        assert f"| `{case.name}` |" in told


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, ""),
        ([], "(none)"),
        ({}, "(none)"),
        ("a\nb", "ab"),
        (True, "true"),
        (1.5, "1.5"),
        ([1, None, "x"], "1\n-\nx"),
        ({"a": {"b": [1]}, "longer": None}, 'a       {"b":[1]}\nlonger  -'),
        ([{"a": 1}, {"b": "x"}], "A  B\n1  -\n-  x"),
    ],
)
def test_results_as_text(result: Any, text: str) -> None:
    assert as_text(result) == text


def test_results_as_json_hold_no_orders_for_a_terminal() -> None:
    told = {"a": "\u202e\u2028\x9b\x1b\U000e0001 é"}
    assert json.loads(as_json(told)) == told
    assert all(char.isprintable() or char == "\n" for char in as_json(told))
    assert "é" in as_json(told)


def test_failures_are_of_this_command_alone(asked: Declared) -> None:
    def handler(_: Got) -> Any:
        raise Failure("made up", name="notDeclared", status=500)

    asked.handler = handler
    result = binder("registry", "fetch-all", *where(asked))
    assert result.exit_code == 1
    assert "The request failed: status 500" in result.stderr


# The docs.

DOCS: Final = Path(__file__).parents[2] / "docs"
BLOCKS: Final = re.findall(
    r"^```(python|json)\n(.*?)^```$",
    (DOCS / "older-protocol.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)


def test_the_reference_is_up_to_date() -> None:
    reference = (DOCS / "older-protocol-reference.md").read_text(encoding="utf-8")
    assert reference.partition("compares.\n\n")[2] == markdown(BINDER)


def test_the_examples_of_the_docs_run(
    asked: Declared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    results: dict[str, Any] = {
        "start": {"name": "a-b"},
        "status": dict.fromkeys(["name", "start-time", "status", "phase", "repository"], "running"),
        "deploy": {"id": "x"},
        "findAll": [{"title": "Red", "lent": None}],
    }
    asked.handler = lambda got: results[got.endpoint.name]
    for kind, text in BLOCKS:
        if kind == "json":
            (tmp_path / "shelves.json").write_text(text)
            asked.protocol = loads(text)
        else:
            code = text.replace("8585", str(asked.port)).replace("…", KEY)
            exec(compile(code, "older-protocol.md", "exec"), {})
    assert [got.endpoint.name for got in asked.got] == ["start", "status", "deploy", "findAll"]
    assert capsys.readouterr().out == "running\nx\n[{'title': 'Red', 'lent': None}]\n"
