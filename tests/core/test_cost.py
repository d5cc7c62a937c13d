"""What things cost, in calls and never in seconds: the regression check beside `benchmarks/`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

import pytest

from binder_core import events
from binder_core.builds import BuildLimits, Builds, Fact, Joined, Left, Spoke, Started
from binder_core.events import Building, Event
from binder_core.journal import Journal, Told
from binder_core.plugin import BuildRequest
from binder_http import sse


def calls(do: Callable[[], object]) -> int:
    """Return how many functions were called, those written in C included."""
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        del frame, arg
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        do()
    finally:
        sys.setprofile(before)
    return count


def told(n: int) -> Told:
    return Told.of(Building(message=f"line {n:08}\n"), f"run.{n:08}")


def test_a_line_costs_the_same_however_long_the_build() -> None:
    journal = Journal(cap_bytes=200_000)
    lines = iter([told(n) for n in range(1, 60_001)])
    number = 0

    def append(count: int) -> None:
        nonlocal number
        for _ in range(count):
            number += 1
            journal.append(next(lines), number)

    append(2_000)  # the cap is reached
    assert journal.left_out
    early = calls(lambda: append(5_000))
    append(48_000)
    late = calls(lambda: append(5_000))
    assert late == pytest.approx(early, rel=0.02)


def test_reading_on_costs_the_same_wherever_one_stands() -> None:
    journal = Journal()
    for n in range(1, 20_001):
        journal.append(told(n), n)
    costs = {calls(partial(journal.read, at, 10)) for at in (1, 10_000, 19_000)}
    assert len(costs) == 1


def test_a_page_is_read_and_joined_once_for_all_who_stand_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[object] = []
    encode = events.encode

    def encoding(event: Event) -> bytes:
        encoded.append(event)
        return encode(event)

    monkeypatch.setattr(events, "encode", encoding)
    journal = Journal()
    for n in range(1, 501):
        journal.append(told(n), n)
    first = calls(lambda: sse.frames(journal.read(0)[0]))
    written = {id(sse.frames(journal.read(0)[0])) for _ in range(100)}
    assert len(written) == 1, "one and the same bytes for everybody"
    assert len(encoded) == 500, "an event is encoded once"
    others = calls(lambda: [sse.frames(journal.read(0)[0]) for _ in range(100)])
    assert others < first, "a hundred more cost less than the first one"


def test_what_is_joined_is_not_what_came_before_the_last_line() -> None:
    journal = Journal()
    journal.append(told(1), 1)
    before = sse.frames(journal.read(0)[0])
    journal.append(told(2), 2)
    after = sse.frames(journal.read(0)[0])
    assert after.startswith(before)
    assert after.endswith(sse.frame(told(2)))


@pytest.mark.parametrize(("builds", "watchers"), [(1, 1_000), (300, 1), (30, 30)])
def test_a_fact_costs_the_same_however_many_builds_and_watchers(builds: int, watchers: int) -> None:
    assert cost_of_facts(builds, watchers) == cost_of_facts(1, 1)


def cost_of_facts(builds: int, watchers: int) -> int:
    machine = Builds(BuildLimits(max_age=3600.0))
    requests = [BuildRequest(f"b{n}", f"i{n}", "https://x", "r") for n in range(builds)]
    for request in requests:
        for _ in range(watchers):
            machine.handle(Joined(request, 0.0), 0.0)
    live = machine.live(requests[-1].name)
    assert live is not None
    facts: list[Fact] = [
        Started(live.id, "run"),
        Joined(requests[-1], 1.0),
        Spoke(live.id),
        Left(live.id),
    ]
    return calls(lambda: [machine.handle(fact, 1.0) for fact in facts])
