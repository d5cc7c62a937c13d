"""Event ids: made, read, signed."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from binder_core.resume import END, LaunchCursor, LogCursor, Signer, check_run_id, log_id

SIGNER = Signer(b"0123456789abcdef")
runs = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)
cursors = st.builds(
    LaunchCursor,
    name=st.text(string.ascii_lowercase, min_size=1, max_size=63),
    ref=st.text(max_size=40),
    time=st.integers(0, 2**33),
    n=st.integers(0, 1000),
    last=st.booleans(),
)


def read(text: str, request: str = "gh/a/b/c", now: float = 0.0) -> object:
    return SIGNER.read(text, request, now=now, max_age=100)


@given(run=runs, n=st.integers(0, 10**12 - 1), last=st.booleans())
def test_ids_of_lines_are_read_as_written(run: str, n: int, *, last: bool) -> None:
    assert read(log_id(check_run_id(run), n, last=last)) == LogCursor(run, n, last)


@given(cursor=cursors)
def test_ids_of_launches_are_read_as_written_and_for_their_request_only(
    cursor: LaunchCursor,
) -> None:
    text = SIGNER.launch_id(cursor, "gh/a/b/c")
    assert read(text, now=cursor.time) == cursor
    assert read(text, "gh/a/b/d", now=cursor.time) is None
    assert read(text, now=cursor.time + 101) is None
    other = Signer(b"another key, as good")
    assert other.read(text, "gh/a/b/c", now=cursor.time, max_age=100) is None


@given(cursor=cursors, at=st.integers(0, 400), char=st.characters(codec="ascii"))
def test_a_forged_id_is_none(cursor: LaunchCursor, at: int, char: str) -> None:
    text = SIGNER.launch_id(cursor, "gh/a/b/c")
    at %= len(text)
    forged = text[:at] + char + text[at + 1 :]
    # Unused bits of the last base64 digit do not count, hence the comparison of what was read.
    assert forged == text or read(forged, now=cursor.time) in (None, cursor)


@given(st.text(max_size=2000))
@example("~.")
@example("~a.b")
@example("run." + "9" * 13)
@example("~é.b")
@example("run.\N{ARABIC-INDIC DIGIT ONE}")
def test_any_text_is_read_or_is_none(text: str) -> None:
    cursor = read(text)
    assert cursor is None or isinstance(cursor, LogCursor)


def test_the_end_says_so() -> None:
    cursor = read(END)
    assert isinstance(cursor, LogCursor)
    assert cursor.last


def test_tokens_are_derived_and_differ() -> None:
    assert SIGNER.token("a", 1) == Signer(b"0123456789abcdef").token("a", 1)
    others = {SIGNER.token(*args) for args in [("a", 1), ("a", 2), ("b", 1), ("a1", 1)]}
    assert len(others) == 4
    assert all(len(token) >= 32 for token in others)


@given(st.text(max_size=70))
def test_a_run_id_is_checked(run: str) -> None:
    assume(not set(run) <= set(string.ascii_letters + string.digits + "_-") or not run)
    with pytest.raises(ValueError, match="a run id is"):
        check_run_id(run)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="has 3 bytes"):
        Signer(b"abc")
