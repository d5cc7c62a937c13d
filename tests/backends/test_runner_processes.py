"""The runner as a process: whatever it runs, it ends with an outcome and leaves nobody behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
import psutil
import pytest

from binder_backends.runner import CommandRecipe, RunnerOptions
from binder_core.plugin import Line, LogReader, Outcome, Phase

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers are Linux's")


class Run:
    """A runner at work on a shell script, its output a file as in the local backend."""

    def __init__(self, folder: Path, script: str, **settings: object) -> None:
        self.log = folder / "log"
        self.mark = f"run-{os.getpid()}-{time.monotonic_ns()}"
        options = {"recipe": CommandRecipe(("/bin/sh", "-c", script)), **settings}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "binder_backends.runner", "--options", "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                env={**os.environ, "RUN_MARK": self.mark, "S3CRET": "tell-nobody"},
                cwd=folder,
                start_new_session=True,
            )
        stdin: IO[bytes] | None = self.process.stdin
        assert stdin is not None
        with stdin:
            stdin.write(msgspec.json.encode(msgspec.convert(options, RunnerOptions)))

    def entries(self) -> list[Line | Outcome]:
        return LogReader().feed(self.log.read_bytes())

    def until_line(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while not any(text in entry.message for entry in self.entries()):
            assert time.monotonic() < deadline, self.entries()
            assert self.process.poll() is None, self.entries()
            time.sleep(0.01)

    def end(self) -> tuple[list[Line], Outcome]:
        """Wait for the end; return the log. Nobody who was started may be left."""
        self.process.wait(30)
        assert self.left() == []
        *lines, outcome = self.entries()
        assert isinstance(outcome, Outcome)
        told = [line for line in lines if isinstance(line, Line)]
        assert [line.n for line in told] == list(range(1, len(told) + 1))
        assert outcome.n == len(told) + 1
        return told, outcome

    def left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RUN_MARK") == self.mark:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    made: list[Run] = []
    yield made
    for run in made:
        for process in run.left():
            process.kill()
        run.process.wait(10)


def start(runs: list[Run], folder: Path, script: str, **settings: object) -> Run:
    runs.append(Run(folder, script, **settings))
    return runs[-1]


def messages(lines: list[Line]) -> list[str]:
    return [line.message for line in lines]


def test_a_good_end(runs: list[Run], tmp_path: Path) -> None:
    run = start(
        runs, tmp_path, 'echo out; echo err >&2; echo \'{"message":"b","phase":"building"}\''
    )
    lines, outcome = run.end()
    assert sorted(messages(lines)) == ["b\n", "err\n", "out\n"]
    assert outcome.built
    assert run.process.returncode == 0


def test_a_bad_end_says_how_and_what_came_last(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, "echo first; echo no such package; exit 7")
    _, outcome = run.end()
    assert not outcome.built
    assert "sh ended with exit status 7." in outcome.message
    assert outcome.message.endswith("\n  first\n  no such package")
    assert run.process.returncode == 1


def test_a_program_that_is_not_there(runs: list[Run], tmp_path: Path) -> None:
    recipe = CommandRecipe(("/no/such/program",))
    _, outcome = start(runs, tmp_path, "", recipe=recipe).end()
    assert "No such file or directory" in outcome.message


def test_secrets_are_not_told(runs: list[Run], tmp_path: Path) -> None:
    script = "echo a $S3CRET; echo https://u:pw@example.org $S3CRET >&2; exit 1"
    lines, outcome = start(runs, tmp_path, script, secret_variables=["S3CRET"]).end()
    assert sorted(messages(lines)) == ["a ***\n", "https://***@example.org ***\n"]
    assert "tell-nobody" not in outcome.message


def test_children_that_outlive_it_are_ended(runs: list[Run], tmp_path: Path) -> None:
    # A daemon with a session of its own, deaf to signals, whose parent is gone; and one that keeps
    # the output open.
    script = (
        "(trap '' TERM HUP; setsid sh -c 'echo daemon; exec sleep 1000' &) ; sleep 1000 &\n"
        "while ! grep -q daemon log; do sleep 0.02; done; echo end"
    )
    began = time.monotonic()
    lines, outcome = start(runs, tmp_path, script).end()
    assert outcome.built
    assert messages(lines) == ["daemon\n", "end\n"]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_build_and_all_it_started(
    number: signal.Signals, runs: list[Run], tmp_path: Path
) -> None:
    script = "trap '' TERM INT; setsid sleep 1000 & echo begun; while :; do sleep 1000; done"
    run = start(runs, tmp_path, script)
    run.until_line("begun")
    run.process.send_signal(number)
    _, outcome = run.end()
    assert outcome.message == "The build was stopped."


def test_a_build_that_takes_too_long_is_ended(runs: list[Run], tmp_path: Path) -> None:
    script = "while :; do echo x; sleep 0.05; done"
    _, outcome = start(runs, tmp_path, script, time_limit=0.5, silence_limit=0.3).end()
    assert "took longer than the 0.5 s that it may take" in outcome.message


def test_a_build_that_says_nothing_is_ended(runs: list[Run], tmp_path: Path) -> None:
    _, outcome = start(runs, tmp_path, "echo x; sleep 1000", silence_limit=0.5).end()
    assert "printed nothing for 0.5 s" in outcome.message


def test_children_that_multiply_are_ended(runs: list[Run], tmp_path: Path) -> None:
    # Each one starts a successor and ends: there is always one, and never the same.
    (tmp_path / "hop").write_text('sleep 0.01; setsid sh "$0" &\n')
    run = start(runs, tmp_path, "for i in 1 2 3; do sh hop & done; echo begun; sleep 0.3; exit 4")
    _, outcome = run.end()
    assert "exit status 4" in outcome.message


def test_a_lot_of_output_costs_neither_memory_nor_disk_nor_minutes(
    runs: list[Run], tmp_path: Path
) -> None:
    cap = 512 * 1024
    run = start(runs, tmp_path, "yes 'some words to fill a line' | head -c 400M", log_cap_bytes=cap)
    peak, process = 0, psutil.Process(run.process.pid)
    while run.process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    lines, outcome = run.end()
    assert outcome.built
    assert run.log.stat().st_size < 1.5 * cap
    assert peak < 120 * 2**20
    assert any("lines left out" in line.message for line in lines)


def test_the_pid_file_names_the_process(runs: list[Run], tmp_path: Path) -> None:
    run = start(runs, tmp_path, "echo begun; sleep 1000", pid_file=str(tmp_path / "pid"))
    run.until_line("begun")
    said = msgspec.json.decode((tmp_path / "pid").read_bytes())
    assert said["pid"] == run.process.pid
    assert said["created"] == psutil.Process(run.process.pid).create_time()
    run.process.terminate()
    lines, _ = run.end()
    assert lines[0].phase is Phase.FETCHING
