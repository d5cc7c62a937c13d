from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_http.rawpath import raw_tail

PART = st.text(st.sampled_from("abc-é"), min_size=1, max_size=5)


def scope(raw: str) -> dict[str, object]:
    return {"raw_path": raw.encode(), "path": unquote(raw)}


@given(
    base=st.lists(PART, max_size=3),
    tail=st.lists(st.sampled_from(["a", "%2F", "%25", "%2f", "/", ".", "%C3%A9"]), max_size=12),
)
def test_the_tail_is_found_under_any_mount(base: list[str], tail: list[str]) -> None:
    before = "".join(f"/{part}" for part in base) + "/build/"
    before = before.replace("é", "%C3%A9")
    rest = "".join(tail)
    assert raw_tail(scope(before + rest), unquote(rest)) == (before, rest)


def test_an_escaped_slash_is_kept() -> None:
    assert raw_tail(scope("/build/git/a%2Fb/c"), "git/a/b/c") == ("/build/", "git/a%2Fb/c")


def test_an_escaped_letter_before_the_tail_does_no_harm() -> None:
    assert raw_tail(scope("/%62uild/gh/a"), "gh/a") == ("/%62uild/", "gh/a")


def test_an_escaped_slash_before_the_tail_is_refused() -> None:
    with pytest.raises(ValueError, match="build"):
        raw_tail(scope("/build%2Fgh/a"), "gh/a")


def test_a_server_without_raw_paths() -> None:
    given = {"path": "/x/build/gh/a b"}
    assert raw_tail(given, "gh/a b") == ("/x/build/", "gh/a%20b")
