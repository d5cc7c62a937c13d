"""Slots, the queue for them, and builds that take too long."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from world import Client, World, until

from binder_backends.fake import BuilderSettings, Script
from binder_core.builds import State
from binder_core.engine import Binder, Limits

pytestmark = pytest.mark.anyio

BRANCHES = {f"repo{i}/main": "c0ffee" for i in range(5)}


def a_world(tasks: anyio.abc.TaskGroup, builder: BuilderSettings, **limits: float) -> World:
    return World(tasks, builder=builder, limits=Limits(**limits), branches=dict(BRANCHES))  # type: ignore[arg-type] # numbers all


def told(client: Client, words: str) -> bool:
    return words in client.messages[-1]


async def all_watched(world: World, binder: Binder, count: int) -> list[Client]:
    """Return the watchers of so many builds, joined one after another."""
    clients: list[Client] = []
    for i in range(count):
        clients.append(world.watch(binder, f"w/repo{i}/main"))
        await until(lambda: len(clients[-1].told) > 0)
    return clients


async def test_no_more_builds_run_than_there_are_slots() -> None:
    async with anyio.create_task_group() as tasks:
        world = a_world(tasks, BuilderSettings(lines=5, rate=200.0), max_builds=2)
        async with world.binder() as binder:
            clients = [world.watch(binder, f"w/repo{i}/main") for i in range(5)]
            for client in clients:
                await client.done.wait()
                assert client.phases[-1] == "ready"
                client.check_order()
        times = [(run.begins, run.end) for run in world.engine.runs]
        at_once = max(sum(one <= begin < end for one, end in times) for begin, _ in times)
        assert len(times) == 5
        assert at_once <= 2


async def test_each_place_is_told_as_it_changes_and_who_comes_late_hears_the_last() -> None:
    async with anyio.create_task_group() as tasks:
        world = a_world(tasks, BuilderSettings(ends=False), max_builds=1)
        async with world.binder() as binder:
            clients = await all_watched(world, binder, 4)
            last = clients[3]
            assert "number 3 in the queue" in last.messages[0]
            for place, build in zip((2, 1), binder.builds, strict=False):
                assert await binder.stop_build(build.name)
                await until(partial(told, last, f"number {place} "))
            late = world.watch(binder, "w/repo3/main")
            await until(lambda: bool(late.told))
            assert late.messages == [last.messages[-1]]
            assert await binder.stop_build(binder.builds[2].name)
            await until(lambda: "building" in late.phases and "building" in last.phases)
            # Whoever comes while it builds hears no place at which it once was but the last.
            later = world.watch(binder, "w/repo3/main")
            await until(lambda: "building" in later.phases)
            assert later.messages[: len(late.messages)] == late.messages
            await binder.stop_builds()


async def test_a_build_that_leaves_the_queue_moves_the_others_up() -> None:
    async with anyio.create_task_group() as tasks:
        world = a_world(tasks, BuilderSettings(ends=False), max_builds=1)
        async with world.binder() as binder:
            clients = await all_watched(world, binder, 3)
            assert await binder.stop_build(binder.builds[1].name, "Not this one.")
            await clients[1].done.wait()
            assert clients[1].messages[-1] == "Not this one.\n"
            await until(lambda: "number 1 " in clients[2].messages[-1])
            await binder.stop_builds()


async def test_watchers_of_a_build_on_another_server_need_no_slot() -> None:
    async with anyio.create_task_group() as tasks:
        world = a_world(tasks, BuilderSettings(ends=False), max_builds=1)
        async with world.binder() as one, world.binder() as other:
            first = world.watch(one, "w/repo0/main")
            await until(lambda: "building" in first.phases)
            full = world.watch(other, "w/repo1/main")
            await until(lambda: "building" in full.phases)
            second = world.watch(other, "w/repo0/main")
            await until(lambda: "building" in second.phases)
            assert second.run_lines().keys() == first.run_lines().keys()
            assert world.engine.runs_started.total() == 2
            await one.stop_builds()
            await other.stop_builds()
            for client in (first, second, full):
                await client.done.wait()


async def test_an_id_that_somebody_made_up_starts_nothing_past_the_queue() -> None:
    async with anyio.create_task_group() as tasks:
        world = a_world(tasks, BuilderSettings(ends=False), max_builds=1)
        async with world.binder() as binder:
            (first,) = await all_watched(world, binder, 1)
            sly = Client("w/repo1/main")
            sly.last_id = "made-up.1"
            world.connect(sly, binder)
            await until(lambda: bool(sly.told))
            assert "number 1 in the queue" in sly.messages[0]
            assert world.engine.runs_started.total() == 1
            assert await binder.stop_build(binder.builds[0].name)
            await until(lambda: "building" in sly.phases)
            await binder.stop_builds()
            await first.done.wait()


async def test_who_comes_back_to_a_run_goes_on_though_all_slots_are_taken() -> None:
    async with anyio.create_task_group() as tasks:
        world = a_world(tasks, BuilderSettings(lines=20, rate=100.0), max_builds=1)
        world.engine.scripts["http://world/repo1"] = Script(ends=False)
        async with world.binder() as one:
            client = world.watch(one, "w/repo0/main")
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 5)
        async with world.binder() as other:
            full = world.watch(other, "w/repo1/main")
            await until(lambda: "building" in full.phases)
            world.connect(client, other)
            await client.done.wait()
            assert [n for n, _ in client.run_lines()["run-1"]] == list(range(1, 21))
            assert client.phases[-1] == "ready"
            await other.stop_builds()


async def test_an_engine_that_cannot_be_asked_leaves_a_build_in_the_queue() -> None:
    async with anyio.create_task_group() as tasks:
        world = a_world(tasks, BuilderSettings(ends=False), max_builds=1, retry_for=0.05)
        async with world.binder() as binder:
            (first,) = await all_watched(world, binder, 1)
            await until(lambda: "building" in first.phases)
            world.engine.scripts["http://world/repo1"] = Script(ends=False, start_faults=1)
            second = world.watch(binder, "w/repo1/main")
            await until(lambda: bool(second.told))
            await binder.stop_build(binder.builds[0].name)
            await until(lambda: "building" in second.phases)
            await binder.stop_builds()


@pytest.mark.parametrize(
    ("limit", "says"),
    [("build_timeout", "it took longer than 0.2 s"), ("build_silence", "no word of it for 0.2 s")],
)
async def test_a_build_that_is_too_old_or_too_silent_is_stopped_and_says_so(
    limit: str, says: str
) -> None:
    async with anyio.create_task_group() as tasks:
        world = a_world(tasks, BuilderSettings(lines=3, ends=False), **{limit: 0.2})
        async with world.binder() as binder:
            client = world.watch(binder, "w/repo0/main")
            await client.done.wait()
            assert says in client.messages[-1]
            assert client.phases[-1] == "failed"
            assert world.engine.runs[0].stopped is not None, "the engine was told"
            assert binder.builds[0].state is State.FAILED
        others = Client("w/repo0/main", last_id="run-1.1")
        async with world.binder() as other:
            world.connect(others, other)
            await others.done.wait()
        assert says in others.messages[-1], "another server tells the same"
