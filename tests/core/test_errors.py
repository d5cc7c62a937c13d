"""What errors say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import binder_core
from binder_core.errors import BinderError, IllegalTransition, SpecError


def test_a_spec_error_points_into_the_text() -> None:
    error = SpecError("no ref; try user/repo/HEAD", text="user/repo", span=(5, 9))
    assert str(error) == "no ref; try user/repo/HEAD\n    user/repo\n         ~~~^"


@given(st.text(min_size=1, max_size=400), st.data())
def test_it_is_short_and_safe_whatever_the_text(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    lines = str(SpecError("message", text=text, span=(start, end))).split("\n")
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert all(char.isprintable() for line in lines for char in line)
    assert lines[2].endswith("^")


def test_statuses_are_hints() -> None:
    errors = [
        value
        for name in binder_core.__all__
        if isinstance(value := getattr(binder_core, name), type) and issubclass(value, BinderError)
    ]
    assert all(400 <= error.status_hint < 600 for error in errors)
    assert BinderError("x", status=418).status == 418


def test_an_illegal_transition_tells_the_story() -> None:
    error = IllegalTransition(state="queued", fact="Succeeded", recent=("Joined",))
    with pytest.raises(IllegalTransition, match=r"(?s)'Succeeded' is not possible.*'Joined'"):
        raise error
