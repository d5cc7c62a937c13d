"""The journal against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_core.events import Building, Built, Waiting
from binder_core.journal import Journal, Told
from binder_core.ordering import Phase

HUGE = 10**9


def a_line(n: int, size: int = 0) -> Told:
    return Told.of(Building(message=f"{n}{'x' * size}\n"), f"run.{n}")


def read_all(journal: Journal, position: int, at_most: int) -> list[Told]:
    told: list[Told] = []
    while True:
        more, position = journal.read(position, at_most)
        assert len(more) <= at_most * 9 // 8
        if not more:
            assert position == len(journal)
            return told
        told += more


@given(steps=st.lists(st.integers(0, 3), max_size=60), at_most=st.integers(1, 7), data=st.data())
def test_every_reader_gets_everything_once_and_in_order(
    steps: list[int], at_most: int, data: st.DataObject
) -> None:
    journal, plain = Journal(cap_bytes=HUGE), list[tuple[int, Told]]()
    n = 0
    for step in steps:
        told = a_line(n + step)
        journal.append(told, n + step if step else None)
        n += step
        plain.append((n, told))
    start = data.draw(st.integers(0, len(plain)))
    assert read_all(journal, start, at_most) == [told for _, told in plain[start:]]
    seen = data.draw(st.integers(0, n))
    after = read_all(journal, journal.position_after(seen), at_most)
    assert after == [told for number, told in plain if number > seen]
    assert journal.last_number == n


@given(
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=300),
    cap=st.integers(2000, 20000),
    at_most=st.integers(1, 50),
    data=st.data(),
)
def test_a_journal_keeps_its_cap_and_tells_what_it_left_out(
    sizes: list[int], cap: int, at_most: int, data: st.DataObject
) -> None:
    journal = Journal(cap_bytes=cap)
    for n, size in enumerate(sizes, 1):
        journal.append(a_line(n, size), n)
        held = journal._head + journal._tail[journal._tail_from :]
        assert sum(len(told.data) + 256 for told in held) <= cap + 800
    assert len(journal) == len(sizes)

    seen = data.draw(st.integers(0, len(sizes)))
    told = read_all(journal, journal.position_after(seen), at_most)
    numbers = [int(one.id.partition(".")[2]) for one in told if one.id]
    assert numbers == sorted(set(numbers))
    assert all(number > seen for number in numbers)
    if seen < len(sizes):
        assert numbers[-1] == len(sizes), "the last lines are kept"
    gaps = [one for one in told if not one.id]
    assert len(gaps) <= 1
    if gaps:
        assert "left out" in gaps[0].event.message
        assert len(numbers) + journal.left_out == len(sizes) - min(seen, len(journal._head))
    else:
        assert numbers == list(range(seen + 1, len(sizes) + 1))


def test_a_gap_before_the_outcome_is_told_as_a_line() -> None:
    journal = Journal(cap_bytes=2000)
    for n in range(1, 10):
        journal.append(a_line(n), n)
    journal.append(Told.of(Built(message="x" * 1500, image="i"), "run.10"), 10)
    told = read_all(journal, 0, 100)
    assert [one.phase for one in told][-2:] == [Phase.BUILDING, Phase.BUILT]
    assert told[-2].event.message.startswith("… ")


def test_numbers_rise() -> None:
    journal = Journal()
    journal.append(Told.of(Waiting(message="w")), None)
    journal.append(a_line(5), 5)
    with pytest.raises(ValueError, match="number 5 after 5"):
        journal.append(a_line(5), 5)
    assert len(journal) == 2
