from __future__ import annotations

import io
import os
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_core.events import Building, Failed, LayerProgress, Pushing, Ready, Waiting, decode
from binder_core.providers import defaults
from binder_core.providers.directory import PREFIX, Directory
from binder_http.cli_display import JsonLines, Plain
from binder_http.cli_target import Target, fingerprint, folder_spec, read_target
from binder_http.cli_text import Pushed, address, clean, lines, short_time, size

# -- Text -----------------------------------------------------------------------------------------


@given(st.text())
def test_nothing_that_a_terminal_obeys_gets_through(text: str) -> None:
    told, passing = lines(text)
    assert clean(text).isprintable() or not clean(text)
    assert all(line.isprintable() and line for line in told)
    assert passing.isprintable() or not passing


@pytest.mark.parametrize(
    ("message", "told", "passing"),
    [
        ("one\n", ["one"], ""),
        ("one\ntwo\n", ["one", "two"], ""),
        ("one\r\ntwo\r\n", ["one", "two"], ""),
        ("10 %\r", [], "10 %"),
        ("10 %\r20 %\r", [], "20 %"),
        ("10 %\r100 %\ndone\r", ["100 %"], "done"),
        ("\n", [], ""),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07and\x1b[2K\tnot\x07\n", ["red and not"], ""),
    ],
)
def test_lines(message: str, told: list[str], passing: str) -> None:
    assert lines(message) == (told, passing)


def test_numbers() -> None:
    assert [short_time(n) for n in (0.0, 4.26, 59.9, 200, 7321)] == [
        "0.0 s",
        "4.3 s",
        "59.9 s",
        "3 min 20 s",
        "2 h 2 min",
    ]
    assert [size(n) for n in (0, 999, 1000, 14_090_000, 2_435_700_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "14.1 MB",
        "2.4 GB",
    ]


def test_bytes_pushed_are_added_up() -> None:
    pushed = Pushed()
    pushed.take({"a": LayerProgress(10, 1000), "b": "Waiting", "c": "Layer already exists"})
    assert str(pushed) == "10 B of 1.0 kB pushed, 1 of 3 layers done"
    pushed.take({"a": "Pushed", "b": LayerProgress(600, 500)})
    assert str(pushed) == "1.6 kB of 1.6 kB pushed, 2 of 3 layers done"


@pytest.mark.parametrize(
    ("ready", "path", "expected"),
    [
        (Ready(message="", url="http://h:1/u/x/", token="t"), "", "http://h:1/u/x/?token=t"),
        (
            Ready(message="", url="http://h/x", token="a b"),
            "a dir/n.ipynb",
            "http://h/x/lab/tree/a%20dir/n.ipynb?token=a%20b",
        ),
        (Ready(message="", url="http://h/x/?k=v"), "", "http://h/x/?k=v"),
        (Ready(message="", image_name="i"), "", ""),
    ],
)
def test_the_address_of_a_notebook(ready: Ready, path: str, expected: str) -> None:
    assert address(ready, path) == expected


def test_plain_lines() -> None:
    out = io.StringIO()
    now = iter([0.0, *[1.5] * 100])
    display = Plain(out, now=lambda: next(now))
    with display:
        display.tell(Waiting(message="wait"))
        display.tell(Building(message="10 %\r"))
        display.tell(Building(message="a\nb"))
        for current in (1, 2):
            display.tell(Pushing(message="", progress={"l": LayerProgress(current, 2)}))
        display.note("a remark")
        display.tick()
        display.tell(Ready(message="there", url="http://h/", token="t"))
    assert out.getvalue().splitlines() == [
        "[    1.5 s] waiting   wait",
        "[    1.5 s] building  a",
        "[    1.5 s] building  b",
        "[    1.5 s] pushing   1 B of 2 B pushed, 0 of 1 layers done",
        "[    1.5 s]           a remark",
        "[    1.5 s] ready     there",
        "",
        "    http://h/?token=t",
        "",
    ]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with JsonLines(out) as display:
        display.tell(Failed(message="no", status_code=404))
        display.note("a remark")
        display.tick()
    assert out.getvalue().endswith("}\n")
    assert decode(out.getvalue()) == Failed(message="no", status_code=404)
    assert capsys.readouterr().err == "a remark\n"


# -- What was typed -------------------------------------------------------------------------------

COMMIT = "1234567890" * 4


@pytest.mark.parametrize(
    ("text", "spec", "path"),
    [
        ("gh/user/repo/HEAD", "gh/user/repo/HEAD", ""),
        ("gh/user/repo/HEAD/", "gh/user/repo/HEAD", ""),
        ("https://github.com/user/repo", "gh/user/repo/HEAD", ""),
        ("https://github.com/user/repo/blob/main/a/n.ipynb", "gh/user/repo/main", "a/n.ipynb"),
        ("github.com/user/repo", "gh/user/repo/HEAD", ""),
        ("https://h.example/r.git", "git/https%3A%2F%2Fh.example%2Fr.git/HEAD", ""),
        ("git@h.example:me/r.git", "git/git%40h.example%3Ame%2Fr.git/HEAD", ""),
        ("https://b.example/v2/gh/user/repo/HEAD?labpath=n.ipynb", "gh/user/repo/HEAD", ""),
    ],
)
def test_specs_and_pasted_urls(text: str, spec: str, path: str) -> None:
    for ours in (True, False):
        target = read_target(text, defaults(), ours=ours)
        assert target.spec.removesuffix("/") == spec
        assert target.path == path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gh/user/repo", r"HEAD"),
        ("gh/user", "is not of the form"),
        ("gh/", "Behind gh/ stands a repository"),
        ("gh", "Behind gh/ stands a repository"),
        ("ghh/user/repo/HEAD", "did you mean gh/user/repo/HEAD"),
        ("someone/notebooks", r"for a repository on GitHub: gh/someone/notebooks/HEAD"),
        ("notebooks", "expected <provider>/<spec>, a URL or a folder"),
        ("", "expected <provider>/<spec>"),
        ("dir/%2Fetc/0", "no provider 'dir'"),
        ("https://nobody.example/x?y", r"git/https%3A%2F%2Fnobody.example%2Fx%3Fy/HEAD"),
        ("./no-such-folder", "no such folder"),
        ("file:///no/such/folder", "no such folder"),
        (__file__, "a folder is expected"),
    ],
)
def test_what_means_nothing(text: str, words: str) -> None:
    with pytest.raises(click.UsageError, match=words):
        read_target(text, defaults(), ours=True)


def test_a_server_may_know_more_providers() -> None:
    assert read_target("zenodoo/10.5281/1", defaults(), ours=False).spec == "zenodoo/10.5281/1"
    with pytest.raises(click.UsageError):
        read_target("zenodoo", defaults(), ours=False)


# -- Folders --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a folder"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "n.ipynb").write_text("{}")
    (made / "requirements.txt").write_text("six\n")
    (made / ".git").mkdir()
    (made / ".git" / "index").write_text("x")
    return made


def test_ways_to_name_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gh" / "user" / "repo" / "HEAD").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    known = defaults()
    for text in (".", "./", str(folder), "~", folder.as_uri(), "sub/..", "../a folder"):
        assert read_target(text, known, ours=True) == Target("", folder=folder), text
    assert read_target("sub", known, ours=True) == Target("", folder=folder / "sub")
    assert read_target("gh/user/repo/HEAD", known, ours=True).folder is None


def test_the_spec_of_a_folder(folder: Path) -> None:
    prefix, _, rest = folder_spec(folder).partition("/")
    spec = Directory().parse(rest)
    assert (prefix, spec.repo, spec.ref) == (PREFIX, str(folder), fingerprint(folder))
    strange = folder / "new\nline"
    strange.mkdir()
    with pytest.raises(click.UsageError, match="cannot be used"):
        folder_spec(strange)
    with pytest.raises(click.UsageError, match="gone"):
        folder_spec(folder / "gone")


def test_the_fingerprint_is_that_of_what_counts(folder: Path) -> None:
    seen = {fingerprint(folder)}

    def changed() -> bool:
        before = len(seen)
        seen.add(fingerprint(folder))
        return len(seen) > before

    assert not changed()
    (folder / ".git" / "index").write_text("something else")
    (folder / "sub" / "__pycache__").mkdir()
    (folder / "sub" / ".ipynb_checkpoints").mkdir()
    (folder / "env").mkdir()
    (folder / "env" / "pyvenv.cfg").touch()
    os.mkfifo(folder / "a pipe")
    assert not changed()
    (folder / "requirements.txt").write_text("six\nattrs\n")
    assert changed()
    (folder / "sub" / "n.ipynb").chmod(0o600)
    assert changed()
    os.utime(folder / "sub" / "n.ipynb", (1, 1))
    assert changed()
    (folder / "link").symlink_to("requirements.txt")
    assert changed()
    (folder / "link").unlink()
    (folder / "link").symlink_to("nowhere")
    assert changed()
    (folder / "link").rename(folder / "other")
    assert changed()
    (folder / "empty").mkdir()
    assert changed()
