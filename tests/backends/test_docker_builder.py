"""The Docker builder where things are limited, left over, or wrong: on a real engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from binder_backends.docker import DockerBuilder, DockerSettings, builder
from binder_backends.docker.engine import Engine, NotThere
from binder_core.plugin import BackendUnavailable, BuildFailed, BuildRequest
from binder_core.testing import StrictReport
from engines.docker import DockerEngine
from engines.docker_builds import containers, quick, release, request, settings, tidy

pytestmark = [pytest.mark.real, pytest.mark.anyio]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


@pytest.fixture
def engine(docker_engine: DockerEngine, busybox_image: str) -> Iterator[DockerEngine]:
    yield docker_engine
    tidy(docker_engine)


def script(engine: DockerEngine, image: str, text: str, **options: object) -> DockerSettings:
    """Return settings for builds that run a shell script."""
    return settings(engine, image, **{"repo2docker": ["sh", "-c", text, "script"], **options})


async def outcome(chosen: DockerSettings, wanted: BuildRequest) -> tuple[StrictReport, str]:
    """Build, and return what was told and why it failed."""
    report = StrictReport()
    async with DockerBuilder(chosen) as made:
        with anyio.fail_after(120), pytest.raises(BuildFailed) as failure:
            await made.build(wanted, report)
    assert report.faults == []
    return report, failure.value.message


async def refusal(chosen: DockerSettings) -> str:
    """Return why a builder does not start."""
    with anyio.fail_after(60), pytest.raises(BackendUnavailable) as refused:
        async with DockerBuilder(chosen):
            pass
    return refused.value.message


# -- Limits --------------------------------------------------------------------------------------


async def test_the_limits_of_a_build(engine: DockerEngine, repo2docker_image: str) -> None:
    wanted = request()
    chosen = quick(engine, repo2docker_image, memory_limit="300M", cpu_limit=0.5, pids_limit=100)
    async with DockerBuilder(chosen) as made:
        await made.build(wanted, StrictReport())
    (run,) = containers(engine, wanted.name)
    given = run["HostConfig"]
    assert given["Memory"] == given["MemorySwap"] == 300 * 2**20
    assert given["NanoCpus"] == 500_000_000
    assert given["PidsLimit"] == 100


async def test_out_of_memory_is_said(engine: DockerEngine, repo2docker_image: str) -> None:
    eats = "exec python3 -c 'x = bytearray(10**9)'"
    _, message = await outcome(
        script(engine, repo2docker_image, eats, memory_limit="100M"), request()
    )
    assert "memory" in message


async def test_a_build_may_not_take_for_ever(engine: DockerEngine, repo2docker_image: str) -> None:
    chosen = script(engine, repo2docker_image, "exec sleep 600", build_timeout=1.5)
    _, message = await outcome(chosen, request())
    assert "longer than the 1.5 s" in message
    chosen = script(engine, repo2docker_image, "exec sleep 600", silence_timeout=1.0)
    _, message = await outcome(chosen, request())
    assert "printed nothing for 1 s" in message


async def test_what_is_too_much_of_a_log_is_left_out(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    pours = "seq 1 200000; exit 3"
    wanted = request()
    report, _ = await outcome(
        script(engine, repo2docker_image, pours, log_cap_bytes=20_000), wanted
    )
    text = [line.message for line in report.lines.values()]
    assert text[0] == "1\n"
    assert text[-1] == "200000\n"
    assert any("left out" in line for line in text)
    (run,) = containers(engine, wanted.name)
    assert len(engine.docker("logs", run["Id"])) < 100_000


async def test_a_build_without_a_runner_that_prints_too_much_is_ended(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    pours = "exec yes $(printf %01000d 0)"
    chosen = script(engine, repo2docker_image, pours, log_cap_bytes=1000, runner=False)
    _, message = await outcome(chosen, request())
    assert "printed more than 1 MiB" in message


class Queued(StrictReport):
    def __init__(self) -> None:
        super().__init__()
        self.queued = anyio.Event()

    def waiting(self, message: str) -> None:
        super().waiting(message)
        self.queued.set()


async def test_a_build_waits_for_its_place_on_the_engine(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    first, second = (request("https://example.org/slow/TOKEN") for _ in range(2))
    told, waits = StrictReport(), Queued()
    chosen = quick(engine, repo2docker_image, max_builds=1)
    async with DockerBuilder(chosen) as one, DockerBuilder(chosen) as other:
        with anyio.fail_after(120):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.build, first, told)
                await told.until(lines=1)
                # On another server, and without knowing anything of it but what the engine says.
                tasks.start_soon(other.build, second, waits)
                await waits.queued.wait()
                assert containers(engine, second.name) == []
                assert waits.run_id is None
                await anyio.to_thread.run_sync(release, engine, first)
                await anyio.to_thread.run_sync(release, engine, second)
        assert await other.exists(second.image)
    assert "runs as many builds as it may (1): number 1 in the queue" in waits.queue[0]
    assert waits.lines
    assert told.faults == waits.faults == []


# -- What others left ----------------------------------------------------------------------------


async def test_containers_of_ended_builds_are_removed_whoever_started_them(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    ended, running = request(), request("https://example.org/slow/TOKEN")
    async with DockerBuilder(quick(engine, repo2docker_image)) as dead:
        await dead.build(ended, StrictReport())
        report = StrictReport()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dead.build, running, report)
            with anyio.fail_after(60):
                await report.until(lines=1)
            tasks.cancel_scope.cancel()
    assert len(containers(engine, ended.name)) == 1
    async with DockerBuilder(quick(engine, repo2docker_image, keep_builds_for=3600)) as patient:
        await patient.sweep()
        assert len(containers(engine, ended.name)) == 1
    async with DockerBuilder(quick(engine, repo2docker_image, keep_builds_for=0)) as other:
        await other.sweep()
        assert containers(engine, ended.name) == []
        assert len(containers(engine, running.name)) == 1
        await anyio.to_thread.run_sync(release, engine, running)
        with anyio.fail_after(60):
            await other.build(running, StrictReport())


async def test_a_container_that_nobody_started_makes_way(
    engine: DockerEngine, repo2docker_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_START_WITHIN", 0.2)
    wanted = request()
    label = f"io.binderkit.build={wanted.name}"
    engine.docker("create", "--name", wanted.name, "--label", label, "busybox:test", "sh")
    async with DockerBuilder(quick(engine, repo2docker_image)) as made:
        with anyio.fail_after(60):
            await made.build(wanted, StrictReport())
        assert await made.exists(wanted.image)
    assert len(containers(engine, wanted.name)) == 1


async def test_a_container_of_somebody_else_is_left_alone(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    wanted = request()
    other = engine.docker("create", "--name", wanted.name, "busybox:test", "sh").strip()
    try:
        async with DockerBuilder(quick(engine, repo2docker_image)) as made:
            with pytest.raises(BackendUnavailable, match="no build: rename"):
                await made.build(wanted, StrictReport())
        async with Engine(engine.host) as asked:
            assert (await asked.inspect(wanted.name))["Id"] == other
    finally:
        engine.docker("rm", "-f", other)


async def test_a_container_removed_while_building(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    wanted = request("https://example.org/slow/TOKEN")
    report = StrictReport()
    messages = []

    async def watch(made: DockerBuilder) -> None:
        try:
            await made.build(wanted, report)
        except BuildFailed as failure:
            messages.append(failure.message)

    async with DockerBuilder(quick(engine, repo2docker_image)) as made:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch, made)
                await report.until(lines=1)
                await anyio.to_thread.run_sync(engine.docker, "rm", "-f", wanted.name)
    assert "removed" in messages[0] or "cut off" in messages[0]


# -- What is wrong -------------------------------------------------------------------------------


async def test_no_engine(tmp_path: Path) -> None:
    assert "start the engine" in await refusal(DockerSettings(host=f"unix://{tmp_path}/no.sock"))
    (tmp_path / "file").touch()
    assert "set host to the engine's socket" in await refusal(
        DockerSettings(host=f"unix://{tmp_path}/file")
    )
    assert "expected one such as unix://" in await refusal(DockerSettings(host="docker.sock"))
    assert "cannot be reached" in await refusal(DockerSettings(host="tcp://127.0.0.1:1"))


async def test_no_builder_image(engine: DockerEngine) -> None:
    message = await refusal(settings(engine, "no-such-builder:test"))
    assert "no-such-builder:test" in message
    assert "docker build -t" in message


async def test_a_builder_image_without_a_runner(
    engine: DockerEngine, stock_repo2docker_image: str
) -> None:
    assert "runner = false" in await refusal(settings(engine, stock_repo2docker_image))


async def test_a_builder_image_that_is_removed_later(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    engine.docker("tag", repo2docker_image, "docker-builds/later:test")
    async with DockerBuilder(quick(engine, "docker-builds/later:test")) as made:
        engine.docker("rmi", "docker-builds/later:test")
        with pytest.raises(BackendUnavailable, match="no builder image docker-builds/later:test"):
            await made.build(request(), StrictReport())


async def test_no_buildx_in_the_builder_image(engine: DockerEngine, repo2docker_image: str) -> None:
    without = (
        "rm -f /usr/libexec/docker/cli-plugins/docker-buildx"
        ' && exec jupyter-repo2docker --engine=docker "$@"'
    )
    git = "git init -q /tmp/r && cd /tmp/r && printf 'FROM busybox:test' > Dockerfile && git add . "
    commit = "&& git -c user.name=t -c user.email=t commit -qm one >/dev/null"
    user = "--user-id=1000 --user-name=a"
    local = f"; set -- --no-run --json-logs {user} --image-name=docker-builds/x:one /tmp/r; "
    _, message = await outcome(
        script(engine, repo2docker_image, git + commit + local + without), request()
    )
    assert "no docker buildx" in message


async def test_no_such_socket_for_builds(engine: DockerEngine, repo2docker_image: str) -> None:
    chosen = quick(engine, repo2docker_image, engine_socket="/nowhere/docker.sock")
    wanted = request()
    async with DockerBuilder(chosen) as made:
        with pytest.raises(BackendUnavailable, match="engine_socket"):
            await made.build(wanted, StrictReport())
    assert containers(engine, wanted.name) == []


async def test_a_full_disk_is_said(engine: DockerEngine, repo2docker_image: str) -> None:
    full = "echo 'failed to register layer: no space left on device' >&2; exit 1"
    _, message = await outcome(script(engine, repo2docker_image, full), request())
    assert "disk of the Docker engine is full" in message


async def test_an_image_that_is_not_made_is_not_called_built(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    for runner in (True, False):
        chosen = script(engine, repo2docker_image, "echo done", runner=runner)
        _, message = await outcome(chosen, request())
        assert "its image is not there" in message


async def test_an_image_that_was_removed_is_built_again_though_its_run_is_known(
    engine: DockerEngine, repo2docker_image: str
) -> None:
    wanted = request()
    async with DockerBuilder(quick(engine, repo2docker_image)) as made:
        first, second = StrictReport(), StrictReport()
        await made.build(wanted, first)
        engine.docker("rmi", wanted.image)
        again = BuildRequest(
            wanted.name, wanted.image, wanted.repo_url, wanted.ref, follow=first.run_id
        )
        with anyio.fail_after(60):
            await made.build(again, second)
    assert second.run_id not in {None, first.run_id}


async def test_files_and_logs_of_a_container(engine: DockerEngine, busybox_image: str) -> None:
    async with Engine(engine.host) as connected:
        command = (
            "cat /etc/mine/a; echo oh >&2; i=0; while [ $i -lt 3 ]; do i=$((i+1)); echo $i; done"
        )
        container = await connected.create(
            f"docker-builds-{time.monotonic_ns()}",
            {"Image": busybox_image, "Cmd": ["sh", "-c", command]},
        )
        try:
            await connected.put_files(container, {"/etc/mine/a": b"told\n"}, folders=["/etc/mine"])
            await connected.start(container)
            with anyio.fail_after(60):
                async with connected.log(container) as pieces:
                    told = [piece async for piece in pieces]
            assert b"".join(data for stream, data in told if stream == 1) == b"told\n1\n2\n3\n"
            assert b"".join(data for stream, data in told if stream == 2) == b"oh\n"
            assert await connected.wait(container) == 0
            assert await connected.read_file(container, "/etc/mine/a") == b"told\n"
            assert await connected.read_file(container, "/etc/mine/b") is None
        finally:
            await connected.remove(container)
        with pytest.raises(NotThere):
            await connected.inspect(container)
