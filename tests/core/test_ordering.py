"""The rules of order as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_core.ordering import FINAL, FIRST, LOG, NEXT, Phase, log_phase, may_follow

RANK = list(Phase)
phases = st.sampled_from(Phase)


def test_the_table_has_every_phase() -> None:
    assert set(NEXT) == set(Phase)
    assert {phase for phase in Phase if not NEXT[phase]} == FINAL


@pytest.mark.parametrize("before", Phase)
def test_rank_never_falls_and_failed_may_end_all_but_the_end(before: Phase) -> None:
    for after in NEXT[before]:
        assert RANK.index(after) >= RANK.index(before)
    assert (Phase.FAILED in NEXT[before]) == (before not in FINAL)


def test_built_comes_once_and_nothing_launches_without_it() -> None:
    assert Phase.BUILT not in NEXT[Phase.BUILT]
    assert {before for before in Phase if Phase.LAUNCHING in NEXT[before]} == {
        Phase.BUILT,
        Phase.LAUNCHING,
    }
    assert Phase.LAUNCHING not in FIRST


def test_a_stream_starts_as_the_contract_says() -> None:
    assert {phase for phase in Phase if may_follow(None, phase)} == FIRST


@given(st.lists(st.none() | phases))
def test_log_lines_keep_their_order_whatever_they_say(said: list[Phase | None]) -> None:
    before: Phase | None = Phase.WAITING
    for word in said:
        told = log_phase(before, word)
        assert told in LOG
        assert may_follow(before, told)
        if word is None and before in LOG:
            assert told is before
        before = told
