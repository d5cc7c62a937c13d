"""Builds and launches that come to a bad end, all at once, beside one that does well."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import anyio
import msgspec
import psutil
import pytest
from real_server import Heard, RealServer, hear, log_lines, peak_bytes, until
from repositories import GitDaemon, Repositories, waiting_script

from binder_backends.runner import fetching

pytestmark = [pytest.mark.anyio, pytest.mark.real]

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
SOON: Final = 60.0
"""Seconds for a build among a dozen others, of which four run at once."""
SILENCE: Final = 15.0
START: Final = 10.0
SPAWN: Final = "(setsid sleep 9876 & setsid nohup sleep 9876 > /dev/null 2>&1 &)"
MEGABYTES: Final = 100


def scripts(folder: Path) -> dict[str, tuple[Mapping[str, str], list[str], float]]:
    """Return, by name, the repositories' files, what is told at the end, and within how long."""
    return {
        "requirements": (
            {"requirements.txt": "tomli-w\nthis-is-no-package-that-there-is==999.1\n"},
            ["Installing requirements.txt failed", "this-is-no-package-that-there-is"],
            SOON,
        ),
        "two requirements at odds": (
            {"requirements.txt": "tomli-w<1\ntomli-w>=1\n"},
            ["Installing requirements.txt failed", "tomli-w"],
            SOON,
        ),
        "dockerfile": (
            {"Dockerfile": "FROM scratch\n"},
            ["Dockerfile", "which the local backend cannot do", "The docker backend"],
            SOON,
        ),
        "runtime": (
            {"runtime.txt": "python-2.7\n"},
            ["runtime.txt asks for Python 2.7", "python-3.12"],
            SOON,
        ),
        "postBuild": (
            {"postBuild": "#!/bin/sh\necho it goes wrong\nexit 3\n"},
            ["Running postBuild failed", "exit status 3", "it goes wrong"],
            SOON,
        ),
        "no shell": (
            {"postBuild": "#!/no/such/interpreter\n"},
            ["Running postBuild failed", "its first line names a program that is not there"],
            SOON,
        ),
        "never ends": (
            {"postBuild": f"#!/bin/sh\n{SPAWN}\ntrap '' TERM INT HUP\nwhile :; do sleep 1; done\n"},
            [f"printed nothing for {SILENCE:g} s", "Running postBuild"],
            SILENCE + SOON,
        ),
        "children": (
            {"postBuild": f"#!/bin/sh\n{SPAWN}\necho children made\nexit 4\n"},
            ["exit status 4", "children made"],
            SOON,
        ),
        "no start": (
            {"start": "#!/bin/sh\necho there is no server today >&2\nexit 7\n"},
            ["The notebook server ended before it answered", "there is no server today"],
            SOON,
        ),
        "start hangs": (
            {"start": f"#!/bin/sh\n{SPAWN}\necho busy\nexec sleep 9876\n"},
            [f"did not answer within {START:g} s", "busy"],
            START + SOON,
        ),
    }


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def test_each_fails_alone_and_leaves_nothing(
    make_server: Callable[..., RealServer],
    repositories: Repositories,
    git_daemon: GitDaemon,
    silent_port: int,
    tmp_path: Path,
) -> None:
    server = make_server(
        **{
            "builder.local.silence_timeout": SILENCE,
            "launcher.local.start_timeout": START,
            "limits.max_builds": 4,
        }
    )
    go = tmp_path / "go"
    # It counts for as long as the others fail.
    ticking = waiting_script(go, "i=0", "echo done $i", ticks="i=$((i+1)); echo tick $i; ")
    well = repositories.spec("well", {"postBuild": ticking})
    repositories.make("there", {"a": ""})
    cases = {
        repositories.spec(name.replace(" ", "-"), files): (words, within)
        for name, (files, words, within) in scripts(tmp_path).items()
    }
    cases[git_daemon.spec("there", COMMIT)] = [f"Checking out {COMMIT} failed"], SOON
    cases[git_daemon.spec("nowhere", COMMIT)] = ["Fetching git://127.0.0.1", "nowhere"], SOON
    cases["git/https%3A%2F%2Fnosuch.invalid%2Frepo/" + COMMIT] = ["nosuch.invalid"], SOON
    url = quote(f"git://127.0.0.1:{silent_port}/repo", safe="")
    words = [f"printed nothing for {SILENCE:g} s", "Fetching git://127.0.0.1"]
    cases[f"git/{url}/{COMMIT}"] = words, SILENCE + SOON
    stories: dict[str, list[Heard]] = {}

    async with server.client() as client, anyio.create_task_group() as tasks:

        async def fail(spec: str) -> None:
            began = time.monotonic()
            stories[spec] = await hear(client, spec, within=120)
            took[spec] = time.monotonic() - began

        async def do_well() -> None:
            stories[well] = await hear(client, well, build_only=True, within=200)

        took: dict[str, float] = {}
        tasks.start_soon(do_well)
        await until(lambda: len(server.images()) == 1, within=60)
        async with anyio.create_task_group() as failing:
            for spec in cases:
                failing.start_soon(fail, spec)
        # Their last events were the very end: nothing of them runs or lies around.
        assert [one for one in server.left_behind() if "9876" in one] == []
        assert list(server.servers.iterdir()) == []
        assert well not in stories
        go.touch()

    for spec, (words, within) in cases.items():
        *before, last = stories[spec]
        assert last.phase == "failed", spec
        assert not {one.phase for one in before} & {"ready", "failed"}
        for word in words:
            assert word in last.message, (spec, last.message)
        assert str(server.folder) not in last.message
        assert "Traceback" not in last.message
        assert took[spec] < within, (spec, took[spec])
    assert stories[well][-1].phase == "ready"
    counted = [line for line in log_lines(stories[well]) if line.startswith("tick")]
    assert counted == [f"tick {n}\n" for n in range(1, len(counted) + 1)]
    assert len(counted) > 100
    # What is there are images that exist, and nothing else.
    built = list(server.cache.glob("images/*/built.json"))
    folders = {msgspec.json.decode(path.read_bytes())["folder"] for path in built}
    assert {str(path) for path in server.images()} == folders
    assert len(built) == len(list(server.cache.glob("images/*"))) == 3
    assert len(server.runs()) == len(cases) + 1


async def test_git_gives_up_a_web_server_that_says_nothing(
    silent_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_DEAD", 1)
    url = f"http://127.0.0.1:{silent_port}/repo"
    env = fetching.git_environment(os.environ, url, tmp_path, file_allowed=False)
    with anyio.fail_after(20):
        done = await anyio.run_process(["git", "ls-remote", url], env=env, check=False)
    assert done.returncode == 128
    assert b"too slow" in done.stderr


async def test_a_hundred_megabytes_of_output_cost_little(
    make_server: Callable[..., RealServer], repositories: Repositories, tmp_path: Path
) -> None:
    go, printed = tmp_path / "go", tmp_path / "printed"
    line = "0123456789" * 9 + " of many"
    pour = f"yes '{line}' | head -c {MEGABYTES}000000; echo; touch {printed}"
    spec = repositories.spec(
        "talkative", {"postBuild": waiting_script(go, pour, "echo the last words; exit 5")}
    )
    server = make_server()
    before = server.peak_bytes()
    async with server.client() as client, anyio.create_task_group() as tasks:
        story: list[Heard] = []

        async def watch() -> None:
            story.extend(await hear(client, spec, build_only=True, within=120))

        tasks.start_soon(watch)
        await until(printed.exists, within=90)
        (pid_file,) = server.cache.glob("builds/*/runs/*.pid")
        runner = msgspec.json.decode(pid_file.read_bytes())["pid"]
        runner_peak = peak_bytes(runner)
        go.touch()

    assert story[-1].phase == "failed"
    assert "exit status 5" in story[-1].message
    assert "the last words" in story[-1].message
    lines = log_lines(story)
    assert lines[-1] == "the last words\n"
    gaps = [int(found[1]) for one in lines if (found := re.match(r"… (\d+) lines? left", one))]
    told = sum(one == f"{line}\n" for one in lines)
    # Each is told or counted; what head cut in the middle may be among them.
    assert told + sum(gaps) - MEGABYTES * 1_000_000 // (len(line) + 1) in {0, 1}
    (log,) = server.runs()
    assert log.stat().st_size < 9 * 2**20
    assert runner_peak < 100 * 2**20
    assert server.peak_bytes() - before < 100 * 2**20
    assert not psutil.pid_exists(runner)
    assert server.images() == []
