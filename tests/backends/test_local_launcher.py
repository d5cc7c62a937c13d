"""The local launcher on servers that start, do not, hang, are killed; Jupyter is a stand-in."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import anyio
import msgspec
import pytest
from local_repos import FAKE_JUPYTER, Quiet, made_image, processes_with, until

from binder_backends.jupyter import api_status
from binder_backends.local import LocalLauncher, LocalLaunchSettings, launcher
from binder_backends.local.servers import Place, free_port, place_of
from binder_core.plugin import BackendUnavailable, LaunchFailed, LaunchRequest

PLAYER = Path(__file__).with_name("play_server.py")
JUPYTER = FAKE_JUPYTER.format(python=sys.executable)
TOKEN = "t0ken-that-nobody-guesses"

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    # Processes cost time: the suites run on asyncio, these tests on trio.
    return "trio"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    left = processes_with(str(tmp_path))
    for process in left:
        process.kill()
    assert left == []


def settings(folder: Path, **changes: object) -> LocalLaunchSettings:
    folders = {"cache_dir": str(folder / "cache"), "state_dir": str(folder / "state")}
    return msgspec.convert(folders | changes, LocalLaunchSettings)


def asked(image: str, name: str = "a-server") -> LaunchRequest:
    return LaunchRequest(name, image, TOKEN, "https://u:p@example.org/x")


def place(folder: Path, name: str = "a-server") -> Place:
    return place_of(folder / "state" / "servers", name)


async def fail(folder: Path, image: str, **changes: object) -> str:
    async with LocalLauncher(settings(folder, **changes)) as launcher:
        with pytest.raises(LaunchFailed) as failure:
            await launcher.launch(asked(image), Quiet())
        assert not place(folder).folder.exists()
    return failure.value.message


async def test_a_server_works_in_a_copy_and_its_token_is_in_no_argument(folder: Path) -> None:
    image = made_image(folder, {"a": "1", "sub/b": "2"}, JUPYTER)
    async with LocalLauncher(settings(folder, idle_timeout=100.0)) as launcher:
        url = await launcher.launch(asked(image), Quiet())
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        here = place(folder)
        (server,) = processes_with(str(here.folder))
        assert server.cwd() == str(here.work)
        assert TOKEN not in " ".join(server.cmdline())
        assert TOKEN not in " ".join(server.environ().values())
        env = server.environ()
        assert env["HOME"] == str(here.work)
        assert env["BINDER_REPO_URL"] == "https://***@example.org/x"
        assert "--ServerApp.shutdown_no_activity_timeout=100" in server.cmdline()
        for name in ("token", "state.json", "server.log"):
            assert stat.S_IMODE((here.folder / name).stat().st_mode) == 0o600
        assert stat.S_IMODE(here.folder.stat().st_mode) == 0o700
        (here.work / "a").write_text("changed")
        other = await launcher.launch(asked(image, "another"), Quiet())
        assert (place(folder, "another").work / "a").read_text() == "1"
        assert other != url
    assert list((folder / "state" / "servers").iterdir()) == []


async def test_start_has_the_last_word(folder: Path) -> None:
    start = '#!/bin/sh\necho "$#" > started\nexport GREETING=hello\nexec "$@"\n'
    image = made_image(folder, {"binder/start": start}, JUPYTER, "binder/start")
    async with LocalLauncher(settings(folder)) as launcher:
        await launcher.launch(asked(image), Quiet())
        (server,) = processes_with(str(place(folder).folder))
        assert server.environ()["GREETING"] == "hello"
        assert int((place(folder).work / "started").read_text()) > 3


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("#!/bin/sh\necho No module named jupyter_server\nexit 1\n", "No module named"),
        (f"#!/bin/sh\necho my token is {TOKEN}\nexit 1\n", "my token is ***"),
        ("#!/no/such/shell\n", "could not be started: No such file or directory"),
        ("#!/bin/sh\nyes | head -c 100000; exit 1\n", "ended before it answered"),
    ],
)
async def test_a_server_that_does_not_start(program: str, said: str, folder: Path) -> None:
    message = await fail(folder, made_image(folder, {"a": ""}, program))
    assert said in message
    assert TOKEN not in message
    assert len(message) < 5000


async def test_a_start_script_that_fails(folder: Path) -> None:
    image = made_image(folder, {"start": "echo cannot start; exit 2\n"}, JUPYTER, "start")
    assert "cannot start" in await fail(folder, image)


async def test_a_server_that_does_not_answer_in_time(folder: Path) -> None:
    program = "#!/bin/sh\necho thinking\nsetsid sleep 1000 &\nsleep 1000\n"
    message = await fail(folder, made_image(folder, {"a": ""}, program), start_timeout=0.5)
    assert message == (
        "The notebook server did not answer within 0.5 s. Its last lines:\n  thinking"
    )


async def test_a_server_with_a_password_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_REFUSING", 0.1)
    program = JUPYTER.replace('"token " + token', '"token other"')
    message = await fail(folder, made_image(folder, {"a": ""}, program))
    assert "does not accept its token" in message


async def test_a_server_that_takes_everybody_is_none(folder: Path) -> None:
    program = JUPYTER.replace('self.headers.get("Authorization") == "token " + token', "True")
    message = await fail(folder, made_image(folder, {"a": ""}, program))
    assert "the repository turns that off" in message


async def test_an_image_that_is_gone(folder: Path) -> None:
    assert "built anew" in await fail(folder, "local/never-built:1")


async def test_a_port_that_somebody_else_took_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made_image(folder, {"a": ""}, JUPYTER.replace(
        "address =",
        'if os.environ["HOME"] and options["--ServerApp.port"] == "{0}":\n'
        '    sys.exit("ERROR: The port {0} is already in use.")\n'
        "address =".replace("{0}", "1"),
    ).replace("{0}", "1"))  # fmt: skip
    ports = iter([1, 1, free_port("127.0.0.1")])
    monkeypatch.setattr(launcher, "free_port", lambda _: next(ports))
    async with LocalLauncher(settings(folder)) as local:
        url = await local.launch(asked(image), Quiet())
        assert not url.endswith(":1/")
    monkeypatch.setattr(launcher, "free_port", lambda _: 1)
    assert "no free port" in await fail(folder, image)


async def test_a_stop_ends_what_a_server_left_running(folder: Path) -> None:
    start = '#!/bin/sh\nsetsid sh -c \'trap "" TERM HUP; sleep 1000\' &\nexec "$@"\n'
    image = made_image(folder, {"start": start}, JUPYTER, "start")
    async with LocalLauncher(settings(folder)) as local:
        await local.launch(asked(image), Quiet())
        assert len(processes_with(str(place(folder).folder))) >= 2
        await local.stop(asked(image))
        assert processes_with(str(folder)) == []


async def test_a_server_that_ended_by_itself_is_cleared_up_and_started_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_SWEEP", 0.05)
    image = made_image(folder, {"a": ""}, JUPYTER)
    async with LocalLauncher(settings(folder)) as local:
        await local.launch(asked(image), Quiet())
        (server,) = processes_with(str(place(folder).folder))
        server.terminate()
        await anyio.to_thread.run_sync(
            until, lambda: not place(folder).folder.exists(), "its folder is removed"
        )
        url = await local.launch(asked(image), Quiet())
        host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
        assert await api_status(host, int(port), TOKEN) == 200


async def test_the_log_of_a_server_stays_small(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_SWEEP", 0.05)
    start = '#!/bin/sh\n(yes first | head -c 300000; echo last) &\nexec "$@"\n'
    image = made_image(folder, {"start": start}, JUPYTER, "start")
    async with LocalLauncher(settings(folder, server_log_cap_bytes=100_000)) as local:
        await local.launch(asked(image), Quiet())
        here = place(folder)

        def short() -> bool:
            return here.log.stat().st_size < 10_000 and "last" in here.last_lines(60)

        await anyio.to_thread.run_sync(until, short, "the log is shortened")


class Player:
    """Another server process that launches, and then lives until it is killed."""

    def __init__(self, folder: Path, request: LaunchRequest) -> None:
        given = {"settings": msgspec.to_builtins(settings(folder)), "request": asdict(request)}
        self.out = folder / f"player-{time.monotonic_ns()}"
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(PLAYER), "launch"], stdin=subprocess.PIPE, stdout=out
            )
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(msgspec.json.encode(given))

    def until(self, words: str) -> str:
        """Wait for a line that begins so; return the rest of it."""

        def said() -> list[str]:
            lines = self.out.read_text().splitlines()
            return [line.removeprefix(words) for line in lines if line.startswith(words)]

        until(said, words)
        return said()[0].strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def test_a_server_outlives_a_crash_and_is_found_again(folder: Path) -> None:
    request = asked(made_image(folder, {"a": ""}, JUPYTER))
    player = Player(folder, request)
    url = await anyio.to_thread.run_sync(player.until, "ready")
    player.kill()
    before = processes_with(str(place(folder).folder))
    async with LocalLauncher(settings(folder)) as local:
        assert await local.launch(request, Quiet()) == url
        assert processes_with(str(place(folder).folder)) == before
    assert not place(folder).folder.exists(), "a normal stop ends those that were found, too"


async def test_a_crash_while_launching_leaves_one_server(folder: Path) -> None:
    start = f'#!/bin/sh\nwhile [ ! -e {folder}/go ]; do sleep 0.02; done\nexec "$@"\n'
    request = asked(made_image(folder, {"start": start}, JUPYTER, "start"))
    player = Player(folder, request)
    await anyio.to_thread.run_sync(player.until, "told")
    port = place(folder).state()
    player.kill()
    (folder / "go").touch()
    async with LocalLauncher(settings(folder)) as local:
        url = await local.launch(request, Quiet())
        assert port is not None
        assert url == f"http://127.0.0.1:{port.port}/"
        assert len(processes_with(str(place(folder).folder))) == 1


async def test_what_a_crash_left_without_a_word_is_ended(folder: Path) -> None:
    request = asked(made_image(folder, {"a": ""}, JUPYTER))
    player = Player(folder, request)
    await anyio.to_thread.run_sync(player.until, "ready")
    player.kill()
    (place(folder).folder / "state.json").unlink()
    async with LocalLauncher(settings(folder)):
        assert processes_with(str(folder)) == []
        assert not place(folder).folder.exists()


async def test_servers_of_a_process_that_runs_are_not_touched(folder: Path) -> None:
    request = asked(made_image(folder, {"a": ""}, JUPYTER))
    player = Player(folder, request)
    url = await anyio.to_thread.run_sync(player.until, "ready")
    async with LocalLauncher(settings(folder)) as local:
        assert await local.launch(request, Quiet()) == url
    assert len(processes_with(str(place(folder).folder))) == 1
    player.kill()
    async with LocalLauncher(settings(folder)):
        pass
    assert processes_with(str(folder)) == []


async def test_a_state_folder_that_is_none(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(BackendUnavailable, match="state_dir"):
        async with LocalLauncher(settings(folder, state_dir=str(folder / "file"))):
            pass


async def test_nobody_and_somebody_else_answer() -> None:
    port = free_port("127.0.0.1")
    assert await api_status("127.0.0.1", port, TOKEN) == 0

    async def other(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n<html>anything goes</html>")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, other)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        assert await api_status("127.0.0.1", port, TOKEN) == 0
        tasks.cancel_scope.cancel()
