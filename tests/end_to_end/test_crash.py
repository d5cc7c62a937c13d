"""A server that is killed costs nobody anything: real builds, real notebook servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import psutil
import pytest
from real_server import Heard, RealServer, ask_again, hear, log_lines, until
from repositories import Repositories, count, waiting_script

from binder_core.events import Event
from binder_http.client import Client, Patience

pytestmark = [pytest.mark.anyio, pytest.mark.real]

DONE = "Ready. It is done."


async def test_a_build_outlives_the_server(
    make_server: Callable[..., RealServer], repositories: Repositories, tmp_path: Path
) -> None:
    builds, first, dark, second = (tmp_path / name for name in ("builds", "go", "dark", "on"))
    part = waiting_script(first, count("early", 1, 300), f"{count('unseen', 1, 300)}; touch {dark}")
    rest = waiting_script(second, "", f"{count('late', 1, 300)}; echo '{DONE}'")
    script = f"#!/bin/sh\necho built >> {builds}\n{part}{rest}"
    spec = repositories.spec("slow", {"postBuild": script})
    server = make_server()
    by_client: list[Event] = []

    async def follow_by_client() -> None:
        patience = Patience(delay=0.1, max_delay=0.5)
        async with Client(server.url, token=server.token, patience=patience) as client:
            async for event in client.launch(spec, build_only=True):
                by_client.append(event)  # noqa: PERF401 - it is looked at while it grows

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow_by_client)
        async with server.client() as client:
            before = await hear(client, spec, build_only=True, until="early 300")
            early = await hear(client, spec, build_only=True, until="early 7")
        await until(lambda: any("early 300" in event.message for event in by_client), within=10)
        server.kill()
        first.touch()
        await until(dark.exists, within=10)
        server.start()
        async with server.client() as client, anyio.create_task_group() as others:
            stories: dict[str, list[Heard]] = {}

            async def follow(name: str, seen: list[Heard]) -> None:
                last_id = seen[-1].id if seen else ""
                after = await hear(client, spec, build_only=True, last_id=last_id)
                stories[name] = seen + after

            others.start_soon(follow, "who came back", before)
            others.start_soon(follow, "who left early", early)
            others.start_soon(follow, "who is new", [])
            unseen = await hear(client, spec, build_only=True, until="unseen 300")
            assert unseen[0].phase == "waiting"
            second.touch()

    expected = [f"{words} {n}\n" for words in ("early", "unseen", "late") for n in range(1, 301)]
    whole = log_lines(stories["who is new"])
    assert whole[-901:] == [*expected, f"{DONE}\n"]
    for heard in stories.values():
        assert log_lines(heard) == whole
        told = [one for one in heard if one.id and one.phase not in {"built", "ready"}]
        runs, numbers = zip(*(one.id.split(".") for one in told), strict=True)
        assert len(set(runs)) == 1
        assert [int(n) for n in numbers] == list(range(1, len(told) + 1))
        assert [one.phase for one in heard[-2:]] == ["built", "ready"]
    assert [event.message for event in by_client if event.message in whole] == whole
    assert by_client[-1].phase == "ready"
    assert builds.read_text() == "built\n"
    assert len(server.runs()) == len(server.images()) == 1
    async with server.client() as client:
        assert await ask_again(client, spec, stories["who is new"][-1].id) == 204


async def test_a_launch_outlives_the_server(
    make_server: Callable[..., RealServer], repositories: Repositories, tmp_path: Path
) -> None:
    starts, go = tmp_path / "starts", tmp_path / "go"
    script = waiting_script(go, f"echo started >> {starts}", 'exec "$@"')
    spec = repositories.spec("launched", {"start": script})
    server = make_server()
    async with server.client() as client:
        before = await hear(client, spec, until="launching")
    await until(lambda: starts.exists() and _state(server) is not None, within=10)
    state, token = _state(server), (_folder(server) / "token").read_text()
    assert state is not None

    # While it starts.
    server.kill()
    server.start()
    async with server.client() as client, anyio.create_task_group() as tasks:
        stories: list[list[Heard]] = []

        async def come_back() -> None:
            stories.append(await hear(client, spec, last_id=before[-1].id))

        for _ in range(3):
            tasks.start_soon(come_back)
        await until(lambda: server.connections() == 3, within=10)
        go.touch()
    for heard in stories:
        assert [one.phase for one in heard if one.phase != "launching"] == ["ready"]
    ready = stories[0][-1]
    assert {story[-1].message for story in stories} == {ready.message}
    assert ready.data["token"] == token
    assert httpx.URL(ready.data["url"]).port == state["port"]
    await _answers(ready)

    # When it runs: the same handle finds the same server.
    server.kill()
    server.start()
    async with server.client() as client:
        again = await hear(client, spec, last_id=before[-1].id)
        status = await ask_again(client, spec, ready.id)
    assert again[-1].data == ready.data
    assert status == 204
    await _answers(ready)
    assert starts.read_text() == "started\n"
    assert [state["pid"]] == [process.pid for process in _servers(server)]
    assert len(server.runs()) == 1

    # A normal stop ends it.
    server.stop()
    assert not list(server.servers.iterdir())


async def _answers(ready: Heard) -> None:
    url = httpx.URL(ready.data["url"]).join("api/status")
    headers = {"authorization": f"token {ready.data['token']}"}
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(url)).status_code == 403
        assert (await client.get(url, headers=headers)).json()["kernels"] == 0


def _folder(server: RealServer) -> Path:
    (folder,) = server.servers.iterdir()
    return folder


def _state(server: RealServer) -> dict[str, int] | None:
    file = _folder(server) / "state.json"
    return json.loads(file.read_bytes()) if file.exists() else None


def _servers(server: RealServer) -> list[psutil.Process]:
    """Return the notebook servers: what has its port in its arguments."""
    return [
        process
        for process in psutil.process_iter()
        if any(
            part.startswith("--ServerApp.port=") and str(server.folder) in " ".join(words)
            for words in [_words(process)]
            for part in words
        )
    ]


def _words(process: psutil.Process) -> list[str]:
    try:
        return [process.cwd(), *process.cmdline()]
    except psutil.Error:
        return []
