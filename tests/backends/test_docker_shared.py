"""An engine that others use and clear up as well: what the Docker builder and launcher make of it.

The engine is played, so that it answers in just the order that matters.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from play_engine import GOOD, Answer, Answers, PlayEngine, frame, playing

from binder_backends.docker import (
    DockerBuilder,
    DockerLauncher,
    DockerLaunchSettings,
    DockerSettings,
    builder,
)
from binder_backends.registry import RegistrySettings
from binder_core.plugin import BackendUnavailable, BuildFailed, BuildRequest, Outcome, encode_log
from binder_core.testing import StrictReport

pytestmark = pytest.mark.anyio

NAME, IMAGE = "build-a", "a:b"
GONE: Answer = (404, {"message": "No such container"})
DONE: Answer = (204, None)
BUSY: Answer = (500, {"message": "driver failed to remove root filesystem: device or busy"})
RUNS: Answer = (
    409,
    {"message": "You cannot remove a running container. Stop it, or force remove"},
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


def request(image: str = IMAGE, follow: str = "") -> BuildRequest:
    return BuildRequest(NAME, image, "https://git.example/a", "1" * 40, follow=follow or None)


def container(
    letter: str, state: str, *, age: float = 0.0, exit_code: int = 0, runner: str = "yes"
) -> dict[str, Any]:
    """Return what an engine says of a build's container, asked for it and in its list."""
    labels = {"io.binderkit.build": NAME, "io.binderkit.runner": runner}
    when = dt.datetime.fromtimestamp(time.time() - age, dt.UTC).isoformat()
    ended = when if state == "exited" else "0001-01-01T00:00:00Z"
    return {
        "Id": letter * 64,
        "Name": f"/{NAME}",
        "Created": when,
        "Config": {"Labels": labels},
        "State": {"Status": state, "ExitCode": exit_code, "FinishedAt": ended},
    }


def listed(said: dict[str, Any]) -> dict[str, Any]:
    return {
        "Id": said["Id"],
        "Names": [said["Name"]],
        "Created": dt.datetime.fromisoformat(said["Created"]).timestamp(),
        "State": said["State"]["Status"],
        "Labels": said["Config"]["Labels"],
    }


def known(*said: dict[str, Any]) -> Answers:
    """Return an engine's answers that has these containers."""
    each: Answers = {f"GET /containers/{one['Id']}/json": (200, one) for one in said}
    return {**GOOD, **each, "GET /containers/json": (200, [listed(one) for one in said])}


@asynccontextmanager
async def building(
    tmp_path: Path, answers: Answers, **settings: Any
) -> AsyncIterator[tuple[DockerBuilder, PlayEngine]]:
    async with (
        playing(tmp_path / "docker.sock", answers) as engine,
        DockerBuilder(DockerSettings(host=engine.host, **settings)) as made,
    ):
        yield made, engine


# -- Clearing up ---------------------------------------------------------------------------------


async def test_one_container_that_cannot_be_removed_keeps_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = known(container("a", "exited", age=9000), container("b", "exited", age=9000))
    answers[f"DELETE /containers/{'a' * 64}"] = BUSY
    answers[f"DELETE /containers/{'b' * 64}"] = DONE
    with caplog.at_level(logging.WARNING, logger="binder.docker"):
        async with building(tmp_path, answers) as (made, engine):
            for _ in range(3):
                await made.sweep()
            assert engine.told(f"DELETE /containers/{'b' * 64}")
    (told,) = caplog.messages
    assert "container aaaaaaaaaaaa is not cleared up" in told, "and it is told once"
    assert "device or busy" in told


async def test_servers_are_cleared_up_in_the_same_way(tmp_path: Path) -> None:
    ended = [container(letter, "exited", age=9000) for letter in "ab"]
    for one in ended:
        one["Config"]["Labels"] = {"io.binderkit.server": NAME}
        one["HostConfig"] = {}
    answers = known(*ended)
    answers[f"DELETE /containers/{'a' * 64}"] = BUSY
    answers[f"DELETE /containers/{'b' * 64}"] = DONE
    async with (
        playing(tmp_path / "docker.sock", answers) as engine,
        DockerLauncher(DockerLaunchSettings(host=engine.host)) as made,
    ):
        await made.sweep()
        assert engine.told(f"DELETE /containers/{'b' * 64}")


@pytest.mark.parametrize("said", ["<html>502", [7], [{}], {"message": "oh"}])
async def test_an_odd_answer_ends_no_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    said: object,
) -> None:
    rounds = anyio.Event()

    async def sleep(_: float) -> None:
        if len(engine.told("GET /containers/json")) >= 3:
            rounds.set()
            await anyio.Event().wait()

    monkeypatch.setattr(anyio, "sleep", sleep)
    status = 500 if isinstance(said, dict) else 200
    answers: Answers = {**GOOD, "GET /containers/json": (status, said)}
    with caplog.at_level(logging.WARNING, logger="binder.docker"), anyio.fail_after(30):
        async with building(tmp_path, answers) as (_, engine):
            await rounds.wait()
    (told,) = caplog.messages
    assert "not cleared up" in told, "and it is told once"


@pytest.mark.parametrize(
    ("state", "age", "removed"),
    [
        ("created", 700, True),
        ("created", 500, False),
        ("exited", 700, False),
        ("exited", 4000, True),
        ("running", 90000, False),
    ],
)
async def test_when_a_container_is_removed(
    tmp_path: Path, state: str, age: float, *, removed: bool
) -> None:
    found = container("a", state, age=age)
    answers = {**known(found), f"DELETE /containers/{found['Id']}": DONE}
    async with building(tmp_path, answers) as (made, engine):
        await made.sweep()
        asked = engine.told("DELETE")
    assert bool(asked) is removed
    assert not any("force=1" in each for each in asked), "it may just have been started"


@pytest.mark.parametrize(
    ("runner", "age", "ended"), [("no", 200, 1), ("no", 50, 0), ("yes", 200, 0)]
)
async def test_a_build_without_a_runner_may_not_take_for_ever_either(
    tmp_path: Path, runner: str, age: float, ended: int
) -> None:
    runs = container("a", "running", age=age, runner=runner)
    over = container("a", "exited", age=age, runner=runner, exit_code=137)
    path = f"/containers/{runs['Id']}"
    answers: Answers = {
        **known(runs),
        f"GET {path}/json": [(200, runs), (200, over)],
        f"PUT {path}/archive": (200, None),
        f"POST {path}/kill": DONE,
        f"POST {path}/wait": (200, {"StatusCode": 137}),
    }
    async with building(tmp_path, answers, build_timeout=100) as (made, engine):
        await made.tidy(listed(runs))
        assert len(engine.told(f"POST {path}/kill")) == ended
        assert len(engine.told(f"PUT {path}/archive")) == ended, "and why is left for who asks"


# -- Two servers at a time -----------------------------------------------------------------------


def log_of(letter: str, *entries: bytes) -> Answers:
    path = f"/containers/{letter * 64}"
    return {
        f"GET {path}/logs": (200, b"".join(frame(1, entry) for entry in entries)),
        f"POST {path}/wait": (200, {"StatusCode": 0}),
    }


BUILT, FAILED = encode_log(Outcome(1, built=True)), encode_log(Outcome(1, False, "no such package"))


def starts(letter: str, *start: Answer) -> Answers:
    """Return the answers to who starts a build, which has come to its good end at once."""
    path = f"/containers/{letter * 64}"
    ended = container(letter, "exited")
    return {
        **GOOD,
        **log_of(letter, BUILT),
        "POST /containers/create": (201, {"Id": letter * 64}),
        f"GET /containers/{NAME}/json": GONE,
        f"PUT {path}/archive": (200, None),
        f"POST {path}/start": list(start),
        f"GET {path}/json": (200, ended),
        f"GET /images/{IMAGE}/json": [GONE, GONE, (200, {"Id": "sha256:1"})],
    }


async def test_a_container_that_is_removed_before_it_starts_is_made_again(tmp_path: Path) -> None:
    marked = (409, {"message": "container is marked for removal and cannot be started"})
    answers = starts("c", marked, DONE)
    async with building(tmp_path, answers) as (made, engine):
        with anyio.fail_after(30):
            await made.build(request(), StrictReport())
        assert len(engine.told("POST /containers/create")) == 2


async def test_a_build_that_was_just_started_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_START_WITHIN", 0.0)
    fresh, ended = container("c", "created"), container("c", "exited")
    answers: Answers = {
        **starts("c", DONE),
        f"GET /containers/{NAME}/json": [(200, fresh), (200, container("c", "running"))],
        # Whoever made it starts it between our last look and the removal.
        f"GET /containers/{'c' * 64}/json": [(200, fresh), (200, ended)],
        f"DELETE /containers/{'c' * 64}": RUNS,
        f"GET /containers/{'c' * 64}/logs": [
            (200, b""),
            (200, frame(1, BUILT)),
        ],
        f"GET /images/{IMAGE}/json": (200, {"Id": "sha256:1"}),
    }
    report = StrictReport()
    async with building(tmp_path, answers) as (made, engine):
        with anyio.fail_after(30):
            await made.build(request(), report)
        assert report.run_id == "c" * 16
        (removal,) = engine.told("DELETE")
        assert "force=1" not in removal
        assert not engine.told("POST /containers/create")


async def test_a_run_that_somebody_else_renamed_has_made_way(tmp_path: Path) -> None:
    before = container("b", "exited", exit_code=1)
    same = (400, {"message": "Renaming a container with the same name as its current name"})
    answers: Answers = {
        **starts("c", DONE),
        f"GET /containers/{NAME}/json": [(200, before), GONE],
        f"POST /containers/{'b' * 64}/rename": same,
    }
    async with building(tmp_path, answers) as (made, engine):
        with anyio.fail_after(30):
            await made.build(request(), StrictReport())
        assert len(engine.told("POST /containers/create")) == 1


# -- Why a build failed --------------------------------------------------------------------------


async def test_a_registry_that_is_away_does_not_hide_why_a_build_failed(tmp_path: Path) -> None:
    failed = container("c", "exited", exit_code=1)
    answers: Answers = {
        **GOOD,
        **log_of("c", FAILED),
        f"GET /containers/{'c' * 16}/json": (200, failed),
        f"GET /containers/{'c' * 64}/json": (200, failed),
    }
    away = RegistrySettings(tries=1, read_docker_config=False)
    async with building(tmp_path, answers, push=True, registry=away) as (made, _):
        with pytest.raises(BuildFailed, match="no such package"), anyio.fail_after(30):
            await made.build(request("127.0.0.1:1/a:b", follow="c" * 16), StrictReport())


async def test_a_network_that_is_not_there_is_said(tmp_path: Path) -> None:
    async with playing(tmp_path / "docker.sock", GOOD) as engine:
        with pytest.raises(BackendUnavailable, match="docker network create nowhere"):
            await DockerBuilder(DockerSettings(host=engine.host, network="nowhere")).__aenter__()
    answers: Answers = {
        **starts("c", (404, {"message": "network nowhere not found"})),
        "GET /networks/nowhere": [(200, {"Id": "n"}), GONE],
        f"DELETE /containers/{'c' * 64}": DONE,
    }
    async with building(tmp_path, answers, network="nowhere") as (made, engine):
        with pytest.raises(BackendUnavailable, match="has no network nowhere"):
            await made.build(request(), StrictReport())
        assert engine.told("DELETE"), "and its container does not stay"
