"""What a build prints goes in, what its log says comes out; and the runner's options."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from binder_backends.runner import CommandRecipe, RunnerOptions
from binder_backends.runner.__main__ import read_options
from binder_backends.runner.pipeline import Pipeline
from binder_backends.runner.recipes import Step, StepResult, repo2docker
from binder_backends.runner.sorting import PlainLines, Repo2dockerLines
from binder_backends.runner.text import Redactor
from binder_core.plugin import LayerProgress, Line, LogReader, Outcome, Phase

RECORDS = Path(__file__).parents[1] / "records"
B, F, P = Phase.BUILDING, Phase.FETCHING, Phase.PUSHING


def made(cap_bytes: int = 2**20) -> Pipeline:
    pipeline = Pipeline(cap_bytes=cap_bytes)
    pipeline.begin(PlainLines(B, Redactor()))
    return pipeline


def read(data: bytes) -> list[Line | Outcome]:
    return LogReader().feed(data)


def lines(data: bytes) -> list[Line]:
    return [entry for entry in read(data) if isinstance(entry, Line)]


def test_lines_are_numbered_from_one_and_the_outcome_is_the_last() -> None:
    pipeline = made()
    pipeline.say(F, "Fetching", 0.0)
    pipeline.feed(0, b"one\ntwo\nhalf", 0.0)
    assert pipeline.finish(1.0) == ["one", "two", "half"]
    pipeline.outcome(built=False, message="why", now=1.0)
    assert read(pipeline.take()) == [
        Line(1, "Fetching\n", F),
        Line(2, "one\n", B),
        Line(3, "two\n", B),
        Line(4, "half\n", B),
        Outcome(5, built=False, message="why"),
    ]
    assert pipeline.take() == b""


def test_two_pipes_do_not_mix_their_halves() -> None:
    pipeline = made()
    pipeline.feed(0, b"out ", 0.0)
    pipeline.feed(1, b"err ", 0.0)
    pipeline.feed(0, b"put\n", 0.0)
    pipeline.feed(1, b"or\n", 0.0)
    assert [line.message for line in lines(pipeline.take())] == ["out put\n", "err or\n"]


def test_a_bar_is_told_by_the_clock_too() -> None:
    pipeline = made()
    assert pipeline.deadline() is None
    pipeline.feed(0, b"1%\r2%\r3%\r4", 0.0)
    assert [line.message for line in lines(pipeline.take())] == ["1%\r"]
    deadline = pipeline.deadline()
    assert deadline is not None
    pipeline.tick(deadline - 0.01)
    assert pipeline.take() == b""
    pipeline.tick(deadline)
    assert [line.message for line in lines(pipeline.take())] == ["3%\r"]


def json_line(message: str) -> bytes:
    return json.dumps({"message": message, "phase": "building"}).encode() + b"\n"


def test_a_bar_that_a_step_draws_is_kept_to_a_few_states_a_second() -> None:
    pipeline = Pipeline(cap_bytes=2**20)
    pipeline.begin(Repo2dockerLines(Redactor()))
    for n in range(100):  # a second
        pipeline.feed(0, json_line(f"\r{n}%"), n / 100)
        pipeline.tick(n / 100)
    assert len(lines(pipeline.take())) < 6
    while (deadline := pipeline.deadline()) is not None:
        assert deadline < 3.0
        pipeline.tick(deadline)
    assert [line.message for line in lines(pipeline.take())][-1] == "99%\r"
    pipeline.finish(9.0)
    assert [line.message for line in lines(pipeline.take())] == ["99%\n"]


def test_a_line_that_a_step_has_not_ended_is_told_by_the_clock() -> None:
    pipeline = Pipeline(cap_bytes=2**20)
    pipeline.begin(Repo2dockerLines(Redactor()))
    pipeline.feed(0, json_line("Configuring"), 0.0)
    pipeline.tick(0.0)
    assert pipeline.take() == b""
    deadline = pipeline.deadline()
    assert deadline is not None
    assert deadline < 1.0
    pipeline.tick(deadline)
    assert [line.message for line in lines(pipeline.take())] == ["Configuring\n"]
    assert pipeline.deadline() is None


@pytest.mark.parametrize("version", ["2024.7", "2026.4"])
@pytest.mark.parametrize("piece", [7, 1000, 100_000])
def test_a_recorded_build(version: str, piece: int) -> None:
    data = (RECORDS / f"repo2docker-{version}-json-logs.jsonl").read_bytes()
    pipeline = Pipeline(cap_bytes=2**20)
    pipeline.begin(Repo2dockerLines(Redactor()))
    log = b""
    for at in range(0, len(data), piece):
        now = 30.0 * at / len(data)
        pipeline.feed(1, data[at : at + piece], now)
        pipeline.tick(now)
        log += pipeline.take()
    pipeline.finish(30.0)
    pipeline.outcome(built=True, message="", now=30.0)
    *told, end = read(log + pipeline.take())
    assert end == Outcome(len(told) + 1, built=True)
    phases = [line.phase for line in told if isinstance(line, Line) and line.phase]
    assert phases == sorted(phases, key={F: 0, B: 1, P: 2}.__getitem__)
    assert phases[-1] is P
    progress = [line.progress for line in told if isinstance(line, Line) and line.progress]
    if version == "2026.4":
        assert progress[-1].keys() == {
            "5f70bf18a086", "dcd6442fd071", "bf10859ef277",
            "15a76cdda189", "01c74bf402b4", "1b09a74a2b49",
        }  # fmt: skip
        assert set(progress[-1].values()) == {"Pushed"}


def test_progress_is_told_a_few_times_a_second() -> None:
    pipeline = Pipeline(cap_bytes=2**20)
    pipeline.begin(Repo2dockerLines(Redactor()))
    for n in range(1000):  # ten seconds
        layer = f"01c74bf402b{n % 2}"
        text = f'{{"message": "#11 pushing layer {layer} {n}kB / 1MB", "phase": "building"}}\n'
        pipeline.feed(1, text.encode(), n / 100)
        pipeline.tick(n / 100)
    pipeline.finish(10.0)
    told = lines(pipeline.take())
    assert 30 <= len(told) <= 40
    assert told[-1].progress == {
        "01c74bf402b0": LayerProgress(998_000, 10**6),
        "01c74bf402b1": LayerProgress(999_000, 10**6),
    }


@pytest.mark.parametrize("text", [b"y\n", b"a line of a usual length, as builders print them\n"])
def test_a_flood_costs_little_and_counts_what_it_leaves_out(text: bytes) -> None:
    cap, piece, now, log = 256 * 1024, text * (2**18 // len(text)), 0.0, b""
    pipeline = made(cap)
    for _ in range(400):  # 100 MB
        now += 0.005
        pipeline.feed(0, piece, now)
        pipeline.tick(now)
        log += pipeline.take()
        assert len(pipeline._sources[0].late) < 2**20
    pipeline.feed(0, b"the end\n", now)
    assert pipeline.finish(now)[-1] == "the end"
    pipeline.outcome(built=True, message="", now=now)
    log += pipeline.take()
    assert len(log) < 1.5 * cap
    told = lines(log)
    left_out = sum(int(line.message.split()[1]) for line in told if line.message[0] == "…")
    kept = sum(line.message[0] != "…" for line in told)
    assert kept + left_out == 400 * len(piece) // len(text) + 1
    assert told[-1].message == "the end\n"
    assert kept > 200


def test_an_endless_line_and_no_text_at_all() -> None:
    pipeline = made()
    for _ in range(1000):
        pipeline.feed(0, b"\0" * 2**16, 0.0)
    pipeline.feed(0, b"\n\xff\xfe\n", 0.0)
    told = [line.message for line in lines(pipeline.take())]
    assert told == [" … (line cut)\n", "��\n"]


# -- Failures and options ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (3, "Trying failed: tool ended with exit status 3. Its last lines:\n  a\n  b"),
        (-9, "Trying failed: tool was killed by SIGKILL (is there enough memory?)."),
        (-11, "Trying failed: tool was killed by SIGSEGV."),
        (-200, "Trying failed: tool was killed by signal 200."),
    ],
)
def test_a_failure_says_what_failed_and_how(status: int, text: str) -> None:
    result = StepResult(Step("Trying", ("/usr/bin/tool", "x")), status, ("a", "b"))
    assert str(result.failure()).startswith(text)


def test_the_repo2docker_recipe_is_one_step() -> None:
    flow = repo2docker(CommandRecipe(("repo2docker", "--json-logs")))
    step = next(flow)
    assert isinstance(step, Step)
    assert step.speaks == "repo2docker"
    with pytest.raises(StopIteration):
        flow.send(StepResult(step, 0))


def test_options_from_the_command_line() -> None:
    given = ["--time-limit", "5", "--secret-variable", "TOKEN", "repo2docker", "--"]
    assert read_options([*given, "repo2docker", "--json-logs", "x"]) == RunnerOptions(
        CommandRecipe(("repo2docker", "--json-logs", "x")),
        time_limit=5.0,
        secret_variables=("TOKEN",),
    )


def test_options_from_a_file_and_from_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b'{"recipe": {"type": "repo2docker", "argv": ["x"]}, "silence_limit": 2}'
    (tmp_path / "options").write_bytes(text)
    expected = RunnerOptions(CommandRecipe(("x",)), silence_limit=2.0)
    assert read_options(["--options", str(tmp_path / "options")]) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert read_options(["--options", "-"]) == expected


@pytest.mark.parametrize("given", [[], ["repo2docker"], ["--options", "x", "repo2docker"]])
def test_options_that_say_too_little_or_too_much(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_options(given)
    assert "expected" in capsys.readouterr().err
