"""The local builder on builds that go well, badly, wild, or are killed; uv installs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import anyio
import msgspec
import psutil
import pytest
from local_repos import (
    FAKE_UV,
    Log,
    commit,
    directory,
    processes_with,
    program,
    request,
    settings,
    until,
)

from binder_backends.local import LocalBuilder, LocalSettings
from binder_backends.local.layout import Layout, checked_name
from binder_backends.local.runs import MARK
from binder_core.plugin import BackendUnavailable, BuildFailed, BuildRequest, Phase

PLAYER = Path(__file__).with_name("play_server.py")


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


async def build(folder: Path, request: BuildRequest, **changes: object) -> Log:
    log = Log()
    async with LocalBuilder(settings(folder, **changes)) as builder:
        await builder.build(request, log)
    return log


async def fail(folder: Path, request: BuildRequest, **changes: object) -> str:
    """Return why the build fails; nothing of it may be left."""
    with pytest.raises(BuildFailed) as failure:
        await build(folder, request, **changes)
    image = Layout(folder / "cache").image(request.image)
    assert not image.exists() or not list(image.iterdir())
    return failure.value.message


def image_folder(folder: Path, request: BuildRequest) -> Path:
    built = msgspec.json.decode(Layout(folder / "cache").built_file(request.image).read_bytes())
    return Path(built["folder"])


@pytest.mark.anyio
async def test_a_commit_of_a_git_repository_is_built(folder: Path) -> None:
    repo = directory(folder, {"requirements.txt": "numpy\n", "which": "first"})
    first = commit(repo)
    (repo / "which").write_text("second")
    commit(repo)
    asked = request(repo, first, "Git")
    log = await build(folder, asked)
    image = image_folder(folder, asked)
    assert (image / "repo" / "which").read_text() == "first"
    assert "uv pip install" in log.text
    assert "-r requirements.txt" in log.text
    assert "jupyterlab" in log.text
    assert list(dict.fromkeys(log.phases)) == [Phase.FETCHING, Phase.BUILDING]
    assert str(folder / "cache") not in log.text, "where the cache is, is the server's business"
    assert not (image / "tmp").exists()


@pytest.mark.anyio
async def test_submodules_come_along(folder: Path) -> None:
    inner = directory(folder, {"inside": "x"})
    commit(inner)
    outer = directory(folder, {"a": ""})
    commit(outer)
    add = ["git", "-c", "protocol.file.allow=always", "submodule", "add", str(inner), "sub"]
    await anyio.run_process(add, cwd=outer)
    asked = request(outer, commit(outer), "Git")
    await build(folder, asked)
    assert (image_folder(folder, asked) / "repo" / "sub" / "inside").read_text() == "x"


@pytest.mark.anyio
async def test_a_directory_is_copied_without_what_was_made_from_it(folder: Path) -> None:
    files = {"a/b": "x", ".venv/pyvenv.cfg": "", "a/__pycache__/m.pyc": "", "postBuild": "pwd\n"}
    repo = directory(folder, files)
    (repo / "link").symlink_to("a/b")
    os.mkfifo(repo / "pipe")
    asked = request(repo)
    log = await build(folder, asked)
    copy = image_folder(folder, asked) / "repo"
    assert sorted(path.name for path in copy.iterdir()) == ["a", "link", "postBuild"]
    assert (copy / "link").readlink() == Path("a/b")
    assert "…/repo\n" in log.text, "postBuild runs in the repository"


@pytest.mark.anyio
async def test_post_build_is_given_the_environment_and_no_secrets(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "s3cret")
    monkeypatch.setenv("UV_INDEX_X_PASSWORD", "pass-w0rd")
    text = (
        '#!/bin/sh\necho "got $GITHUB_TOKEN|$UV_INDEX_X_PASSWORD|$HOME|$PYTHONPATH|"\n'
        "command -v python\n"
    )
    log = await build(folder, request(directory(folder, {"binder/postBuild": text})))
    assert "got |***|…/repo||\n…/env/bin/python\n" in log.text
    assert "pass-w0rd" not in log.text


BAD = {
    "requirements.txt": (
        {"requirements.txt": "nosuch-package\n"},
        [
            "Installing requirements.txt failed",
            "exit status 1",
            "Because nosuch-package was not found",
        ],
    ),
    "postBuild": (
        {"postBuild": "echo deep trouble; exit 3\n"},
        ["Running postBuild failed: sh ended with exit status 3.", "deep trouble"],
    ),
    "shebang": (
        {"postBuild": "#!/no/such/shell\n"},
        ["Running postBuild failed", "its first line names a program that is not there"],
    ),
    "killed": (
        {"postBuild": "kill -9 $$\n"},
        ["killed by SIGKILL", "enough memory"],
    ),
    "apt.txt": ({"apt.txt": "gcc\n"}, ["apt.txt asks for system packages", "docker backend"]),
    "both": ({"binder/x": "", ".binder/x": ""}, ["both a binder/ and a .binder/"]),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", sorted(BAD))
async def test_bad_repositories_fail_with_a_message_to_act_on(case: str, folder: Path) -> None:
    files, said = BAD[case]
    message = await fail(folder, request(directory(folder, files)))
    for words in said:
        assert words in message


@pytest.mark.anyio
async def test_a_python_that_is_not_there(folder: Path) -> None:
    message = await fail(folder, request(directory(folder, {"runtime.txt": "python-3.99.9"})))
    assert "runtime.txt asks for Python 3.99.9" in message


@pytest.mark.anyio
async def test_sources_that_are_not_there(folder: Path) -> None:
    repo = directory(folder, {"a": ""})
    commit(repo)
    for asked, said in (
        (request(folder / "nowhere", "0" * 40, "Git"), "Fetching file://"),
        (request(repo, "0" * 40, "Git"), "has no commit"),
        (request(repo, "no-such-branch", "Git"), "no-such-branch"),
        (request(folder / "nowhere"), "is no directory"),
        (request("https://127.0.0.1:9/x", "0" * 40, "Git"), "Failed to connect"),
    ):
        assert said in await fail(folder, asked)
    assert "no repository here" in await fail(folder, request(repo), allow_directories=False)


@pytest.mark.anyio
async def test_environment_yml_goes_to_conda(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(directory(folder, {"environment.yml": "dependencies: [python]\n"}))
    git = folder / "path" / "git"
    git.parent.mkdir()
    git.symlink_to("/usr/bin/git")
    monkeypatch.setenv("PATH", f"{git.parent}:/bin")
    message = await fail(folder, asked)
    assert "none of micromamba, mamba, conda is on the PATH" in message
    text = (
        '#!/bin/sh\necho "called $*"\n'
        'while [ "$1" != --prefix ]; do shift; done\nmkdir -p "$2/bin" "$2/conda-meta"\n'
    )
    program(folder / "path" / "mamba", text)
    assert "installs no Python" in await fail(folder, asked)
    program(folder / "path" / "mamba", text + 'touch "$2/bin/python"\n')
    log = await build(folder, asked)
    assert "called env create --prefix …/env --file environment.yml" in log.text
    assert "jupyterlab" in log.text


@pytest.mark.anyio
async def test_a_post_build_that_floods_is_told_in_part(folder: Path) -> None:
    text = "yes 'a line of output that nobody will ever read' | head -c 50M; echo the end\n"
    cap = 256 * 1024
    log = await build(folder, request(directory(folder, {"postBuild": text})), log_cap_bytes=cap)
    assert "lines left out" in log.text
    assert log.text.endswith("the end\n")
    (file,) = (folder / "cache" / "builds").glob("*/runs/*.log")
    assert file.stat().st_size < 1.5 * cap


@pytest.mark.anyio
async def test_a_post_build_that_never_ends_is_ended_by_the_clock(folder: Path) -> None:
    asked = request(directory(folder, {"postBuild": "echo begun; sleep 1000\n"}))
    assert "while at this: Running postBuild" in await fail(folder, asked, build_timeout=1.0)
    assert "printed nothing for 0.5 s" in await fail(folder, asked, silence_timeout=0.5)


@pytest.mark.anyio
async def test_a_daemon_that_a_build_leaves_is_ended(folder: Path) -> None:
    text = f"setsid sh -c 'trap \"\" TERM HUP; touch {folder}/up; sleep 1000' &\n"
    wait = f"while [ ! -e {folder}/up ]; do sleep 0.02; done\n"
    await build(folder, request(directory(folder, {"postBuild": text + wait})))
    assert processes_with(str(folder)) == []


async def start(
    builder: LocalBuilder, asked: BuildRequest, tasks: anyio.abc.TaskGroup
) -> tuple[Log, list[BaseException | None]]:
    """Begin a build, wait for a line of its postBuild; return its log, and later its end."""
    log = Log()
    ends: list[BaseException | None] = []

    async def run() -> None:
        try:
            await builder.build(asked, log)
        except BuildFailed as failure:
            ends.append(failure)
        else:
            ends.append(None)

    tasks.start_soon(run)
    await until_there(lambda: ends or "begun" in log.text)
    assert not ends, ends
    return log, ends


async def until_there(condition: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - it is other processes that make it true
            await anyio.sleep(0.01)


NEVER = {"postBuild": "trap '' TERM\necho begun\nsetsid sleep 1000 &\nsleep 1000; sleep 1000\n"}


@pytest.mark.anyio
@pytest.mark.parametrize("runner_does", ["listen", "hang"])
async def test_stop_ends_a_build_also_when_its_runner_hangs(runner_does: str, folder: Path) -> None:
    asked = request(directory(folder, NEVER))
    async with LocalBuilder(settings(folder)) as builder, anyio.create_task_group() as tasks:
        log, ends = await start(builder, asked, tasks)
        if runner_does == "hang":
            runner(log.run_id).suspend()
        with anyio.fail_after(20):
            await builder.stop(asked, "Enough.")
        assert processes_with(str(folder)) == []
    (failure,) = ends
    assert str(failure) == "Enough."


def runner(run_id: str) -> psutil.Process:
    (found,) = (
        process
        for process in processes_with(run_id)
        if "binder_backends.runner" in process.cmdline()
    )
    return found


@pytest.mark.anyio
async def test_a_runner_that_is_killed_is_a_build_that_failed(folder: Path) -> None:
    asked = request(directory(folder, NEVER))
    async with LocalBuilder(settings(folder)) as builder, anyio.create_task_group() as tasks:
        log, ends = await start(builder, asked, tasks)
        runner(log.run_id).kill()
        await until_there(lambda: ends)
        assert "was cut off" in str(ends[0])
        assert processes_with(str(folder)) == [], "also what the runner could not end any more"
        again = Log()
        with pytest.raises(BuildFailed, match="was cut off"):
            await builder.build(replace(asked, follow=log.run_id), again)
        assert (again.run_id, again.lines) == (log.run_id, log.lines)


@pytest.mark.anyio
async def test_what_a_reboot_left_is_cleared_up_at_the_start(folder: Path) -> None:
    asked = request(directory(folder, NEVER))
    async with LocalBuilder(settings(folder)) as builder:
        async with anyio.create_task_group() as tasks:
            log, _ = await start(builder, asked, tasks)
            tasks.cancel_scope.cancel()
        for process in processes_with(log.run_id):
            process.kill()
        await until_there(lambda: not processes_with(log.run_id))
        half = Layout(folder / "cache").image(asked.image) / log.run_id
        assert half.exists()
    async with LocalBuilder(settings(folder)) as builder:
        assert not half.exists()
        assert not await builder.exists(asked.image)


@pytest.mark.anyio
async def test_logs_are_kept_by_number_and_age(folder: Path) -> None:
    asked = request(directory(folder, {"postBuild": "exit 1\n"}))
    logs = folder / "cache" / "builds" / asked.name / "runs"
    for _ in range(3):
        await fail(folder, asked, keep_logs=2)
    assert len(list(logs.glob("*.log"))) == 2
    old = min(logs.glob("*.log"))
    os.utime(old, (time.time() - 1000,) * 2)
    async with LocalBuilder(settings(folder, keep_logs_for=500.0)):
        assert old not in logs.glob("*.log")
    assert {file.suffix for file in logs.iterdir()} == {".log", ".json", ".pid"}


# -- What is missing -----------------------------------------------------------------------------


@pytest.mark.anyio
async def test_check_names_what_is_missing_and_the_cure(folder: Path) -> None:
    for name, cure in (("git", "install git"), ("uv", "pip install uv")):
        async with LocalBuilder(settings(folder, **{name: "no-such-program"})) as builder:
            with pytest.raises(BackendUnavailable, match=cure):
                await builder.check()
    async with LocalBuilder(settings(folder)) as builder:
        await builder.check()
        assert builder.versions()["git"][0].isdigit()


@pytest.mark.anyio
async def test_a_cache_that_is_no_folder(folder: Path) -> None:
    (folder / "file").touch()
    builder = LocalBuilder(settings(folder, cache_dir=str(folder / "file")))
    with pytest.raises(BackendUnavailable, match="cache_dir"):
        async with builder:
            pass


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "x" * 64, "a\n"])
def test_names_that_are_no_folders(name: str) -> None:
    with pytest.raises(ValueError, match="DNS-safe"):
        checked_name(name)


def test_the_uv_beside_our_python_is_preferred() -> None:
    assert LocalBuilder(LocalSettings())._program("uv") == str(Path(sys.executable).with_name("uv"))
    assert FAKE_UV.startswith("#!")


# -- Several processes ---------------------------------------------------------------------------


class Player:
    """Another server process at work on a build."""

    def __init__(self, folder: Path, asked: BuildRequest) -> None:
        given = {"settings": msgspec.to_builtins(settings(folder)), "request": asdict(asked)}
        self.out = folder / f"player-{time.monotonic_ns()}"
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(PLAYER), "build"], stdin=subprocess.PIPE, stdout=out
            )
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(msgspec.json.encode(given))

    def said(self) -> list[str]:
        return self.out.read_text().splitlines()

    def until(self, words: str) -> None:
        until(lambda: any(words in line for line in self.said()), f"{words}: {self.said()}")


@pytest.mark.anyio
async def test_a_server_that_is_killed_leaves_a_build_that_the_next_one_finds(
    folder: Path,
) -> None:
    text = f"echo begun; while [ ! -e {folder}/go ]; do sleep 0.02; done; echo done\n"
    asked = request(directory(folder, {"postBuild": text}))
    killed = Player(folder, asked)
    await anyio.to_thread.run_sync(killed.until, "begun")
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    seen = killed.said()
    run_id = seen[0].split()[1]
    next_one, log, ended = LocalBuilder(settings(folder)), Log(), anyio.Event()
    async with next_one, anyio.create_task_group() as tasks:

        async def go_on() -> None:
            await next_one.build(replace(asked, follow=run_id), log)
            ended.set()

        tasks.start_soon(go_on)
        await until_there(lambda: "begun" in log.text)
        (folder / "go").touch()
        with anyio.fail_after(20):
            await ended.wait()
    assert log.run_id == run_id
    told = [f"line {n} {message.rstrip()}" for n, message in log.lines.items()]
    assert told[: len(seen) - 1] == seen[1:], "no line lost, none twice"
    assert log.text.endswith("begun\ndone\n")
    assert list(log.lines) == list(range(1, len(log.lines) + 1))
    assert len(list((folder / "cache" / "builds").glob("*/runs/*.log"))) == 1


def test_two_servers_that_start_at_once_are_one_run(folder: Path) -> None:
    asked = request(
        directory(folder, {"postBuild": "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done\n"})
    )
    players = [Player(folder, asked) for _ in range(3)]
    for player in players:
        player.process.wait(30)
    # One that came after the end found the image, and had nothing to tell.
    told = [player.said() for player in players if player.said() != ["built"]]
    assert told
    assert all(said == told[0] for said in told)
    assert told[0][-1] == "built"
    assert len(list((folder / "cache" / "builds").glob("*/runs/*.log"))) == 1


def open_files(pid: int) -> set[str]:
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(str(fd.readlink()))
    return found


@pytest.mark.anyio
async def test_a_build_does_not_hold_what_the_server_has_open(folder: Path) -> None:
    # A listening socket that a build inherited would keep the port after the server's death.
    asked = request(directory(folder, NEVER))
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        async with LocalBuilder(settings(folder)) as builder, anyio.create_task_group() as tasks:
            log, _ = await start(builder, asked, tasks)
            (pipe,) = open_files(os.getpid()) & {f"pipe:[{os.fstat(write).st_ino}]"}
            found = processes_with(log.run_id)
            assert len(found) >= 3
            for process in found:
                assert pipe not in open_files(process.pid)
                assert process.environ()[MARK] == log.run_id
            await builder.stop(asked, "Enough.")
    finally:
        os.close(read)
        os.close(write)
