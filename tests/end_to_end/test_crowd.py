"""Many who ask for the same: one clone, one build, and everybody hears all of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import pytest
from real_server import RealServer, hear, listening, log_lines, until
from repositories import GitDaemon, Repositories, count, waiting_script

pytestmark = [pytest.mark.anyio, pytest.mark.real]

WATCHERS: Final = 200
LEAVERS: Final = 40


async def test_two_hundred_hear_the_same_of_one_build(
    make_server: Callable[..., RealServer],
    repositories: Repositories,
    git_daemon: GitDaemon,
    tmp_path: Path,
) -> None:
    builds, go = tmp_path / "builds", tmp_path / "go"
    script = waiting_script(
        go, f"echo built >> {builds}; {count('early', 1, 200)}", count("late", 1, 200)
    )
    spec = git_daemon.spec("crowd", repositories.make("crowd", {"postBuild": script}))
    server = make_server()
    heard: list[list[str]] = []
    arrived = 0

    async with server.client() as client, anyio.create_task_group() as tasks:

        async def watch() -> None:
            told = await hear(client, spec, build_only=True)
            assert [one.phase for one in told[-2:]] == ["built", "ready"]
            heard.append(log_lines(told))

        async def leave_when_told() -> None:
            nonlocal arrived
            async with listening(client, spec, build_only=True) as events:
                async for one in events:
                    arrived += one.message == "early 200\n"

        async with anyio.create_task_group() as leavers:
            for _ in range(WATCHERS):
                tasks.start_soon(watch)
            for _ in range(LEAVERS):
                leavers.start_soon(leave_when_told)
            # From here on the build is silent.
            await until(lambda: arrived == LEAVERS, within=60)
            assert server.connections() == WATCHERS + LEAVERS
            leavers.cancel_scope.cancel()
        left = time.monotonic()
        await until(lambda: server.connections() == WATCHERS, within=5)
        noticed = time.monotonic() - left
        assert not heard
        go.touch()

    # The next heartbeat, at which a write would fail, comes after 25 s.
    assert noticed < 2
    assert len(heard) == WATCHERS
    assert all(lines == heard[0] for lines in heard)
    script_lines = [f"{when} {n}\n" for when in ("early", "late") for n in range(1, 201)]
    assert heard[0][-400:] == script_lines
    assert builds.read_text() == "built\n"
    assert git_daemon.requests() == 1
    assert len(server.runs()) == len(server.images()) == 1


async def test_a_build_whose_watchers_all_left_goes_on(
    make_server: Callable[..., RealServer], repositories: Repositories, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    script = waiting_script(go, "echo now it waits", "echo done")
    spec = repositories.spec("alone", {"postBuild": script})
    server = make_server()
    async with server.client() as client:
        before = await hear(client, spec, build_only=True, until="now it waits")
    await until(lambda: server.connections() == 0, within=5)
    async with server.client() as client:
        page = (await client.get("metrics")).text
        assert "binderhub_inprogress_builds 1.0" in page
        go.touch()
        after = await hear(client, spec, build_only=True, last_id=before[-1].id)
        assert [one.message for one in after[:1]] == ["done\n"]
        assert after[-1].phase == "ready"
        page = (await client.get("metrics")).text
        assert "binderhub_inprogress_builds 0.0" in page
        assert 'binderhub_build_count_total{provider="git",status="success"} 1.0' in page
    assert len(server.runs()) == 1
