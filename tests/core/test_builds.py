"""The dedup machine: facts in, commands out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import transitions
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from binder_core import builds
from binder_core.builds import (
    BuildId,
    BuildLimits,
    Builds,
    Close,
    Failed,
    Follow,
    Forget,
    Joined,
    Left,
    Look,
    Open,
    Spoke,
    Start,
    Started,
    State,
    Stop,
    StopAsked,
    Succeeded,
    Ticked,
    Wait,
)
from binder_core.errors import IllegalTransition
from binder_core.plugin import BuildRequest


def a_request(key: str = "k", follow: str | None = None) -> BuildRequest:
    return BuildRequest(key, f"image-{key}", "url", "ref", follow=follow)


def joined(key: str = "k", follow: str | None = None, looked: float = 0.0) -> Joined:
    return Joined(a_request(key, follow), looked)


ONE, TWO = BuildId("k", 1), BuildId("k", 2)


def test_the_first_to_join_starts_the_build_and_the_second_follows_it() -> None:
    machine = Builds()
    assert machine.handle(joined(), 0) == [Open(ONE, a_request()), Start(ONE), Follow(ONE)]
    assert machine.handle(joined(), 1) == [Follow(ONE)]
    assert machine.running == 1


def test_leaving_changes_nothing() -> None:
    machine = Builds()
    machine.handle(joined(), 0)
    assert machine.handle(Left(ONE), 1) == []
    assert machine.live("k") is machine.get(ONE)


def test_late_word_about_a_finished_attempt_does_not_touch_its_successor() -> None:
    machine = Builds()
    machine.handle(joined(), 0)
    machine.handle(Failed(ONE), 1)
    assert machine.handle(joined(), 2) == [Open(TWO, a_request()), Start(TWO), Follow(TWO)]
    for late in (Succeeded(ONE), Failed(ONE), Started(ONE, "run"), Spoke(ONE), Left(ONE)):
        assert machine.handle(late, 3) == []
    successor = machine.get(TWO)
    assert successor is not None
    assert (successor.state, successor.run_id, successor.watchers) == (State.RUNNING, None, 1)


def test_who_followed_a_run_follows_it_to_its_end() -> None:
    machine = Builds()
    machine.handle(joined(), 0)
    machine.handle(Started(ONE, "run"), 0)
    machine.handle(Failed(ONE), 1)
    assert machine.handle(joined(follow="run"), 2) == [Follow(ONE)]
    assert Start(TWO) in machine.handle(joined(follow="another"), 2)
    assert machine.handle(joined(follow="run"), 3) == [Follow(TWO)], "a live attempt comes first"


def test_a_build_that_ended_since_one_looked_is_followed() -> None:
    machine = Builds()
    machine.handle(joined(), 0)
    machine.handle(Succeeded(ONE), 5)
    assert machine.handle(joined(looked=4), 6) == [Follow(ONE)]
    assert Start(TWO) in machine.handle(joined(looked=6), 7), "the image was removed"


def test_builds_queue_for_slots_and_hear_of_their_places() -> None:
    machine = Builds(BuildLimits(max_builds=1))
    ids = [BuildId(key, number) for number, key in enumerate("abc", 1)]
    machine.handle(joined("a"), 0)
    assert machine.handle(joined("b"), 0)[1:] == [Wait(ids[1], 1), Look(ids[1]), Follow(ids[1])]
    assert machine.handle(joined("c"), 0)[1:] == [Wait(ids[2], 2), Look(ids[2]), Follow(ids[2])]
    assert machine.handle(joined("c"), 0) == [Follow(ids[2])], "a watcher takes no slot"
    assert machine.queued == 2
    assert machine.handle(Succeeded(ids[0]), 1) == [Start(ids[1]), Wait(ids[2], 1)]
    assert machine.handle(StopAsked("c", "enough"), 2) == [Close(ids[2], "enough")]
    assert (machine.running, machine.queued) == (1, 0)


def test_a_run_that_is_found_leaves_the_queue() -> None:
    machine = Builds(BuildLimits(max_builds=1))
    a, b, c = (BuildId(key, number) for number, key in enumerate("abc", 1))
    machine.handle(joined("a"), 0)
    machine.handle(joined("b", follow="run"), 0)
    machine.handle(joined("c"), 0)
    assert machine.handle(Started(b, "run"), 1) == [Wait(c, 1)]
    assert (machine.running, machine.queued, machine.is_queued(b)) == (2, 1, False)
    assert machine.handle(Succeeded(b), 2) == [], "the slot is still taken"
    assert machine.handle(Succeeded(a), 3) == [Start(c)]


def test_an_id_that_somebody_made_up_gets_nobody_past_the_queue() -> None:
    machine = Builds(BuildLimits(max_builds=1))
    machine.handle(joined("a"), 0)
    commands = machine.handle(joined("b", follow="made-up"), 0)
    assert Start(BuildId("b", 2)) not in commands
    assert machine.queued == 1


def test_for_an_image_that_is_there_nobody_queues() -> None:
    machine = Builds(BuildLimits(max_builds=1))
    machine.handle(joined("a"), 0)
    there = replace(a_request("b", "run"), image_exists=True)
    assert Start(BuildId("b", 2)) in machine.handle(Joined(there, 0), 0)


def test_a_build_is_stopped_once_and_given_up_when_its_grace_is_over() -> None:
    machine = Builds(BuildLimits(stop_grace=10))
    machine.handle(joined(), 0)
    assert machine.handle(StopAsked("k", "enough"), 1) == [Stop(ONE, "enough")]
    assert machine.handle(StopAsked("k", "enough"), 2) == []
    assert machine.handle(StopAsked("other", "enough"), 2) == []
    assert machine.deadline() == 11
    assert machine.handle(Ticked(), 11) == [Close(ONE, "enough")]
    assert machine.running == 0


def test_a_run_that_begins_after_it_was_to_be_stopped_is_stopped_as_well() -> None:
    machine = Builds()
    machine.handle(joined(), 0)
    machine.handle(StopAsked("k", "enough"), 1)
    assert machine.handle(Started(ONE, "run"), 2) == [Stop(ONE, "enough")]
    assert machine.handle(Started(ONE, "run"), 3) == []
    assert machine.handle(Failed(ONE), 4) == []


def test_too_old_and_too_silent_builds_are_stopped() -> None:
    old = Builds(BuildLimits(max_age=100))
    old.handle(joined(), 0)
    assert old.handle(Ticked(), 99) == []
    assert [type(command) for command in old.handle(Ticked(), 100)] == [Stop]

    silent = Builds(BuildLimits(max_silence=10))
    silent.handle(joined(), 0)
    silent.handle(Spoke(ONE), 8)
    assert silent.handle(Ticked(), 10) == []
    assert silent.deadline() == 18
    assert [type(command) for command in silent.handle(Ticked(), 18)] == [Stop]


def test_an_ended_build_is_forgotten_in_time() -> None:
    machine = Builds(BuildLimits(keep_ended=10))
    machine.handle(joined(), 0)
    machine.handle(Started(ONE, "run"), 0)
    machine.handle(Succeeded(ONE), 5)
    assert machine.handle(Ticked(), 14) == []
    assert machine.handle(Ticked(), 15) == [Forget(ONE)]
    assert machine.all() == []
    assert machine.deadline() is None
    assert machine.live("k") is None


def test_an_impossible_fact_changes_nothing_and_tells_what_came_before() -> None:
    machine = Builds(BuildLimits(max_builds=0))
    machine.handle(joined(), 0)
    with pytest.raises(IllegalTransition, match="Succeeded") as caught:
        machine.handle(Succeeded(ONE), 1)
    assert caught.value.state is State.QUEUED
    assert caught.value.recent == (joined(),)
    assert machine.queued == 1


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", sorted({str(move["trigger"]) for move in builds.TABLE}))
def test_our_moves_are_those_of_the_library(state: State, trigger: str) -> None:
    class Model:
        pass

    model = Model()
    library = builds.machine(model)
    library.set_state(state, model)
    try:
        getattr(model, trigger)()
        theirs = model.state  # type: ignore[attr-defined] # set by the library
    except transitions.MachineError:
        theirs = None
    assert builds._MOVES.get((state, trigger)) == theirs


class Rules(RuleBasedStateMachine):
    """Facts at random, held against a plain account of what must be."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.limits = BuildLimits(
            max_builds=2, max_age=50, max_silence=20, stop_grace=5, keep_ended=30
        )
        self.machine = Builds(self.limits)
        self.now = 0.0
        self.open: dict[BuildId, str] = {}
        """What performs the commands knows: queued, started, stopping, ended."""
        self.watchers: Counter[BuildId] = Counter()
        self.facts = 0

    def tell(self, fact: builds.Fact) -> list[builds.Command]:
        self.facts += 1
        commands = self.machine.handle(fact, self.now)
        for command in commands:
            self.perform(command)
        return commands

    def perform(self, command: builds.Command) -> None:
        match command:
            case Open(build_id):
                assert build_id not in self.open
                alive = [i for i, s in self.open.items() if i.key == build_id.key and s != "ended"]
                assert not alive, "rule 6: one build per key at a time"
                self.open[build_id] = "queued"
            case Start(build_id):
                assert self.open[build_id] == "queued", "started once"
                self.open[build_id] = "started"
            case Stop(build_id):
                assert self.open[build_id] in {"started", "stopping"}
                self.open[build_id] = "stopping"
            case Close(build_id):
                assert self.open[build_id] in {"queued", "stopping"}
                self.open[build_id] = "ended"
            case Forget(build_id):
                assert self.open.pop(build_id) == "ended"
                del self.watchers[build_id]
            case Look(build_id):
                assert self.open[build_id] == "queued"
            case Wait(build_id, place):
                assert self.open[build_id] == "queued"
                assert place >= 1
            case Follow(build_id):
                assert build_id in self.open

    @rule(
        target=ids,
        key=st.sampled_from("abcd"),
        follow=st.sampled_from([None, None, "run1", "run2", "run3"]),
        since=st.floats(0, 20),
    )
    def join(self, key: str, follow: str | None, since: float) -> BuildId:
        before = {i for i, state in self.open.items() if i.key == key and state != "ended"}
        commands = self.tell(Joined(a_request(key, follow), max(0.0, self.now - since)))
        (build_id,) = [command.id for command in commands if isinstance(command, Follow)]
        assert commands[-1] == Follow(build_id)
        assert before in ({build_id}, set()), "who joins a live build follows it"
        self.watchers[build_id] += 1
        return build_id

    @rule(build_id=consumes(ids))
    def leave(self, build_id: BuildId) -> None:
        states = dict(self.open)
        assert self.tell(Left(build_id)) == [], "rule 7"
        assert self.open == states
        if build_id in self.open:
            self.watchers[build_id] -= 1

    @rule(build_id=ids, run=st.sampled_from(["run1", "run2", "run3"]))
    def start(self, build_id: BuildId, run: str) -> None:
        if self.open.get(build_id) == "queued":
            self.open[build_id] = "started"
            others = self.tell(Started(build_id, run))
            assert all(isinstance(command, Wait) for command in others)
        else:
            build = self.machine.get(build_id)
            stopping = self.open.get(build_id) == "stopping"
            late = build if stopping and build is not None and build.run_id != run else None
            told = self.tell(Started(build_id, run))
            assert told == ([Stop(build_id, late.stop_reason)] if late else []), "once a run"

    @rule(build_id=ids)
    def speak(self, build_id: BuildId) -> None:
        assert self.tell(Spoke(build_id)) == []

    @rule(build_id=ids, built=st.booleans())
    def end(self, build_id: BuildId, built: bool) -> None:  # noqa: FBT001 - drawn
        fact = Succeeded(build_id) if built else Failed(build_id)
        others = {i: state for i, state in self.open.items() if i != build_id}
        match self.open.get(build_id):
            case "queued":
                with pytest.raises(IllegalTransition):
                    self.tell(fact)
            case None | "ended":
                assert self.tell(fact) == [], "rule 8"
                assert {i: s for i, s in self.open.items() if i != build_id} == others
            case _:
                self.open[build_id] = "ended"
                self.tell(fact)

    @rule(key=st.sampled_from("abcd"))
    def stop(self, key: str) -> None:
        self.tell(StopAsked(key, "enough"))

    @precondition(lambda self: self.facts)
    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(1000):
            due = self.machine.deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.tell(Ticked())
        else:
            pytest.fail("the alarms never end")
        self.now = end

    @rule(target=ids)
    def nobody(self) -> object:
        return multiple(BuildId("a", 999))

    @invariant()
    def accounts_agree(self) -> None:
        machine = self.machine
        states = Counter(self.open.values())
        assert machine.running == states["started"] + states["stopping"]
        assert machine.queued == states["queued"]
        assert {build.id for build in machine.all()} == set(self.open)
        for build in machine.all():
            assert build.watchers == self.watchers[build.id]
            assert build.state.ended == (self.open[build.id] == "ended")
        places = [b.place for b in machine.all() if b.state is State.QUEUED]
        assert places == list(range(1, len(places) + 1)), "everybody knows their place"
        assert not (machine.queued and machine.running < 2), "no slot stays free"


TestRules = Rules.TestCase
