"""How many builds run on a Docker engine at once: with a list of containers of the tests' own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import msgspec
import pytest
from play_engine import GOOD, Answers, playing

from binder_backends.docker import DockerBuilder, DockerSettings, slots
from binder_backends.docker.engine import Engine
from binder_backends.docker.slots import Slots
from binder_core.plugin import BuildFailed, BuildRequest
from binder_core.testing import StrictReport

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


def listed(name: str, state: str = "running", age: float = 0.0) -> dict[str, Any]:
    return {
        "Id": name * 8,
        "Names": [f"/{name}"],
        "Labels": {"io.binderkit.build": name},
        "State": state,
        "Created": time.time() - age,
    }


class Containers:
    """An engine's list of containers, which takes a while to come."""

    def __init__(self, *there: dict[str, Any]) -> None:
        self.there = list(there)
        self.answers = anyio.Event()
        self.answers.set()
        self.asked = 0

    async def containers(self, *_: str) -> list[dict[str, Any]]:
        self.asked += 1
        found = list(self.there)
        await self.answers.wait()
        await anyio.lowlevel.checkpoint()
        return found


def made(engine: Containers, limit: int) -> Slots:
    return Slots(cast("Engine", engine), limit)


async def test_what_runs_is_counted_whoever_started_it() -> None:
    engine = Containers(
        listed("a"),
        listed("b", "exited"),
        listed("c", "created"),
        listed("d", "created", age=100),
        listed("x") | {"Names": ["/somebody-elses"]},
    )
    queue = made(engine, 2)
    with queue.turn("e") as turn:
        assert "as many builds as it may (2)" in await queue.claim(turn)
        engine.there.pop(0)
        assert await queue.claim(turn) == ""


async def test_no_limit_asks_nothing() -> None:
    engine = Containers(listed("a"))
    queue = made(engine, 0)
    with queue.turn("b") as turn:
        assert await queue.claim(turn) == ""
    assert engine.asked == 0


async def test_places_are_given_in_turn_and_told() -> None:
    queue = made(engine := Containers(listed("a")), 1)
    with queue.turn("b") as first, queue.turn("c") as second:
        assert "number 1 in the queue" in await queue.claim(first)
        assert "number 2 in the queue" in await queue.claim(second)
        engine.there.clear()
        assert "number 2 in the queue" in await queue.claim(second), "it is not its turn"
        assert await queue.claim(first) == ""


async def test_one_server_never_exceeds_the_limit() -> None:
    queue = made(engine := Containers(), 3)
    running: list[int] = []
    left = 0

    async def build(name: str) -> None:
        nonlocal left
        with queue.turn(name) as turn:
            while await queue.claim(turn):
                await queue.change()
        await anyio.lowlevel.checkpoint()  # it is being made
        said = listed(name)
        engine.there.append(said)
        queue.release(name)
        running.append(len(engine.there))
        for _ in range(7):
            await anyio.lowlevel.checkpoint()
        engine.there.remove(said)
        left += 1
        queue.wake()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for n in range(30):
                tasks.start_soon(build, f"build-{n}")
    assert left == 30
    assert max(running) == 3


async def test_a_start_that_an_older_list_does_not_have_counts() -> None:
    queue = made(engine := Containers(), 1)
    got: list[str] = []

    async def second() -> None:
        with queue.turn("b") as turn:
            got.append(await queue.claim(turn))

    with queue.turn("a") as turn:
        assert await queue.claim(turn) == ""
    engine.answers = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        while engine.asked < 2:
            await anyio.lowlevel.checkpoint()
        queue.release("a")  # it has a container now, and the list on its way is without it
        engine.answers.set()
    assert "as it may (1)" in got[0]


def running(name: str) -> Answers:
    return {**GOOD, "GET /containers/json": (200, [listed(name)])}


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[DockerBuilder]:
    async with (
        playing(tmp_path / "docker.sock", running("other")) as engine,
        DockerBuilder(DockerSettings(host=engine.host, max_builds=1)) as builder,
    ):
        yield builder


async def test_a_build_that_waits_can_be_stopped(
    full: DockerBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "_LOOK", 600.0)
    request = BuildRequest("build-a", "a:b", "https://git.example/a", "1" * 40)
    report, failures = StrictReport(), list[str]()

    async def build() -> None:
        with pytest.raises(BuildFailed) as failure:
            await full.build(request, report)
        failures.append(failure.value.message)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(build)
            while not report.queue:
                await anyio.lowlevel.checkpoint()
            await full.stop(request, "not this one")
    assert failures == ["not this one"]
    assert "number 1 in the queue" in report.queue[0]


@pytest.mark.parametrize("name", ["max_builds", "pids_limit", "log_cap_bytes"])
def test_numbers_below_0_are_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"{name} must not be below 0"):
        msgspec.convert({name: -1}, DockerSettings)
