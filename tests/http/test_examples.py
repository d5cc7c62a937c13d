"""The examples and the code in the docs, run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import httpx
import msgspec
import pytest
from scripted import STREAM, Reply, frame, scripted
from serving import SPEC

from binder_http.cli import main
from binder_http.client import BlockingClient

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
EMBEDDING: Final = (ROOT / "docs" / "embedding.md").read_text()
COMMANDS: Final = (ROOT / "docs" / "command-line.md").read_text()

PHASES: Final = ["waiting", "fetching", "building", "built", "launching", "ready"]
REPLY: Final = Reply(
    STREAM + frame('{"phase":"ready","message":"there","url":"http://n.example/","token":"tkn"}')
)


@pytest.fixture(autouse=True)
def _fake_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDER_BUILDER__KIND", "fake")
    monkeypatch.setenv("BINDER_SERVER__STATE_DIR", str(tmp_path / "state"))


# -- Examples -------------------------------------------------------------------------------------


def test_embed_runs_and_is_short() -> None:
    program = EXAMPLES / "embed.py"
    assert len([line for line in program.read_text().splitlines() if line.strip()]) <= 20
    done = subprocess.run(
        [sys.executable, program, SPEC], capture_output=True, text=True, check=True
    )
    phases = [line.split()[0] for line in done.stdout.splitlines()]
    assert list(dict.fromkeys(phases)) == PHASES
    assert done.stderr == ""


@contextmanager
def quart_app(**env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, str(EXAMPLES / "quart_app.py"), "127.0.0.1:0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | env
    ) as running:
        try:
            assert running.stderr is not None
            # Hypercorn says where it listens.
            for line in running.stderr:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield running, found[0]
                    break
            else:
                raise AssertionError("it did not start")
        finally:
            if running.poll() is None:
                running.kill()


def test_the_quart_app_serves_and_stops_with_a_stream_open() -> None:
    with quart_app(BINDER_BUILDER__FAKE__ENDS="false") as (running, url):
        assert httpx.get(url).text == "A page of mine."
        with BlockingClient(f"{url}/binder") as client:
            events = client.launch(SPEC)
            assert [next(events).phase for _ in range(4)][-1] == "building"
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
            events.close()


def test_the_repository_is_one_that_builds() -> None:
    repository = EXAMPLES / "repository"
    (requirement,) = (repository / "requirements.txt").read_text().split()
    package = re.split("[=<>~]", requirement)[0]
    notebook = msgspec.json.decode((repository / "index.ipynb").read_bytes())
    assert notebook["nbformat"] == 4
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert f"import {package}" in code[0], "the notebook shows that it was installed"
    for cell in code:
        compile(cell, "index.ipynb", "exec")


# -- Docs -----------------------------------------------------------------------------------------

BLOCKS: Final = re.findall(r"^```python\n(.*?)^```", EMBEDDING, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_in_the_docs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = BLOCKS[number].replace("gh/binder-examples/requirements/HEAD", SPEC)
    code = code.replace('"builder.kind": "local"', '"builder.kind": "fake"')
    with scripted(lambda _asked, _before: REPLY) as server:
        code = code.replace("https://binder.example", server.url)
        exec(compile(code, f"embedding.md[{number}]", "exec"), {"__name__": "docs"})
    printed = capsys.readouterr().out
    if re.search(r"\bprint\(", code):
        assert any(
            word in printed
            for word in ("ready there", "http://n.example", "there is", "ready Server")
        )
    else:
        assert "app = Quart(" in code


def test_the_docs_hold_what_they_promise() -> None:
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("line", re.findall(r"^\$ (binder .*)$", COMMANDS, re.MULTILINE))
def test_commands_in_the_docs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binder.toml").touch()
    _, name, *args = shlex.split(line)
    main.commands[name].make_context(name, args)  # raises where an option does not exist


def everything(group: click.Group) -> Iterator[click.Command]:
    """The commands of a group and of those below it; those that a declaration makes are not."""
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from everything(command)


def test_every_option_is_in_the_docs() -> None:
    told = set(re.findall(r"`(--[a-z-]+)", COMMANDS)) - {"--server"}
    there = {
        option
        for command in everything(main)
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    }
    assert told == there - {"--server"}
    for name in main.commands:
        assert re.search(rf"^\|.*`binder {name}\b.*\|.*\|$", COMMANDS, re.MULTILINE), name
