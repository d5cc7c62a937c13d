"""The Docker launcher beyond its suite, with a real engine and a quick Jupyter."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from binder_backends.docker import DockerLauncher, DockerLaunchSettings, launcher
from binder_backends.jupyter import api_status
from binder_core.plugin import BackendUnavailable, LaunchFailed, LaunchRequest
from binder_core.testing import LaunchLog
from engines import docker_servers
from engines.docker import DockerEngine
from engines.docker_servers import request, servers, settings

pytestmark = [pytest.mark.anyio, pytest.mark.real]
in_thread = anyio.to_thread.run_sync


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


ADDRESSES = ["127.0.0.2", *(["::1"] if has_ipv6() else [])]
"""Of this machine: not every one has IPv6."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine(docker_engine: DockerEngine, debian_python: str) -> Iterator[DockerEngine]:
    yield docker_engine
    docker_servers.tidy(docker_engine)


@pytest.fixture
def quick(engine: DockerEngine) -> str:
    return docker_servers.quick(engine)


@asynccontextmanager
async def launching(engine: DockerEngine, **options: Any) -> AsyncIterator[DockerLauncher]:
    with anyio.fail_after(120):
        async with DockerLauncher(settings(engine, **options)) as made:
            yield made


async def failure(made: DockerLauncher, asked: LaunchRequest) -> str:
    """Return why a launch failed; nothing may be left."""
    with pytest.raises(LaunchFailed) as caught:
        await made.launch(asked, LaunchLog())
    assert asked.token not in caught.value.message
    assert await made.running(asked) is False
    return caught.value.message


class Waiting(LaunchLog):
    """Tells when a launch waits for its server."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = anyio.Event()

    def line(self, message: str) -> None:
        super().line(message)
        if message.startswith("Waiting"):
            self.waits.set()


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


async def answers(url: str, asked: LaunchRequest) -> bool:
    return await api_status("127.0.0.1", port_of(url), asked.token) == 200


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(60):
        while not await condition():  # noqa: ASYNC110 - it is the engine that changes
            await anyio.sleep(0.05)


async def until_answers(url: str, asked: LaunchRequest) -> None:
    await until(partial(answers, url, asked))


async def gone(engine: DockerEngine, asked: LaunchRequest) -> bool:
    return not await in_thread(docker_servers.left, engine, asked.name)


# -- What the engine is asked for --------------------------------------------------------------


async def test_the_token_is_a_file_that_only_the_images_user_reads(
    engine: DockerEngine, quick: str
) -> None:
    asked = request(quick)
    async with launching(engine) as made:
        await made.launch(asked, LaunchLog())
        (told,) = await in_thread(servers, engine, asked.name)
        assert asked.token not in json.dumps(told)
        assert ":pw@" not in json.dumps(told), "nor are the repository's credentials"
        of = ("exec", asked.name)
        file = "/etc/binderkit/token"
        assert await in_thread(engine.docker, *of, "cat", file) == asked.token
        facts = await in_thread(engine.docker, *of, "stat", "--format=%u %a", file)
        assert facts.split() == ["1234", "400"]
        seen = await in_thread(
            engine.docker, *of, "sh", "-c", "cat /proc/[0-9]*/environ 2>/dev/null || true"
        )
        assert "JUPYTER_TOKEN_FILE" in seen
        assert asked.token not in seen
        await made.stop(asked)


async def test_an_image_that_does_not_tell_the_id_of_its_user(engine: DockerEngine) -> None:
    asked = request(docker_servers.linked(engine))
    async with launching(engine) as made:
        assert await answers(await made.launch(asked, LaunchLog()), asked)
        said = await in_thread(engine.docker, "exec", asked.name, "id", "--user")
        assert said.strip() == "1234"
        await made.stop(asked)


async def test_limits_and_rights(engine: DockerEngine, quick: str) -> None:
    asked = request(quick)
    options = {"memory_limit": "300M", "cpu_limit": 0.5, "pids_limit": 99}
    async with launching(engine, **options) as made:
        url = await made.launch(asked, LaunchLog())
        (told,) = await in_thread(servers, engine, asked.name)
        given = told["HostConfig"]
        assert given["Memory"] == given["MemorySwap"] == 300 * 2**20
        assert given["NanoCpus"] == 500_000_000
        assert given["PidsLimit"] == 99
        assert given["SecurityOpt"] == ["no-new-privileges"]
        status = await in_thread(engine.docker, "exec", asked.name, "cat", "/proc/1/status")
        rights = dict(line.split(":", 1) for line in status.splitlines())
        assert int(rights["CapBnd"], 16) == 0
        assert rights["NoNewPrivs"].strip() == "1"
        open_at = told["NetworkSettings"]["Ports"]["8888/tcp"]
        assert open_at == [{"HostIp": "127.0.0.1", "HostPort": str(port_of(url))}]
        assert await api_status(engine.address, port_of(url), asked.token) == 0, "loopback alone"
        await made.stop(asked)


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_address_of_ones_own(engine: DockerEngine, quick: str, address: str) -> None:
    asked = request(quick)
    async with launching(engine, address=address) as made:
        url = await made.launch(asked, LaunchLog())
        host = f"[{address}]" if ":" in address else address
        assert url == f"http://{host}:{port_of(url)}/"
        assert await api_status(address, port_of(url), asked.token) == 200
        assert await api_status("127.0.0.1", port_of(url), asked.token) == 0
        assert await made.launch(asked, LaunchLog()) == url, "who asks again finds it"
        await made.stop(asked)


async def test_every_address_and_a_name_for_it(engine: DockerEngine, quick: str) -> None:
    for options, host in (
        ({}, socket.gethostname()),
        ({"url_host": "nb.example.org", "probe_host": engine.address}, "nb.example.org"),
    ):
        asked = request(quick)
        async with launching(engine, address="0.0.0.0", **options) as made:
            url = await made.launch(asked, LaunchLog())
            assert url == f"http://{host}:{port_of(url)}/"
            for open_at in ("127.0.0.1", engine.address):
                assert await api_status(open_at, port_of(url), asked.token) == 200
            await made.stop(asked)


async def test_a_server_is_asked_where_the_settings_say(engine: DockerEngine, quick: str) -> None:
    # It is open on loopback alone, and so not where it is asked.
    async with launching(engine, probe_host=engine.address, start_timeout=1.5) as made:
        assert "did not answer within 1.5 s" in await failure(made, request(quick))


async def test_idle_time_of_whoever_asked(engine: DockerEngine, quick: str) -> None:
    own = request(quick)
    other = LaunchRequest("dl-idle", quick, "t0ken", idle_timeout=77)
    async with launching(engine, idle_timeout=33) as made:
        for asked, seconds in ((own, 33), (other, 77)):
            await made.launch(asked, LaunchLog())
            (told,) = await in_thread(servers, engine, asked.name)
            assert f"--ServerApp.shutdown_no_activity_timeout={seconds}" in told["Args"]
            await made.stop(asked)


# -- Restarts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_server_is_there_again_after_the_engine_restarted(
    engine: DockerEngine, quick: str, *, orderly: bool
) -> None:
    asked = request(quick)
    async with launching(engine) as made:
        url = await made.launch(asked, LaunchLog())
        await in_thread(engine.docker, "exec", asked.name, "sh", "-c", "echo mine > /home/jovyan/x")
        await in_thread(partial(engine.restart, orderly=orderly))
        await until_answers(url, asked)
        assert await made.launch(asked, LaunchLog()) == url
        kept = await in_thread(engine.docker, "exec", asked.name, "cat", "/home/jovyan/x")
        assert kept == "mine\n"
        await made.stop(asked)
        assert await gone(engine, asked)


async def test_the_engine_restarts_while_a_server_starts(engine: DockerEngine) -> None:
    asked = request(docker_servers.slow(engine))
    log, broke, ready = Waiting(), anyio.Event(), anyio.Event()
    async with launching(engine) as made, anyio.create_task_group() as tasks:
        urls: list[str] = []

        async def launch() -> None:
            while not urls:
                try:
                    urls.append(await made.launch(asked, log))
                except BackendUnavailable:
                    broke.set()
                    await anyio.sleep(0.05)
            ready.set()

        tasks.start_soon(launch)
        await log.waits.wait()
        await in_thread(engine.kill)
        await broke.wait()
        await in_thread(engine.resume)
        await in_thread(docker_servers.release, engine, asked.name)
        await ready.wait()
        assert await answers(urls[0], asked)
        assert len(await in_thread(servers, engine, asked.name)) == 1
        await made.stop(asked)


async def test_a_server_that_crashes_is_started_again_one_that_ends_is_not(
    engine: DockerEngine, quick: str
) -> None:
    asked = request(quick)
    async with launching(engine, keep_ended_for=0) as made:
        url = await made.launch(asked, LaunchLog())
        await in_thread(engine.docker, "exec", "--user", "0", asked.name, "sh", "-c", "kill -9 -1")
        await until_answers(url, asked)
        await in_thread(docker_servers.end, engine, asked.name)
        await until(partial(gone, engine, asked))
        assert not await made.running(asked)


async def test_what_dead_processes_left_is_removed(engine: DockerEngine, quick: str) -> None:
    asked = request(quick)
    async with launching(engine, keep_ended_for=3600) as made:
        await made.launch(asked, LaunchLog())
        await in_thread(engine.docker, "update", "--restart=no", asked.name)
        await in_thread(engine.docker, "kill", asked.name)
        await made.sweep()
        assert not await gone(engine, asked), "kept for a while"
    async with launching(engine, keep_ended_for=0):
        await until(partial(gone, engine, asked))


async def test_what_another_process_left_half_made_is_started(
    engine: DockerEngine, quick: str
) -> None:
    asked = request(quick)
    async with launching(engine) as made:
        await made.launch(asked, LaunchLog())
        (told,) = await in_thread(servers, engine, asked.name)
        await made.stop(asked)
        label = f"io.binderkit.server={asked.name}"
        half = ["create", "--name", asked.name, "--label", label, "--publish", "127.0.0.1::8888"]
        env = [word for each in told["Config"]["Env"] for word in ("--env", each)]
        await in_thread(engine.docker, *(*half, *env, quick, *told["Config"]["Cmd"]))
        assert await answers(await made.launch(asked, LaunchLog()), asked)
        await made.stop(asked)


# -- What goes wrong ---------------------------------------------------------------------------


async def test_no_engine(tmp_path: Path) -> None:
    made = DockerLauncher(DockerLaunchSettings(host=f"unix://{tmp_path}/none.sock"))
    with pytest.raises(BackendUnavailable, match="start the engine, or set host"):
        await made.__aenter__()


async def test_no_network(engine: DockerEngine) -> None:
    with pytest.raises(BackendUnavailable, match="no network nowhere"):
        async with launching(engine, network="nowhere"):
            pass


async def test_an_image_without_jupyter(engine: DockerEngine, busybox_image: str) -> None:
    async with launching(engine) as made:
        said = await failure(made, request(busybox_image))
    assert "status 127" in said
    assert "There is no jupyter-lab" in said


async def test_a_command_that_the_image_lacks(engine: DockerEngine, quick: str) -> None:
    async with launching(engine, command=["no-such-program"]) as made:
        said = await failure(made, request(quick))
    assert "status 127" in said
    assert "no-such-program" in said


async def test_an_image_that_no_container_can_run(engine: DockerEngine) -> None:
    image = docker_servers.saying(engine, "group", "exit 0", more="USER root:whoever\n")
    async with launching(engine) as made:
        said = await failure(made, request(image))
    assert f"cannot be started in the image {image}: " in said
    assert "whoever" in said


async def test_an_image_that_is_gone(engine: DockerEngine) -> None:
    async with launching(engine) as made:
        said = await failure(made, request(f"{docker_servers.PREFIX}gone:one"))
        assert "not on the Docker engine any more" in said
        with pytest.raises(LaunchFailed, match="not on the Docker engine"):
            await made.preload(f"{docker_servers.PREFIX}gone:one")


async def test_only_images_that_are_allowed(engine: DockerEngine, quick: str) -> None:
    asked = request(quick)
    async with launching(engine, allow_images=["registry.example/*"]) as made:
        assert "may not be launched" in await failure(made, asked)
        with pytest.raises(LaunchFailed, match="may not be launched"):
            await made.preload(quick)
    async with launching(engine, allow_images=["x", f"{docker_servers.PREFIX}*"]) as made:
        await made.preload(quick)
        assert await answers(await made.launch(asked, LaunchLog()), asked)
        await made.stop(asked)


async def test_out_of_memory(engine: DockerEngine) -> None:
    eater = "exec python3 -c 'x = bytearray(10**9); print(len(x))'"
    image = docker_servers.saying(engine, "eater", eater)
    async with launching(engine, memory_limit="64M") as made:
        assert "ran out of memory" in await failure(made, request(image))


async def test_a_server_with_a_token_of_its_own(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_REFUSING", 0.2)
    script = (
        "while :; do printf 'HTTP/1.1 403 Forbidden\\r\\ncontent-length: 0\\r\\n\\r\\n'"
        ' | python3 -c \'import socket, sys; s = socket.create_server(("", 8888));'
        " c = s.accept()[0]; c.recv(9999); c.sendall(sys.stdin.buffer.read()); c.close()'; done"
    )
    image = docker_servers.saying(engine, "own-token", script)
    async with launching(engine) as made:
        assert "a password of its own" in await failure(made, request(image))


async def test_a_server_that_never_answers(engine: DockerEngine) -> None:
    image = docker_servers.saying(engine, "mute", "echo thinking; exec sleep 1000")
    async with launching(engine, start_timeout=1) as made:
        said = await failure(made, request(image))
    assert said == "The notebook server did not answer within 1 s. Its last lines:\n  thinking"


async def test_an_image_with_a_user_whom_it_lacks(engine: DockerEngine) -> None:
    image = docker_servers.saying(engine, "nobody", "exit 0", more="USER whoever\n")
    async with launching(engine) as made:
        assert "the user 'whoever'" in await failure(made, request(image))


async def test_a_port_that_is_taken(
    engine: DockerEngine, quick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_port = launcher._free_port
    asked = request(quick)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(
            launcher, "_free_port", lambda address: ports.pop() if ports else free_port(address)
        )
        async with launching(engine) as made:
            url = await made.launch(asked, LaunchLog())
            assert not ports
            assert port_of(url) != taken.getsockname()[1]
            assert await answers(url, asked)
            await made.stop(asked)


async def test_a_container_of_somebody_elses(engine: DockerEngine, busybox_image: str) -> None:
    asked = request(busybox_image)
    await in_thread(engine.docker, "create", "--name", asked.name, busybox_image, "true")
    try:
        async with launching(engine) as made:
            for call in (made.launch(asked, LaunchLog()), made.stop(asked), made.running(asked)):
                with pytest.raises(BackendUnavailable, match="rename or remove it"):
                    await call
        assert await in_thread(engine.inspect, asked.name) is not None
    finally:
        await in_thread(engine.docker, "rm", asked.name)
