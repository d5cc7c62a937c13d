"""The rules of order, on the real engine: everything that can happen, at random.

Two servers share one fake engine and a clock that stands still until it is told to go on. Clients
join, leave, come back to either server; connections to the engine break; servers die and come
back; builds fail, hang, are stopped; branches move; images are removed.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import TypeVar

import anyio
import anyio.abc
import trio.testing
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from world import Client, World

from binder_backends.fake import BuilderSettings, LauncherSettings, LaunchScript, LogLine, Script
from binder_core.engine import Binder, Limits
from binder_core.events import Ready
from binder_core.ordering import FINAL, Phase, may_follow

T = TypeVar("T")

REPOS = ("a", "b", "c")
COMMITS = ("c1", "c2")

PHASES = st.sampled_from([None, Phase.FETCHING, Phase.BUILDING, Phase.PUSHING])

scripts = st.builds(
    Script,
    delay=st.sampled_from([0.0, 0.0, 3.0]),
    waiting=st.sampled_from([(), ("the queue is long\n",)]),
    lines=st.integers(0, 30),
    fetching=st.integers(0, 3),
    rate=st.sampled_from([0.0, 1.0, 50.0]),
    layers=st.sampled_from([{}, {"layer": 100}]),
    # Word for word: builds that say phases in any order.
    log=st.none()
    | st.lists(st.builds(LogLine, st.just("a line\n"), PHASES), max_size=12).map(tuple),
    silent=st.sampled_from([0.0, 40.0]),
    fails=st.sampled_from(["", "", "no luck"]),
    start_faults=st.integers(0, 1),
    faults=st.integers(0, 2),
    # From 1: a run that breaks off before anybody heard its name, and fails, is built once more.
    fault_after=st.integers(1, 5),
    twice=st.booleans(),
    again_after=st.integers(0, 8),
)
BACK_AND_FORTH = tuple(
    LogLine(f"line {n}\n", phase)
    for n, phase in enumerate(
        [
            None,
            Phase.FETCHING,
            Phase.BUILDING,
            Phase.FETCHING,
            None,
            Phase.PUSHING,
            Phase.BUILDING,
            None,
        ]
    )
)
launch_scripts = st.builds(
    LaunchScript,
    delay=st.sampled_from([0.0, 5.0]),
    fails=st.sampled_from(["", "", "", "no room"]),
    start_faults=st.integers(0, 1),
    faults=st.integers(0, 1),
)


class Rules(RuleBasedStateMachine):
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.clock = trio.testing.MockClock()
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal("trio", {"clock": self.clock}))
        self.everybody: list[Client] = []
        self.stops: set[str] = set()
        self.launch_failures = False
        self.servers: list[tuple[Binder, AsyncExitStack]] = []
        group = self.portal.call(create_task_group)
        self.group = self.stack.enter_context(self.portal.wrap_async_context_manager(group))
        self.call(self.begin)

    async def begin(self) -> None:
        self.world = World(
            self.group,
            # Slow enough for something to happen meanwhile.
            builder=BuilderSettings(lines=8, rate=1.0, log=BACK_AND_FORTH),
            launcher=LauncherSettings(delay=4.0),
            limits=Limits(max_builds=2, keep_ended=1e6, heartbeat=25, retry_for=60),
            branches={f"{repo}/main": "c1" for repo in REPOS},
        )
        self.servers = [await self.serve(), await self.serve()]

    async def serve(self) -> tuple[Binder, AsyncExitStack]:
        stack = AsyncExitStack()
        # A task group may be left only by the task that entered it.
        started, stop, stopped = anyio.Event(), anyio.Event(), anyio.Event()
        binder = self.world.binder()

        async def run() -> None:
            async with binder:
                started.set()
                await stop.wait()
            stopped.set()

        self.group.start_soon(run)
        await started.wait()
        stack.push_async_callback(stopped.wait)
        stack.callback(stop.set)
        return binder, stack

    def call(self, do: Callable[[], Awaitable[T]]) -> T:
        """Do something, and let everything happen that can without time passing."""

        async def done() -> T:
            result = await do()
            await trio.testing.wait_all_tasks_blocked()
            return result

        return self.portal.call(done)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in steps, so that everybody wakes when they should."""
        end = self.clock.current_time() + seconds
        await trio.testing.wait_all_tasks_blocked()
        while (now := self.clock.current_time()) < end:
            due = trio.lowlevel.current_statistics().seconds_to_next_deadline
            # At least a microsecond: less may be nothing at all, as floats go.
            self.clock.jump(max(1e-6, min(due, end - now)))
            await trio.testing.wait_all_tasks_blocked()

    # -- What can happen ----------------------------------------------------------------------

    @rule(
        target=clients,
        repo=st.sampled_from(REPOS),
        ref=st.sampled_from(["main", "main", "main", "nosuch"]),
        server=st.integers(0, 1),
        build_only=st.booleans(),
    )
    def join(self, repo: str, ref: str, server: int, build_only: bool) -> Client:  # noqa: FBT001 - drawn
        client = Client(f"w/{repo}/{ref}", build_only)
        self.everybody.append(client)

        async def connect() -> None:
            self.world.connect(client, self.servers[server][0])

        self.call(connect)
        return client

    @rule(client=clients)
    def leave(self, client: Client) -> None:
        if client.online:
            self.call(lambda: self.world.leave(client))

    @rule(client=clients, server=st.integers(0, 1))
    def come_back(self, client: Client, server: int) -> None:
        if not client.online:
            ended, told = client.ended, len(client.told)

            async def connect() -> None:
                self.world.connect(client, self.servers[server][0])

            self.call(connect)
            assert not ended or len(client.told) == told, "rule 3: nothing after the last event"

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 1.5, 3.0, 5.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.call(lambda: self.pass_time(seconds))

    @rule(repo=st.sampled_from(REPOS), script=scripts)
    def plan(self, repo: str, script: Script) -> None:
        self.world.engine.scripts[f"http://world/{repo}"] = script

    @rule(repo=st.sampled_from(REPOS), script=launch_scripts)
    def plan_launch(self, repo: str, script: LaunchScript) -> None:
        self.world.engine.launch_scripts[f"http://world/{repo}"] = script
        self.launch_failures |= bool(script.fails)

    @rule()
    def cut(self) -> None:
        async def cut() -> None:
            self.world.engine.cut()

        self.call(cut)

    @rule(seconds=st.sampled_from([0.1, 3.0, 20.0]))
    def outage(self, seconds: float) -> None:
        async def out() -> None:
            self.world.engine.disconnect()
            await self.pass_time(seconds)
            self.world.engine.reconnect()
            # Everybody has found it back before the next one: patience is for one outage.
            await self.pass_time(10)

        self.call(out)

    @rule(server=st.integers(0, 1))
    def restart(self, server: int) -> None:
        async def restart() -> None:
            await self.servers[server][1].aclose()
            self.servers[server] = await self.serve()

        self.call(restart)

    @rule(repo=st.sampled_from(REPOS), commit=st.sampled_from(COMMITS))
    def move_branch(self, repo: str, commit: str) -> None:
        self.world.asker.branches[f"{repo}/main"] = commit

    @precondition(lambda self: self.world.engine.runs)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({run.name for run in self.world.engine.runs})))

        async def stop() -> None:
            for binder, _ in self.servers:
                if await binder.stop_build(name, "Enough."):
                    self.stops.add(name)

        self.call(stop)

    # -- What must hold -----------------------------------------------------------------------

    @invariant()
    def the_rules_hold(self) -> None:
        runs: dict[tuple[str, int], bytes] = {}
        for client in self.everybody:
            for story in stories(client):
                check_story(story)
            for run, told in client.run_lines().items():
                numbers = [n for n, _ in told]
                assert numbers == list(range(1, len(numbers) + 1)), ("rule 5: once, in order", told)
                for n, data in told:
                    assert runs.setdefault((run, n), data) == data, "rule 5: the same events"

    @invariant()
    def one_build_at_a_time(self) -> None:
        for name, count in self.world.engine.watching.items():
            assert count <= len(self.servers) or not name.startswith("build-"), "rule 6"
        for one, other in itertools.combinations(self.world.engine.runs, 2):
            if one.name == other.name:
                first, second = sorted((one, other), key=lambda run: run.asked)
                assert first.end <= second.asked, "rule 6: one build per key at a time"
                assert first.failure(second.asked), "rule 6: none for an image that exists"

    @invariant()
    def nobody_stops_a_build_but_who_may(self) -> None:
        for run in self.world.engine.runs:
            assert run.stopped is None or run.name in self.stops, "rule 7"

    @invariant()
    def one_server_for_each_launch(self) -> None:
        if not self.launch_failures:
            assert all(count == 1 for count in self.world.engine.servers_started.values())

    @invariant()
    def every_server_is_somebodys(self) -> None:
        """Whoever a server was started for can come back to it: nobody gets a second one."""
        known = {name for client in self.everybody for name in client.servers}
        assert set(self.world.engine.servers_started) <= known

    @invariant()
    def nothing_fails_but_builds(self) -> None:
        for client in self.everybody:
            if client.told and client.told[-1].phase is Phase.FAILED:
                message = client.messages[-1]
                known = ("no luck\n", "no room\n", "Enough.\n")
                assert message in known or "knows no" in message, ("rule 9", message)

    def teardown(self) -> None:
        try:
            self.call(self.finish)
            self.the_rules_hold()
            self.nothing_fails_but_builds()
            for client in self.everybody:
                assert client.ended, ("everybody hears the end", client)
                last = client.told[-1].event
                if isinstance(last, Ready) and not client.build_only:
                    assert last.url in {
                        f"http://127.0.0.1:1/user/{name}/" for name in self.world.engine.servers
                    }
        finally:
            self.call(self.end)
            self.stack.close()

    async def finish(self) -> None:
        """Let everybody come back and stay to the end."""
        for _ in range(20):
            for client in self.everybody:
                if not client.online and not client.ended:
                    self.world.connect(client, self.servers[0][0])
            await self.pass_time(200)
            if all(client.ended for client in self.everybody):
                return

    async def end(self) -> None:
        for client in self.everybody:
            if client.online:
                await self.world.leave(client)
        for _, stack in self.servers:
            await stack.aclose()


async def create_task_group() -> anyio.abc.TaskGroup:
    return anyio.create_task_group()


def stories(client: Client) -> list[list[Phase]]:
    """The phases told to a client, cut where a reconnect may begin anew.

    It may where the client had no id to go on with, or where it followed a run and is told of
    another one: the branch moved meanwhile, and a newcomer gets the new build.
    """
    found: list[list[Phase]] = []
    for start, end in itertools.pairwise([*client.starts, len(client.told)]):
        phases = [told.phase for told in client.told[start:end]]
        seen = [told.id for told in client.told[:start] if told.id]
        news = [told.id for told in client.told[start:end] if told.id]
        anew = not seen or (
            not seen[-1].startswith("~") and (not news or run_of(news[0]) != run_of(seen[-1]))
        )
        if found and not (anew and phases[:1] == [Phase.WAITING]):
            found[-1] += phases
        else:
            found.append(phases)
    return found


def run_of(event_id: str) -> str:
    return event_id.partition(".")[0]


def check_story(phases: list[Phase]) -> None:
    before: Phase | None = None
    for phase in phases:
        assert may_follow(before, phase), ("rules 1 to 4", phases)
        before = phase
    assert phases.count(Phase.BUILT) <= 1, "rule 4"
    assert not FINAL & set(phases[:-1]), "rule 3"


Rules.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRules = Rules.TestCase
