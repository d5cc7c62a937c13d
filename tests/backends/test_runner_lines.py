"""The runner's pure parts: lines, credentials, phases, push output, pace, cap."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_backends.runner.cap import TICK, Cap
from binder_backends.runner.pacing import Pacer
from binder_backends.runner.push import PushOutput
from binder_backends.runner.sorting import PlainLines, Repo2dockerLines, Told
from binder_backends.runner.text import Redactor, Splitter, readable, strip_userinfo
from binder_core.plugin import LayerProgress, Line, Phase, Progress, encode_log

RECORDS = Path(__file__).parents[1] / "records"
B, F, P = Phase.BUILDING, Phase.FETCHING, Phase.PUSHING


def split(*pieces: bytes, max_bytes: int = 100) -> list[tuple[bytes, bool]]:
    splitter = Splitter(max_bytes)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.end()


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"a\nb\n"], [(b"a", False), (b"b", False)]),
        ([b"a\n\nb"], [(b"a", False), (b"", False), (b"b", False)]),
        ([b"a\r\nb\r\n"], [(b"a", False), (b"b", False)]),
        ([b"a\r", b"\nb\n"], [(b"a", False), (b"b", False)]),
        ([b"1%\r2%\r3%\n"], [(b"1%", True), (b"2%", True), (b"3%", False)]),
        ([b"\r1%", b"\r2%", b"\r"], [(b"1%", True), (b"2%", True)]),
        ([b"a", b"b", b"c\n"], [(b"abc", False)]),
        ([b"", b""], []),
    ],
)
def test_lines_end_in_a_newline_or_a_carriage_return(
    pieces: list[bytes], lines: list[tuple[bytes, bool]]
) -> None:
    assert split(*pieces) == lines


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_lines_do_not_depend_on_the_pieces_they_come_in(data: bytes, cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(at)]
    assert split(*pieces) == split(data)


def test_a_line_that_does_not_end_is_cut_once() -> None:
    lines = split(b"x" * 80, b"x" * 80, b"x" * 80, b"x\nnext\n", max_bytes=100)
    assert lines == [(b"x" * 100 + " … (line cut)".encode(), False), (b"next", False)]


def test_an_endless_line_costs_no_memory() -> None:
    splitter = Splitter(100)
    told = [line for _ in range(1000) for line in splitter.feed(b"x" * 1000)]
    assert len(told) == 1
    assert len(splitter._rest) == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fetch https://me:s3cret@example.org/x", "fetch https://***@example.org/x"),
        ("https://t0ken@example.org", "https://***@example.org"),
        ("a https://u:p@x/y and ftp://v:q@z", "a https://***@x/y and ftp://***@z"),
        ("https://u:p@ss@example.org/", "https://***@example.org/"),
        ("ssh://git@example.org/x", "ssh://git@example.org/x"),
        ("https://example.org/a@b", "https://example.org/a@b"),
        ("see https://example.org?mail=a@b", "see https://example.org?mail=a@b"),
        ("user@host", "user@host"),
    ],
)
def test_credentials_in_urls_are_masked(text: str, told: str) -> None:
    assert strip_userinfo(text) == told


def test_secrets_are_masked_also_where_they_are_escaped() -> None:
    redact = Redactor(["hunter/2", "hunter/2 and more", "abc"], folder="/srv/cache/run")
    assert redact("x hunter/2 y hunter%2F2 z") == "x *** y *** z"
    assert redact("hunter/2 and more") == "***"
    assert redact("abc is too short to be looked for") == "abc is too short to be looked for"
    assert redact("made /srv/cache/run/env") == "made …/env"


def test_masking_is_linear() -> None:
    # A quadratic pattern would take minutes here.
    for text in ("://" * 200_000, "a" * 600_000, "://" + "a:" * 300_000):
        assert strip_userinfo(text) == text


def test_any_bytes_are_text() -> None:
    assert (
        readable(b"caf\xc3\xa9 \xff\xfe \x00\x07\ttab \x1b[31mred") == "café �� \ttab \x1b[31mred"
    )


# -- Phases --------------------------------------------------------------------------------------


def record(name: str) -> list[Told]:
    sort = Repo2dockerLines(Redactor())
    lines = (RECORDS / name).read_bytes().splitlines()
    return [told for line in lines for told in sort(line, False)] + sort.end()


def test_the_log_of_a_2024_repo2docker() -> None:
    told = record("repo2docker-2024.7-json-logs.jsonl")
    assert [line.phase for line in told] == [F] * 3 + [B] * (len(told) - 4) + [P]
    assert told[0] == Told(F, "Picked Git content provider.\n")
    steps = [line for line in told if line.message.startswith("Step 2/12")]
    assert steps == [Told(B, "Step 2/12 : ARG NB_USER=jovyan\n")]
    assert Told(B, "\n") not in told, "a step and its line end are one line"
    assert told[-1] == Told(P, "Successfully pushed 127.0.0.1:5055/test/repo:old\n")


def test_the_log_of_a_2026_repo2docker_tells_the_push_by_layer() -> None:
    told = record("repo2docker-2026.4-json-logs.jsonl")
    first = next(at for at, line in enumerate(told) if line.phase is P)
    assert told[first].message == "#11 pushing 127.0.0.1:5055/test/repo:abc with docker\n"
    assert {line.phase for line in told[first:]} == {P}
    progress = [line.progress for line in told if line.progress]
    assert progress[0] == {"5f70bf18a086": LayerProgress(1020, 1020)}
    assert LayerProgress(14_090_000, 243_570_000) in [
        layers.get("01c74bf402b4") for layers in progress
    ]
    assert set(progress[-1].values()) == {"Pushed"}
    assert len(progress[-1]) == 6
    for layers in progress:
        for state in layers.values():
            assert isinstance(state, str) or 0 <= state.current <= state.total


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_the_progress_of_an_older_repo2docker() -> None:
    sort = Repo2dockerLines(Redactor())
    layers = {
        "a1": {"current": 5, "total": 10},
        "b2": {"current": 7},
        "c3": "Waiting",
        "d4": "Layer already exists",
        "e5": "Mounted from library/debian",
        "f6": {"current": 20, "total": 10},
        "tag": 7,
    }
    (told,) = sort(line(message="Pushing image\n", phase="pushing", progress=layers), False)
    assert told.progress == {
        "a1": LayerProgress(5, 10),
        "b2": LayerProgress(7, 7),
        "d4": "Layer already exists",
        "e5": "Layer already exists",
        "f6": LayerProgress(10, 10),
    }
    assert told.fleeting == "progress"
    (done,) = sort(line(message="Successfully pushed x/y:z", phase="pushing"), False)
    assert not done.fleeting
    assert done.progress is not None
    assert done.progress["a1"] == "Pushed", "it told states only every 1.5 s, not the last ones"
    assert done.progress["d4"] == "Layer already exists"


@pytest.mark.parametrize(
    "raw",
    [b"12345", b"[1]", b"null", b'{"message": 7}', b'{"no": "message"}', b"{", b'"text"', b"\xff{"],
)
def test_any_bytes_are_a_line_of_the_phase_before(raw: bytes) -> None:
    sort = Repo2dockerLines(Redactor())
    sort(line(message="x\n", phase="building"), False)
    assert sort(raw, False) == [Told(B, raw.decode("utf-8", "replace") + "\n")]


def test_phases_do_not_fall_and_strange_ones_are_ignored() -> None:
    sort = Repo2dockerLines(Redactor())
    said = ["fetching", "building", "fetching", "failure", 7, None, "pushing", "building"]
    told = [sort(line(message="x\n", phase=phase), False) for phase in said]
    assert [line.phase for lines in told for line in lines] == [F, B, B, B, B, B, P, P]


def test_a_json_line_can_be_a_bar_and_hold_credentials() -> None:
    sort = Repo2dockerLines(Redactor())
    told = sort(line(message="Fetching https://u:p@x/y…\r", phase="building"), False)
    assert told == [Told(B, "Fetching https://***@x/y…\r", fleeting="bar")]


def pieces(*messages: str) -> list[str]:
    """Return what is told of messages of a build, those that are not complete as well."""
    sort = Repo2dockerLines(Redactor(["hunter2"]))
    told = [sort(line(message=message, phase="building"), False) for message in messages]
    return [one.message for lines in [*told, sort.end()] for one in lines]


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (["\r 10%", "\r 20%", "\r 30%\n"], [" 10%\r", " 20%\r", " 30%\n"]),
        (["10%\r20%\r30%\n"], ["10%\r", "20%\r", "30%\n"]),
        (["10%\r", "20%\r", "\n"], ["10%\r", "20%\r", "\n"]),
        (["Collec", "ting num", "py\nDown"], ["Collecting numpy\n", "Down\n"]),
        (["one\ntwo\n", "\n", "three"], ["one\n", "two\n", "\n", "three\n"]),
        (["a\r\nb\r\n"], ["a\n", "b\n"]),
        (["hun", "ter2\n"], ["***\n"]),
        (['{"aux": 1}', "\n", "Built\n"], ['{"aux": 1}\n', "Built\n"]),
        ([""], []),
    ],
)
def test_what_a_step_prints_comes_in_pieces(messages: list[str], told: list[str]) -> None:
    assert pieces(*messages) == told


@given(st.text("ab\n", max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_what_is_told_does_not_depend_on_the_pieces(text: str, cuts: list[int]) -> None:
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert pieces(*(text[a:b] for a, b in itertools.pairwise(at))) == pieces(text)


def test_pieces_of_a_line_end_where_something_else_begins() -> None:
    sort = Repo2dockerLines(Redactor())
    assert sort(line(message="half", phase="building"), False) == []
    assert sort.unfinished
    (half, warning) = sort(b"a warning", False)
    assert (half.message, warning.message) == ("half\n", "a warning\n")
    sort(line(message="half", phase="building"), False)
    (half, failed) = sort(line(message="it failed", phase="failed"), False)
    assert (half.message, failed.message) == ("half\n", "it failed\n")
    assert sort.late() == sort.end() == []


def test_a_line_whose_end_does_not_come_is_told_and_a_bar_stays_one() -> None:
    sort = Repo2dockerLines(Redactor())

    def say(message: str) -> list[Told]:
        return sort(line(message=message, phase="building"), False)

    say("Step 1/2")
    assert sort.late() == [Told(B, "Step 1/2\n")]
    assert say("\n") == [], "its end, at last"
    say("go\n")
    assert say("\r 10%") == []
    assert sort.late() == [Told(B, " 10%\r", fleeting="bar")]
    waits = [sort.unfinished]
    assert say("\r 20%") == []
    waits.append(sort.unfinished)
    assert waits == [False, True], "each state is told once"
    assert say("\n") == [Told(B, " 20%\n")], "the last state stays"


def test_a_long_message_is_cut_when_it_is_read() -> None:
    sort = Repo2dockerLines(Redactor(['pa"ss']))
    (told,) = sort(line(message='pa"ss ' + "x" * 20_000 + "\n", phase="building"), False)
    assert told.phase is B
    assert told.message.startswith("*** xxx")
    assert told.message.endswith(" … (line cut)\n")
    assert len(told.message) < 17_000
    (raw,) = sort(b'{"messsage": "pa\\"ss", ' + b"x" * 20_000, False)
    assert raw.message.startswith('{"messsage": "***", ')
    assert len(raw.message) < 17_000


def test_a_plain_program_keeps_its_phase() -> None:
    sort = PlainLines(F, Redactor())
    assert sort(b'{"message": "x", "phase": "pushing"}', False) == [
        Told(F, '{"message": "x", "phase": "pushing"}\n')
    ]
    assert sort(b"50%", True) == [Told(F, "50%\r", fleeting="bar")]
    assert sort.end() == []


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("pushing layer 01c74bf402b4 14.09MB / 243.57MB 1.0s", LayerProgress(14090000, 243570000)),
        ("pushing layer 01c74bf402b4 512B / 1.5kB", LayerProgress(512, 1500)),
        ("pushing layer 01c74bf402b4 1MiB / 2GiB 0.1s", LayerProgress(2**20, 2**31)),
        ("pushing layer sha256:01c74bf402b4 1GB", LayerProgress(10**9, 10**9)),
        ("pushing layer 01c74bf402b4 0.1s done", "Pushed"),
        ("pushing layer 01c74bf402b4 Layer already exists", "Layer already exists"),
    ],
)
def test_a_line_of_buildx(said: str, state: LayerProgress | str) -> None:
    push = PushOutput()
    assert push.buildx_line(f"#11 {said}\n") is True
    assert push.progress == {"01c74bf402b4": state}
    assert push.buildx_line(f"#11 {said}\n") is False, "no news the second time"


@pytest.mark.parametrize(
    "said", ["#5 [internal] load", "#9 0.123 pushing layer 01c74bf402b4 done", "pushing layer x"]
)
def test_lines_that_are_not_about_a_push(said: str) -> None:
    push = PushOutput()
    assert push.buildx_line(said) is None
    assert push.progress is None


def test_what_is_pushed_stays_pushed() -> None:
    push = PushOutput()
    push.buildx_line("#11 pushing layer 01c74bf402b4 0.1s done")
    assert push.buildx_line("#11 pushing layer 01c74bf402b4 1MB / 2MB") is False
    assert push.progress == {"01c74bf402b4": "Pushed"}


# -- Pace ----------------------------------------------------------------------------------------


def bar(text: str) -> Told:
    return Told(B, text + "\r", fleeting="bar")


def layers(n: int) -> Told:
    return Told(P, "p\n", {"a": LayerProgress(n, 100)}, fleeting="progress")


def test_bars_are_kept_to_a_few_a_second() -> None:
    pacer, told = Pacer(0.3), []
    for n in range(1000):  # ten seconds
        told += pacer.take(bar(str(n)), n / 100)
        told += pacer.due(n / 100)
    assert 30 <= len(told) <= 35
    assert pacer.flush(10.0) == [bar("999")], "the last state is always told"
    assert pacer.flush(10.0) == []


def test_what_is_held_back_comes_before_the_next_line() -> None:
    pacer = Pacer(0.3)
    assert pacer.take(bar("1"), 0.0) == [bar("1")]
    assert pacer.take(bar("2"), 0.1) == []
    assert pacer.deadline() == pytest.approx(0.3)
    assert pacer.take(Told(B, "done\n"), 0.2) == [bar("2"), Told(B, "done\n")]
    assert pacer.deadline() is None


def test_a_bar_does_not_swallow_progress() -> None:
    pacer = Pacer(0.3)
    assert pacer.take(layers(1), 0.0) == [layers(1)]
    assert pacer.take(layers(2), 0.1) == []
    assert pacer.take(bar("x"), 0.15) == [layers(2), bar("x")]


def test_what_is_due_comes_without_another_line() -> None:
    pacer = Pacer(0.3)
    pacer.take(layers(1), 0.0)
    pacer.take(layers(2), 0.1)
    assert pacer.due(0.29) == []
    assert pacer.due(0.31) == [layers(2)]


# -- Cap -----------------------------------------------------------------------------------------


def size(lines: list[Told]) -> int:
    return sum(len(line.message) + 64 for line in lines)


def test_a_log_below_the_cap_is_told_whole_and_at_once() -> None:
    cap = Cap(100_000)
    for n in range(100):
        told = Told(B, f"{n}\n")
        assert cap.take(told, 0.0) == [told]
    assert cap.flush() == []


def test_too_much_keeps_the_first_and_the_newest_and_tells_how_many_are_left_out() -> None:
    cap, told = Cap(100_000), []
    for n in range(100_000):  # ten seconds
        told += cap.take(Told(B, f"{n}\n"), n / 10_000)
    told += cap.flush()
    assert size(told) < 110_000
    numbers = [int(line.message) for line in told if line.message[0] != "…"]
    gaps = [int(line.message.split()[1]) for line in told if line.message[0] == "…"]
    assert numbers[:700] == list(range(700))
    assert numbers[-300:] == list(range(99_700, 100_000))
    assert numbers == sorted(numbers)
    assert len(numbers) + sum(gaps) == 100_000, "what is left out is counted to the line"
    assert len(gaps) >= 8, "something is told while it pours, not only at the end"


def test_after_a_flood_a_quiet_build_is_told_again_as_it_goes() -> None:
    cap = Cap(100_000)
    for n in range(20_000):
        cap.take(Told(B, f"{n}\n"), 1.0)
    assert cap.due(1.0 + TICK) != []
    quiet = Told(P, "quiet\n")
    assert cap.take(quiet, 100.0) == [quiet]


def test_the_cap_holds_however_long_a_build_talks() -> None:
    cap, told, now = Cap(100_000), 0, 0.0
    for _ in range(20_000):
        now += 0.5
        told += size(cap.take(Told(B, "x" * 300 + "\n"), now))
    told += size(cap.flush())
    assert told < 130_000


def test_progress_counts_for_what_it_is() -> None:
    cap, told = Cap(100_000), []
    many: Progress = {f"{layer:012x}": LayerProgress(1, 10**9) for layer in range(40)}
    for n in range(2000):  # ten minutes
        told += cap.take(Told(P, "p\n", many), n * 0.3)
    told += cap.flush()
    written = sum(
        len(encode_log(Line(n, each.message, P, each.progress))) for n, each in enumerate(told)
    )
    assert written < 200_000


@pytest.mark.parametrize("seconds", [60, 600, 3600])
def test_a_push_is_told_after_any_flood(seconds: int) -> None:
    cap, now = Cap(100_000), 0.0
    for _ in range(10 * seconds):
        now += 0.1
        cap.take(Told(B, "x" * 1000 + "\n"), now)
    told = []
    for n in range(600):  # a minute
        told += cap.take(layers(n), now + n / 10)
    states = [each for each in told if each.progress]
    assert len(states) > 20


def test_where_all_is_used_up_something_is_told_all_the_same() -> None:
    cap = Cap(100_000)
    told = [len(cap.take(Told(B, "x" * 1000 + "\n"), n / 10)) for n in range(36_000)]  # an hour
    late = [n // 10 for n, many in enumerate(told) if many and n > 3000]
    assert len(late) > 10
    assert max(b - a for a, b in itertools.pairwise(late)) < 400
