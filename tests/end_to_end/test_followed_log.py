"""``binder builds log -f`` on a server that is killed and started again: a real build's log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from real_server import RealServer, hear, until
from repositories import Repositories, count, waiting_script

pytestmark = [pytest.mark.anyio, pytest.mark.real]

OPERATOR = "operators-own-token"


@pytest.mark.parametrize("ends_meanwhile", [False, True])
async def test_each_line_is_printed_once(
    make_server: Callable[..., RealServer],
    repositories: Repositories,
    tmp_path: Path,
    ends_meanwhile: bool,  # noqa: FBT001 - a parameter
) -> None:
    first, dark, second = (tmp_path / name for name in ("go", "dark", "on"))
    part = waiting_script(first, count("early", 1, 200), f"{count('unseen', 1, 200)}; touch {dark}")
    rest = waiting_script(second, "", count("late", 1, 200))
    spec = repositories.spec("slow", {"postBuild": f"#!/bin/sh\n{part}{rest}"})
    server = make_server(**{"security.operator_token": OPERATOR})
    async with server.client() as client:
        await hear(client, spec, build_only=True, until="early 200")
        operator = {"authorization": f"Bearer {OPERATOR}"}
        (build,) = (await client.get("api/builds", headers=operator)).json()["builds"]

    log, trouble = tmp_path / "printed", tmp_path / "trouble"
    command = [sys.executable, "-m", "binder_http.cli", "builds", "log", "-f", build["name"]]
    given = {"BINDER_SERVER": server.url, "BINDER_TOKEN": OPERATOR}
    with log.open("wb") as out, trouble.open("wb") as err:
        follower = await anyio.open_process(command, stdout=out, stderr=err, env=os.environ | given)
    async with follower:
        await until(lambda: "early 200\n" in log.read_text(), within=20)
        server.kill()
        first.touch()
        if ends_meanwhile:
            second.touch()
            # Before anybody looks: the server that comes back finds an image, and a run that ended.
            await until(lambda: not at_work(server), within=20)
        else:
            await until(dark.exists, within=10)
        server.start()
        if not ends_meanwhile:
            await until(lambda: "unseen 200\n" in log.read_text(), within=30)
            second.touch()
        with anyio.fail_after(60):
            assert await follower.wait() == 0, trouble.read_text()
    lines = log.read_text().splitlines()
    expected = [f"{words} {n}" for words in ("early", "unseen", "late") for n in range(1, 201)]
    assert [line for line in lines if line in set(expected)] == expected
    assert lines[-1].startswith("Built image")
    assert len(lines) == len(set(lines)), "a line was told twice"
    assert "Connection lost" in trouble.read_text()
    assert OPERATOR not in trouble.read_text()
    assert len(server.runs()) == 1


def at_work(server: RealServer) -> list[str]:
    """Return the processes of builds that still run."""
    return [told for told in server.left_behind() if "binder_backends.runner" in told]
