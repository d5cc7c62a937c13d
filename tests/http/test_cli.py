"""The command ``binder``: in this process where that will do, else as a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result
from scripted import STREAM, Reply, frame, scripted

from binder_http.cli import main

COMMIT: Final = "a" * 40
SPEC: Final = f"git/https%3A%2F%2Fexample.org%2Frepo/{COMMIT}"
FAKE: Final = ("--builder", "fake", "--launcher", "fake")
READY: Final = frame('{"phase":"ready","message":"there","url":"http://n.example/","token":"tkn"}')
FAILED: Final = frame('{"phase":"failed","message":"No such ref"}')
TOKEN: Final = "s3cret-t0ken"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BINDER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BINDER_SERVER__STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "notebooks"
    made.mkdir()
    (made / "requirements.txt").write_text("six\n")
    return made


def binder(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, args, env=env)


@contextmanager
def process(*args: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run ``binder`` as a process; it is killed at the end if it is still there."""
    command = [sys.executable, "-m", "binder_http.cli", *args]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with subprocess.Popen(command, text=True, **streams) as running:  # type: ignore[call-overload] # any options
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def line_with(stream: Iterator[str] | None, words: str) -> str:
    """Read lines until one holds `words`."""
    assert stream is not None
    seen = []
    for line in stream:
        if words in line:
            return line
        seen.append(line)
    raise AssertionError(f"no {words!r} in {''.join(seen)}")


# -- Beginning --------------------------------------------------------------------------------


def test_help_loads_nothing_but_click() -> None:
    code = (
        "import sys; before = set(sys.modules); import binder_http.cli;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "click" in loaded
    heavy = {"anyio", "asyncio", "binder_core", "httpx", "msgspec", "quart", "rich", "ssl"}
    assert not loaded & heavy


def test_a_base_install_is_told_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; import binder_http.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("The command `binder` needs more libraries. Try: pip install")


def test_help_names_every_command() -> None:
    result = binder("--help")
    assert result.exit_code == 0
    commands = re.findall(r"^  (\w+) ", result.output, re.MULTILINE)
    assert {"serve", "launch", "plugins", "config"} <= set(commands)
    assert {"build", "registry", "deploy", "health", "keys", "db"} <= set(commands)
    for command in main.commands:
        assert binder(command, "--help").exit_code == 0


def test_version() -> None:
    assert re.fullmatch(r"binder, version \d+\.\d+\S*\n", binder("--version").output)


# -- Plug-ins and configuration -------------------------------------------------------------------


def test_plugins_are_listed_with_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if a library that it imports were not installed.
    monkeypatch.setitem(sys.modules, "binder_backends.fake", None)
    output = binder("plugins").output
    assert [line for line in output.splitlines() if line.isupper() and " " not in line] == [
        "PROVIDERS",
        "BUILDERS",
        "LAUNCHERS",
        "STORES",
    ]
    assert re.search(r"^  gh +binderkit \S+ +ok$", output, re.MULTILINE)
    assert re.search(
        r"^  fake +binderkit \S+ +.*library that it needs is not .*pip install",
        output,
        re.MULTILINE,
    )


def test_a_broken_plugin_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("binder_backends.fake.FakeBuilder")
    output = binder("plugins").output
    assert re.search(r"^  fake +binderkit \S+ +broken: AttributeError", output, re.MULTILINE)
    assert output.count(" ok\n") >= 4


def test_config_shows_what_counts_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "binder.toml"
    file.write_text(f'[security]\ntoken = "{TOKEN}"\n[server]\nport = 1\nhost = "::1"\n')
    result = binder(
        "config",
        *("--config", str(file), "--builder", "fake", "--set", "server.host=localhost"),
        env={"BINDER_SERVER__PORT": "2"},
    )
    assert result.exit_code == 0
    assert 'host = "localhost"' in result.output
    assert "port = 2" in result.output
    assert 'token = "***"' in result.output
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("config", "--set", "server.prot=1"), "did you mean server.port"),
        (("config", "--set", "server.port=x"), "server.port"),
        (("config", "--set", "nonsense"), "--set takes KEY=VALUE"),
        (("config", "--builder", "fakee"), "did you mean 'fake'"),
        (("config", "--config", "/no/such/file"), "does not exist"),
        (("serve", "--port", "99999"), "65535"),
        (("launch",), "Missing argument 'WHAT'"),
        (("launch", *FAKE, "gh/user/repo"), "HEAD"),
        (("launch", *FAKE, "ghh/user/repo/x"), "did you mean gh/user/repo/x"),
        (("launch", *FAKE, "git/https%3A%2F%2Fh%2Fr"), "ref is missing"),
        (("launch", *FAKE, "./no-such-folder"), "no such folder"),
        (("launch", "--server", "http://127.0.0.1:1", "."), "only be launched here"),
        (("launch", "--server", "127.0.0.1:1", SPEC), "did you mean http://127.0.0.1:1"),
        (("launch", "--server", "http://h", "--builder", "fake", SPEC), "that is the server's"),
    ],
)
def test_wrong_usage_is_status_2(args: tuple[str, ...], words: str) -> None:
    result = binder(*args)
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


# -- Launching here -------------------------------------------------------------------------------


def test_a_build_alone() -> None:
    result = binder("launch", *FAKE, "--build-only", SPEC)
    assert result.exit_code == 0
    phases = re.findall(r"^\[ +[\d.]+ s\] (\w+)", result.stdout, re.MULTILINE)
    assert list(dict.fromkeys(phases)) == ["waiting", "fetching", "building", "built", "ready"]


def test_events_as_json_lines() -> None:
    result = binder("launch", *FAKE, "--build-only", "--json", SPEC)
    assert result.exit_code == 0
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [events[0]["phase"], events[-1]["phase"]] == ["waiting", "ready"]
    assert "imageName" in events[-1]


def test_a_folder(folder: Path) -> None:
    result = binder("launch", *FAKE, "--build-only", str(folder))
    assert result.exit_code == 0
    assert f"Fetching {folder}" in result.stdout


def test_a_build_that_fails_is_status_1() -> None:
    result = binder("launch", *FAKE, "--set", "builder.fake.fails=out of coffee", SPEC)
    assert result.exit_code == 1
    assert "out of coffee" in result.stdout


def test_a_backend_that_is_down_is_status_1() -> None:
    down = ("--set", "builder.fake.down=no engine here", "--set", "limits.retry_for=0")
    result = binder("launch", *FAKE, *down, SPEC)
    assert result.exit_code == 1
    assert "no engine here" in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_notebook_lives_until_a_signal(number: signal.Signals) -> None:
    with process("launch", *FAKE, SPEC) as running:
        url = line_with(running.stdout, "?token=").strip()
        assert url.startswith("http://")
        line_with(running.stdout, "Ctrl-C ends the notebook server.")
        running.send_signal(number)
        assert running.wait(20) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""


def test_a_signal_stops_a_build() -> None:
    never = ("--set", "builder.fake.ends=false")
    with process("launch", *FAKE, *never, SPEC) as running:
        line_with(running.stdout, "Step 10 of 10")
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 128 + signal.SIGINT
        assert running.stderr is not None
        assert running.stderr.read() == ""


def test_who_reads_no_further_ends_it() -> None:
    never = ("--set", "builder.fake.rate=50", "--set", "builder.fake.lines=100000")
    with process("launch", *FAKE, *never, SPEC) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.wait(20) == 1
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()


# -- Launching there ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (STREAM + READY, 0, "http://n.example/?token=tkn"),
        (STREAM + FAILED, 1, "failed    No such ref"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 1, "has ended before"),
        (b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", 1, "It does not accept this token"),
    ],
)
def test_a_server_is_asked(data: bytes, status: int, words: str) -> None:
    with scripted(lambda _asked, _before: Reply(data)) as server:
        result = binder("launch", "--server", server.url, SPEC, env={"BINDER_TOKEN": TOKEN})
        assert result.exit_code == status
        assert words in result.output
        assert TOKEN not in result.output
        (asked,) = server.asked
        assert asked.headers["authorization"] == f"Bearer {TOKEN}"
        assert asked.target == f"/build/{SPEC}"


def test_a_lost_connection_is_mentioned() -> None:
    def script(_asked: object, before: int) -> Reply:
        return Reply(STREAM + b"retry: 10\n\n" + (READY if before else b""))

    with scripted(script) as server:
        result = binder("launch", "--json", "--server", server.url, SPEC)
    assert result.exit_code == 0
    assert "Connection lost (the stream broke off); next try in 0 s." in result.stderr
    assert json.loads(result.stdout)["phase"] == "ready"


def test_no_server_is_status_1() -> None:
    result = binder("launch", "--server", "http://127.0.0.1:9", SPEC)
    assert result.exit_code == 1
    assert "Is the server running" in result.output


def test_the_browser_is_given_no_token(tmp_path: Path) -> None:
    """The arguments of a process can be read by everybody on a machine."""
    args, page = tmp_path / "args", tmp_path / "page"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {args}\ncp "${{1#file://}}" {page}\n')
    browser.chmod(0o700)
    env = {"BROWSER": str(browser), "TMPDIR": str(tmp_path)}
    with (
        scripted(lambda _asked, _before: Reply(STREAM + READY)) as server,
        process(
            "launch", "--open", "--server", server.url, SPEC, env={**os.environ, **env}
        ) as running,
    ):
        assert running.wait(20) == 0
    assert "tkn" not in args.read_text()
    assert 'url=http://n.example/?token=tkn"' in page.read_text()
    (made,) = tmp_path.glob("binder-*.html")
    assert made.stat().st_mode & 0o777 == 0o600


# -- Serving --------------------------------------------------------------------------------------


def test_serve_and_launch(tmp_path: Path) -> None:
    flags = ("--port", "0", "--set", "security.auth=token", "--set", "server.linger=0")
    env = {**os.environ, "BINDER_TOKEN": TOKEN}
    with process("serve", *FAKE, *flags, env=env) as server:
        link = line_with(server.stderr, "?token=").split()[-1]
        assert link.endswith(f"?token={TOKEN}")
        # The link as it was printed will do.
        result = binder("launch", "--server", link, SPEC)
        assert result.exit_code == 0
        assert "?token=" in result.stdout
        result = binder("launch", "--server", link.partition("?")[0], "--token", "wrong", SPEC)
        assert result.exit_code == 1
        assert "needs its token" in result.output
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0


# -- A terminal -----------------------------------------------------------------------------------


def test_a_terminal_gets_a_live_display() -> None:
    log = (
        '[{message="10 %\\r"}, {message="\\u001b[31mdone\\u0007\\n", phase="building"},'
        '{message="", phase="pushing", progress={a={current=500000, total=1000000}}}]'
    )
    slow = ("--set", f"builder.fake.log={log}", "--set", "builder.fake.rate=4")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with process(
        "launch", *FAKE, *slow, SPEC, stdin=slave, stdout=slave, stderr=slave, env=env
    ) as running:
        os.close(slave)
        shown = b""
        while b"Ctrl-C ends" not in shown:
            shown += os.read(master, 65536)
        running.send_signal(signal.SIGINT)
        while piece := _read(master):
            shown += piece
        assert running.wait(20) == 0
    os.close(master)
    text = shown.decode()
    assert "10 %" in text
    assert "done\r\n" in text
    assert "\x1b[31m" not in text
    assert "\x07" not in text
    assert "500.0 kB of 1.0 MB pushed" in text
    assert re.search(r"http://\S+\?token=\S+", text)
    assert re.search(r"Ready after \d\.\d s\.", text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor is there again"


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # the other end is closed
        return b""
