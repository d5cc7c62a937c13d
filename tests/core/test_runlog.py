"""The log of a build: any bytes are lines."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_core.events import LayerProgress, Progress
from binder_core.ordering import Phase
from binder_core.runlog import MAX_LINE_BYTES, Entry, Line, LogReader, Outcome, encode

words = st.text(max_size=30)
lines = st.builds(
    Line,
    n=st.just(0),
    message=words,
    phase=st.sampled_from([None, Phase.FETCHING, Phase.BUILDING, Phase.PUSHING]),
    progress=st.none()
    | st.dictionaries(
        words, st.builds(LayerProgress, st.integers(0, 9), st.integers(0, 9)) | words, max_size=2
    ),
)


def read(data: bytes, piece: int) -> list[Entry]:
    reader, entries = LogReader(), list[Entry]()
    for start in range(0, len(data), piece):
        entries += reader.feed(data[start : start + piece])
    return entries + reader.end()


@given(entries=st.lists(lines, max_size=10), built=st.booleans(), piece=st.integers(1, 60))
def test_what_is_written_is_read_in_whatever_pieces(
    entries: list[Line], *, built: bool, piece: int
) -> None:
    numbered = [Line(n, e.message, e.phase, e.progress) for n, e in enumerate(entries, 1)]
    log: list[Entry] = [*numbered, Outcome(len(entries) + 1, built, "why")]
    assert read(b"".join(map(encode, log)), piece) == log


@given(data=st.binary(max_size=500), piece=st.integers(1, 60))
def test_any_bytes_are_lines_and_pieces_do_not_matter(data: bytes, piece: int) -> None:
    whole = read(data, len(data) or 1)
    assert read(data, piece) == whole
    assert len(whole) == sum(bool(line) for line in data.split(b"\n"))


@pytest.mark.parametrize(
    ("line", "message", "phase"),
    [
        (b"12345", "12345\n", None),
        (b"Traceback (most recent call last):", "Traceback (most recent call last):\n", None),
        (b'{"message": "x\\n", "phase": "building"}', "x\n", Phase.BUILDING),
        (b'{"message": "x", "phase": "unknown"}', "x", None),
        (b'{"message": "x", "phase": "ready"}', "x", None),
        (b'{"phase": "building"}', '{"phase": "building"}\n', None),
        (b'{"message": 1}', '{"message": 1}\n', None),
        (b"\xff\xfe", "��\n", None),
    ],
)
def test_lines_of_others_are_counted(line: bytes, message: str, phase: Phase | None) -> None:
    first, second = read(line + b"\n" + line, 7)
    assert first == Line(1, message, phase)
    assert second == Line(2, message, phase)


def test_what_fits_of_the_progress_of_others_is_told() -> None:
    said = {
        "a1": {"current": 5, "total": 10},
        "b2": {"current": 7},
        "c3": "Waiting",
        "d4": "Layer already exists",
        "e5": "Mounted from library/debian",
        "f6": {"current": 20, "total": 10, "more": 1},
        "g7": "Pushed",
        "h8": 7,
    }
    told: Progress = {
        "a1": LayerProgress(5, 10),
        "b2": LayerProgress(7, 7),
        "d4": "Layer already exists",
        "e5": "Layer already exists",
        "f6": LayerProgress(10, 10),
        "g7": "Pushed",
    }
    table: list[tuple[object, Progress | None]] = [
        (said, told),
        ({"a": "Waiting"}, None),
        (7, None),
    ]
    for progress, fits in table:
        line = {"message": "Pushing image\n", "phase": "pushing", "progress": progress}
        (entry,) = read(json.dumps(line).encode(), 50)
        assert entry == Line(1, "Pushing image\n", Phase.PUSHING, fits)


@pytest.mark.parametrize(
    ("rest", "phase"),
    [
        (b'"phase": "pushing"', Phase.PUSHING),
        (b'"phase": "ready"', None),
        (b'"phase": "unknown"', None),
        (b'"phase": null, "outcome": null', None),
        (b'"progress": null, "more": {"than": "we know"}', None),
    ],
)
def test_a_number_counts_whatever_else_a_line_says(rest: bytes, phase: Phase | None) -> None:
    line = b'{"n": 7, "message": "x", ' + rest + b"}"
    first, second = read(line + b"\nafter", 9)
    assert first == Line(7, "x", phase)
    assert second == Line(8, "after\n")


def test_an_endless_line_is_cut() -> None:
    reader = LogReader()
    for _ in range(40):
        assert reader.feed(b"x" * 10000) == []
    assert len(reader._rest) <= MAX_LINE_BYTES + 10000
    (line,) = reader.feed(b"\n")
    assert isinstance(line, Line)
    assert len(line.message) <= MAX_LINE_BYTES + 1
