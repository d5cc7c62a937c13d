"""``/api/builds``, and the commands that ask it, on a server with a socket."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from subprocess import STDOUT
from typing import Any

import anyio
import httpx
import jsonschema
import msgspec
import pytest
from serving import COMMIT, SPEC, asking, conf, events, socket_to, until

from binder_core.errors import ConfigError
from binder_core.plugin import BuildRun
from binder_http.app import OPERATOR_PATHS
from binder_http.config import Config, load, render
from binder_http.openapi import description
from binder_http.security import Guard
from binder_http.server import Running, running

pytestmark = pytest.mark.anyio

TOKEN = "operators-own-token"
SLOW = {"builder.fake.ends": False, "builder.fake.lines": 5}
SECOND = SPEC.replace("repo", "other")


@dataclass
class Result:
    exit_code: int
    output: str


async def command(*args: str, env: Mapping[str, str]) -> Result:
    """Run ``binder builds`` as a process: several may run at once."""
    line = [sys.executable, "-m", "binder_http.cli", "builds", *args]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BINDER_")}
    done = await anyio.run_process(line, check=False, stderr=STDOUT, env=clean | dict(env))
    return Result(done.returncode, done.stdout.decode())


@dataclass
class World:
    server: Running
    client: httpx.AsyncClient

    async def ask(self, method: str, path: str, token: str = TOKEN, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        headers |= more.pop("headers", {})
        return await self.client.request(method, path, headers=headers, **more)

    async def command(self, *args: str, token: str = TOKEN) -> Result:
        """Return what ``binder builds`` does."""
        return await command(*args, env={"BINDER_SERVER": self.server.url, "BINDER_TOKEN": token})

    async def name(self) -> str:
        """Return the name of the first build, once it has said all it will."""
        binder = self.server.binder
        await until(lambda: any(build.phase == "building" for build in binder.builds))
        return binder.builds[0].name


def as_config(flags: Mapping[str, Any]) -> Config:
    return conf({"security.operator_token": TOKEN} | dict(flags))


@asynccontextmanager
async def serving(flags: Mapping[str, Any] | None = None) -> AsyncGenerator[World]:
    async with (
        running(as_config(SLOW | dict(flags or {}))) as server,
        httpx.AsyncClient(base_url=server.url, timeout=20) as client,
    ):
        try:
            yield World(server, client)
        finally:
            await server.binder.stop_builds()


# -- Who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), OPERATOR_PATHS)
@pytest.mark.parametrize(
    ("flags", "token", "status"),
    [
        ({}, "", 403),  # anybody may build here, and nobody is the operator
        ({"security.operator_token": TOKEN}, "", 403),
        ({"security.operator_token": TOKEN}, "another", 403),
        ({"security.operator_token": TOKEN, "security.token": "t"}, "t", 403),
        ({"security.operator_token": TOKEN, "security.auth": "token"}, TOKEN, 200),
        (
            {
                "security.operator_token": TOKEN,
                "security.auth": "token",
                "security.token": "t",
            },
            "t",
            403,
        ),
        ({"security.operator_token": TOKEN}, TOKEN, 200),
        ({"security.auth": "token", "security.token": "t"}, "t", 200),
        ({"security.auth": "token", "security.token": "t"}, "", 403),
    ],
)
async def test_only_the_operator_may(
    method: str, path: str, flags: dict[str, Any], token: str, status: int
) -> None:
    async with asking(flags) as (client, _):
        asked = path.replace("<name>", "build-x")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answers = [await client.request(method, asked, headers=headers)]
        answers.append(await client.request(method, asked, params={"token": token}))
    # There is no build of that name for who may ask.
    expected = status if status == 403 or path == "/api/builds" else 404
    for answer in answers:
        assert answer.status_code == expected, answer.text
        if expected != 200:
            assert answer.json()["status"] == expected
            assert TOKEN not in answer.text


async def test_the_operators_token_is_good_for_everything() -> None:
    flags = {"security.operator_token": TOKEN, "security.auth": "token", "security.token": "t"}
    async with asking(flags) as (client, _):
        for token, status in ((TOKEN, 200), ("t", 200), ("", 403)):
            answer = await client.get("/versions", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == status


async def test_pages_of_other_sites_may_not() -> None:
    async with serving() as world:
        asked = {"origin": "https://evil.example"}
        answer = await world.ask("DELETE", "api/builds/x", headers=asked)
        assert answer.status_code == 403
        assert "Pages of" in answer.json()["message"]


def test_an_embedder_who_says_nothing_opens_nothing() -> None:
    assert Guard().operator_refusal({}) is not None
    assert Guard().operator_refusal({"authorization": "Bearer "}) is not None


def test_the_token_is_never_shown() -> None:
    config = load(env={"BINDER_SECURITY__OPERATOR_TOKEN": TOKEN}, flags={"builder.kind": "fake"})
    assert config.security.operator_token == TOKEN
    assert TOKEN not in render(config) + repr(config)
    with pytest.raises(ConfigError) as caught:
        load(env={"BINDER_SECURITY__OPERATORTOKEN": TOKEN})
    assert "operator_token" in str(caught.value)


# -- What is answered ----------------------------------------------------------------------------


async def test_builds_are_listed_as_described() -> None:
    described = description(version="1", base_url="/")
    async with (
        serving({"limits.max_builds": 1}) as world,
        socket_to(world.server.url, f"/build/{SPEC}"),
    ):
        name = await world.name()
        async with socket_to(world.server.url, f"/build/{SECOND}"):
            await until(lambda: len(world.server.binder.builds) == 2)
            answer = await world.ask("GET", "api/builds")
    assert answer.status_code == 200
    schema = {"$ref": "#/components/schemas/Builds", "components": described["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer.json())
    told = answer.json()
    assert told["complete"]
    one, two = told["builds"]
    assert (one["name"], one["state"], one["phase"], one["watchers"]) == (
        name,
        "running",
        "building",
        1,
    )
    assert (one["provider"], one["ref"], one["place"]) == ("git", COMMIT, None)
    assert (two["state"], two["phase"], two["place"]) == ("queued", "waiting", 1)


async def test_no_password_of_a_url_is_listed() -> None:
    async def leaky() -> list[BuildRun]:
        return [BuildRun("build-x", "run", repo_url="https://me:hunter2@example.org/repo")]

    async with serving() as world:
        vars(world.server.binder.builder)["under_way"] = leaky
        answer = await world.ask("GET", "api/builds")
        (build,) = answer.json()["builds"]
        assert (build["elsewhere"], build["phase"]) == (True, None)
        assert "example.org/repo" in build["repo_url"]
        assert "hunter2" not in answer.text
        assert "hunter2" not in (await world.command()).output


async def test_a_log_is_text_or_events() -> None:
    async with serving() as world, socket_to(world.server.url, f"/build/{SPEC}"):
        name = await world.name()
        path = f"api/builds/{name}/log"
        text = await world.ask("GET", path)
        assert text.headers["content-type"] == "text/plain; charset=utf-8"
        stream = await world.ask("GET", path, headers={"accept": "text/event-stream"})
        told = events(stream.text)
        assert "".join(event["message"] for event in told) == text.text
        assert told[0]["phase"] == "waiting"
        assert told[-1]["phase"] == "building"
        assert (await world.ask("GET", path, params={"follow": "x"})).status_code == 400
        assert (await world.ask("GET", "api/builds/no/log")).status_code == 404


async def test_a_log_is_followed_until_the_build_is_stopped_for_a_reason() -> None:
    async with serving() as world, socket_to(world.server.url, f"/build/{SPEC}"):
        name = await world.name()
        async with anyio.create_task_group() as tasks:
            followed: list[str] = []

            async def follow() -> None:
                answer = await world.ask("GET", f"api/builds/{name}/log?follow=true")
                followed.append(answer.text)

            tasks.start_soon(follow)
            where = {"reason": "It is \x1b[31mtoo\n large"}
            answer = await world.ask("DELETE", f"api/builds/{name}", params=where)
            assert answer.json() == {"name": name, "stopped": True}
        assert followed[0].endswith("stopped by the operator: It is [31mtoo large\n")
        again = await world.ask("DELETE", f"api/builds/{name}")
        assert again.status_code == 404


# -- The command ---------------------------------------------------------------------------------


async def test_the_command_lists_reads_and_stops() -> None:
    async with serving() as world, socket_to(world.server.url, f"/build/{SPEC}"):
        name = await world.name()
        listed = await world.command()
        assert listed.exit_code == 0, listed.output
        head, row = listed.output.splitlines()
        assert head.split()[:3] == ["NAME", "REPOSITORY", "REF"]
        assert row.split()[:4] == [name, "git", "https://example.org/a/repo", COMMIT[:12]]
        as_json = json.loads((await world.command("list", "--json")).output)
        assert as_json["builds"][0]["name"] == name
        assert json.loads((await world.command("--json")).output).keys() == as_json.keys()

        log = await world.command("log", name)
        assert log.exit_code == 0
        assert len(log.output.splitlines()) > 5
        lines = (await world.command("log", name, "--json")).output.splitlines()
        assert {msgspec.json.decode(line)["phase"] for line in lines} >= {"waiting", "building"}

        results: list[Result] = []
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                results.append(await world.command("log", "-f", name))

            tasks.start_soon(follow)
            stopped = await world.command("stop", name, "--reason", "Too large.")
            assert (stopped.exit_code, stopped.output) == (0, f"{name} has ended.\n")
        assert results[0].exit_code == 1
        assert results[0].output.endswith("stopped by the operator: Too large.\n")


async def test_the_command_says_what_is_wrong() -> None:
    async with serving() as world:
        refused = await world.command(token="wrong")
        assert refused.exit_code == 1
        assert "security.operator_token" in refused.output
        assert "wrong" not in refused.output
        missing = await world.command("stop", "build-x")
        assert missing.exit_code == 1
        assert "no build 'build-x'" in missing.output
        base = await world.command("--server", f"{world.server.url}nowhere/")
        assert base.exit_code == 1
        assert "base URL" in base.output
        # Before the command's name or behind it.
        args = ("--server", world.server.url, "--token", TOKEN)
        for words in ((*args, "list"), ("list", *args), args):
            assert (await command(*words, env={})).exit_code == 0


async def test_a_server_has_to_be_named_and_there() -> None:
    nameless = await command(env={})
    assert nameless.exit_code == 2
    assert "BINDER_SERVER" in nameless.output
    nobody = await command("--server", "http://127.0.0.1:9", env={})
    assert nobody.exit_code == 1
    assert "http://127.0.0.1:9" in nobody.output
