"""``binder builds log -f`` over connections that break: each line is printed once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import anyio
import httpx
import pytest
from click.testing import CliRunner, Result
from scripted import STREAM, Asked, Reply, Script, Scripted, frame, resuming, scripted
from serving import SPEC, conf, socket_to, until

from binder_http.cli import main
from binder_http.client import Client, Patience, UnexpectedAnswer
from binder_http.server import running

TOKEN: Final = "operators-own-token"
NAME: Final = "build-repo-0123"
IMAGE: Final = "registry.example/binder-repo:1"
FRAMES: Final = [
    ("", b"retry: 1\n" + frame('{"phase":"waiting","message":"Waiting\\n"}')),
    ("r.1", frame('{"phase":"fetching","message":"one\\n"}', "r.1")),
    ("", b":heartbeat\n\n"),
    ("r.2", frame('{"phase":"building","message":"two \u00e9\\n"}', "r.2")),
    ("r.3", frame('{"phase":"building","message":"three\\n"}', "r.3")),
    ("r.4", frame('{"phase":"built","message":"Built\\n","imageName":"i"}', "r.4")),
]
WHOLE: Final = b"".join(data for _, data in FRAMES)
LINES: Final = ["Waiting", "one", "two \u00e9", "three", "Built"]
LISTED: Final = {"builds": [{"name": NAME, "image": IMAGE}], "complete": True, "message": ""}


def answer(status: str, body: object) -> Reply:
    text = json.dumps(body)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    return Reply((head + text).encode())


def listing(log: Script) -> Script:
    """Answer the list of builds, and with `log` who asks for the log for the n-th time."""

    def script(asked: Asked, before: int) -> Reply:
        return log(asked, before - 1) if "/log?" in asked.target else answer("200 OK", LISTED)

    return script


def follow(server: Scripted, *more: str) -> Result:
    env = {"BINDER_SERVER": server.url, "BINDER_TOKEN": TOKEN}
    return CliRunner().invoke(main, ["builds", "log", "-f", NAME, *more], env=env)


def ids(server: Scripted) -> list[str | None]:
    return [asked.headers.get("last-event-id") for asked in server.asked if "/log?" in asked.target]


@pytest.mark.parametrize("cut", range(0, len(WHOLE), 29))
def test_a_cut_anywhere_costs_no_line_and_repeats_none(cut: int) -> None:
    def log(asked: Asked, before: int) -> Reply:
        body = resuming(FRAMES, asked.headers.get("last-event-id", ""))
        return Reply(STREAM + (body if before else body[:cut]))

    with scripted(listing(log)) as server:
        result = follow(server)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == LINES
    assert "Connection lost" in result.stderr
    _, *logs = server.asked
    for asked in logs:
        assert asked.headers["authorization"] == f"Bearer {TOKEN}"
        # With it another server finds the run though it has ended.
        assert httpx.URL(asked.target).params["image"] == IMAGE


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(b"", then="reset"),
        Reply(STREAM),
        answer("503 No", {"status": 503, "message": "starting"}),
        answer("404 No", {"status": 404, "message": "There is no build"}),
    ],
)
def test_a_server_that_is_being_started_is_waited_for(trouble: Reply) -> None:
    def log(asked: Asked, before: int) -> Reply:
        last = asked.headers.get("last-event-id", "")
        if before == 0:
            return Reply(STREAM + b"".join(data for _, data in FRAMES[:4]))
        return trouble if before < 3 else Reply(STREAM + resuming(FRAMES, last))

    with scripted(listing(log)) as server:
        result = follow(server, "--json")
        assert result.exit_code == 0, result.output
        told = [json.loads(line)["message"].strip() for line in result.stdout.splitlines()]
        assert told == LINES
        assert ids(server) == [None, "r.2", "r.2", "r.2"]


def test_a_build_that_failed_ends_it_as_such() -> None:
    last = frame('{"phase":"failed","message":"no luck\\n"}', "r.2.end")
    with scripted(listing(lambda *_: Reply(STREAM + FRAMES[1][1] + last))) as server:
        result = follow(server)
    assert (result.exit_code, result.stdout.splitlines()) == (1, ["one", "no luck"])


def test_who_is_refused_hears_why_at_once() -> None:
    refusal = answer("404 No", {"status": 404, "message": "There is no build 'x' under way"})
    with scripted(listing(lambda *_: refusal)) as server:
        result = follow(server)
        assert result.exit_code == 1
        assert "no build 'x'" in result.stderr
        assert len(server.asked) == 2


# -- With a server of ours ------------------------------------------------------------------------


def serving(flags: Mapping[str, Any]) -> Any:
    return running(conf({"security.operator_token": TOKEN} | dict(flags)))


def bodies(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: "))["message"] for line in lines]


@pytest.mark.anyio
async def test_a_log_goes_on_behind_the_last_event_seen() -> None:
    flags = {"builder.fake.ends": False, "builder.fake.lines": 6}
    async with serving(flags) as server, socket_to(server.url, f"/build/{SPEC}"):
        headers = {"authorization": f"Bearer {TOKEN}", "accept": "text/event-stream"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20) as client:
            await until(lambda: any(build.phase == "building" for build in server.binder.builds))
            (build,) = server.binder.builds
            path = f"api/builds/{build.name}/log"

            async def read(last_id: str) -> httpx.Response:
                return await client.get(path, headers={"last-event-id": last_id})

            whole = bodies((await read("")).text)
            assert bodies((await read(f"{build.run_id}.3")).text) == whole[-3:]
            assert bodies((await read("another-run.3")).text) == whole, "that one is not known"
            assert bodies((await read("made up")).text) == whole
            assert (await read(f"{build.run_id}.6.end")).status_code == 204
            bad = await client.get(path, params={"image": "no Image!"})
            assert bad.status_code == 400
            for name in ("..", "x%2Fy", "a" * 64):
                there = {"image": "local/x:1"}
                back = {"last-event-id": "r.1"}
                found = await client.get(f"api/builds/{name}/log", params=there, headers=back)
                assert found.status_code == 404, name
        await server.binder.stop_builds()


@pytest.mark.anyio
@pytest.mark.parametrize("fails", ["", "no luck"])
async def test_the_client_follows_a_log_to_its_end(fails: str) -> None:
    flags = {"builder.fake.lines": 20, "builder.fake.rate": 40.0, "builder.fake.fails": fails}
    async with serving(flags) as server, socket_to(server.url, f"/build/{SPEC}"):
        await until(lambda: bool(server.binder.builds))
        name = server.binder.builds[0].name
        async with Client(server.url, token=TOKEN) as client:
            with anyio.fail_after(20):
                told = [event async for event in client.build_log(name)]
        assert told[-1].phase == ("failed" if fails else "built")
        assert sum(event.phase == "building" for event in told) >= 10
        async with Client(server.url, token="another", patience=Patience(give_up=1)) as client:
            with pytest.raises(UnexpectedAnswer, match="operator_token"):
                await anext(client.build_log(name))
