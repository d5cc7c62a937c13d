"""What an operator sees of builds, and does with them."""

from __future__ import annotations

import anyio
import pytest
from world import World, until

from binder_backends.fake import BuilderSettings
from binder_core.builds import State
from binder_core.engine import Binder, Limits
from binder_core.errors import NoSuchBuild
from binder_core.events import Building, Built, Failed
from binder_core.plugin import BuildRun
from binder_core.resume import LogCursor

pytestmark = pytest.mark.anyio

SLOW = BuilderSettings(lines=10, ends=False)


async def words(binder: Binder, name: str, *, follow: bool = False) -> list[str]:
    """Return what is told of a build, heartbeats left out."""
    stream = binder.operator.log(name, follow=follow)
    return [told.event.message async for batch in stream for told in batch]


async def test_builds_are_listed_with_where_they_stand() -> None:
    async with anyio.create_task_group() as tasks:
        branches = {"one/main": "c1", "two/main": "c2"}
        world = World(tasks, builder=SLOW, limits=Limits(max_builds=1), branches=branches)
        async with world.binder() as binder:
            first = world.watch(binder, "w/one/main")
            await until(lambda: "building" in first.phases)
            second = world.watch(binder, "w/two/main")
            await until(lambda: bool(second.told))
            found = await binder.operator.list()
            assert found.complete
            running, queued = found.builds
            assert (running.provider, running.repo_url, running.ref) == (
                "w",
                "http://world/one",
                "c1",
            )
            assert (running.state, running.phase, running.place, running.run_id) == (
                State.RUNNING,
                "building",
                None,
                "run-1",
            )
            assert running.watchers == 1
            assert running.age is not None
            assert (queued.state, queued.phase, queued.place, queued.run_id) == (
                State.QUEUED,
                "waiting",
                1,
                None,
            )
            assert not running.elsewhere
            assert [word for word in await words(binder, queued.name) if "number 1 " in word]
            await binder.stop_builds()
            told = (await binder.operator.list()).builds
            assert [build.state for build in told] == [State.FAILED, State.FAILED]
            assert [build.phase for build in told] == ["failed", "failed"]


async def test_runs_of_other_servers_are_listed_read_and_stopped() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=SLOW)
        async with world.binder() as one, world.binder() as other:
            client = world.watch(one)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 10)
            (build,) = (await other.operator.list()).builds
            assert (build.elsewhere, build.run_id, build.phase) == (True, "run-1", None)
            assert build.name == one.builds[0].name
            assert other.builds == [], "who lists follows nothing"
            told = await words(other, build.name)
            assert told == [line for line in client.messages if line in told]
            assert len(told) == 10
            assert other.builds == [], "nor does who reads"
            assert await other.operator.stop(build.name, "Enough.")
            await client.done.wait()
            assert client.messages[-1] == "Enough.\n"
            assert (await other.operator.list()).builds == []


async def test_a_run_that_a_dead_server_left_behind_is_found() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=SLOW)
        async with world.binder() as dead:
            world.watch(dead)
            await world.engine.until(lambda: bool(world.engine.told))
        async with world.binder() as binder:
            (build,) = (await binder.operator.list()).builds
            assert build.elsewhere
            assert await binder.operator.stop(build.name, "Nobody needs it.")
            assert (await binder.operator.list()).builds == []
        assert world.engine.runs[0].stop_reason == "Nobody needs it."


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("fails", ["", "no luck"])
async def test_a_log_is_followed_to_the_end(elsewhere: bool, fails: str) -> None:  # noqa: FBT001
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=20, rate=40.0, fails=fails))
        async with world.binder() as one, world.binder() as other:
            client = world.watch(one, build_only=True)
            await world.engine.until(lambda: bool(world.engine.told))
            binder = other if elsewhere else one
            stream = binder.operator.log(one.builds[0].name, follow=True)
            told = [told.event async for batch in stream for told in batch]
            await client.done.wait()
        lines = [event for event in told if isinstance(event, Building)]
        last = told[-1]
        assert len(lines) >= 10
        assert isinstance(last, Failed if fails else Built)
        assert not fails or last.message == "no luck\n"
        assert world.engine.runs_started.total() == 1
        assert one.builds[0].watchers == 0


@pytest.mark.parametrize("ended", [False, True])
async def test_another_server_goes_on_with_a_log(ended: bool) -> None:  # noqa: FBT001
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=10, ends=ended))
        async with world.binder() as dead:
            client = world.watch(dead, build_only=True)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 10)
            name, image = dead.builds[0].name, dead.builds[0].image
            if ended:
                await client.done.wait()
        async with world.binder() as binder:
            behind = LogCursor("run-1", 7)
            stream = binder.operator.log(name, follow=ended, after=behind, image=image)
            told = [told async for batch in stream for told in batch]
            expected = [f"run-1.{n}" for n in (8, 9, 10)] + ["run-1.11.built"] * ended
            assert [one.id for one in told] == expected
            assert not ended or isinstance(told[-1].event, Built)
            # Nobody knows that run: nothing is made up of it, and none is started.
            stream = binder.operator.log("build-x", follow=True, after=behind, image="i")
            (last,) = [told.event async for batch in stream for told in batch]
            assert isinstance(last, Failed)
            assert "nobody knows how" in last.message
            if ended:
                with pytest.raises(NoSuchBuild):
                    await anext(binder.operator.log(name, follow=True, after=behind))
            assert world.engine.runs_started.total() == 1
        async with world.binder() as last_one:
            await last_one.operator.stop(name, "Enough.")


async def test_a_log_that_is_not_followed_ends_with_what_there_is() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=SLOW)
        async with world.binder() as binder:
            client = world.watch(binder)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 10)
            await until(lambda: len(client.run_lines().get("run-1", ())) >= 10)
            told = await words(binder, binder.builds[0].name)
            assert told == client.messages
            await binder.stop_builds()
            assert (await words(binder, binder.builds[0].name))[-1] == "The server was stopped.\n"


async def test_what_is_not_there_is_not_read_or_stopped() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks)
        async with world.binder() as binder:
            assert not await binder.operator.stop("build-x", "Enough.")
            with pytest.raises(NoSuchBuild):
                await words(binder, "build-x")


async def test_an_engine_that_is_away_leaves_the_list_of_this_server() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=SLOW)
        async with world.binder() as binder:
            client = world.watch(binder)
            await until(lambda: "building" in client.phases)
            world.engine.disconnect("the engine is away")
            found = await binder.operator.list()
            assert (found.complete, found.message) == (False, "the engine is away")
            assert len(found.builds) == 1
            world.engine.reconnect()


async def test_a_builder_that_cannot_tell_says_so() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks)
        binder = world.binder()

        async def nobody_knows() -> None:
            return None

        vars(binder.builder)["under_way"] = nobody_knows
        async with binder:
            found = await binder.operator.list()
            assert not found.complete
            assert found.message


async def test_a_run_that_vanishes_while_it_is_read_is_not_called_built() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks)
        async with world.binder() as binder:

            async def ghost() -> list[BuildRun]:
                return [BuildRun("build-x", "gone", "image-x")]

            vars(binder.builder)["under_way"] = ghost
            (word,) = (await words(binder, "build-x", follow=True))[-1:]
        assert "nobody knows how" in word
        assert not world.engine.runs, "who reads starts nothing"


async def test_a_reader_who_leaves_changes_nothing() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=5, ends=False))
        async with world.binder() as one, world.binder() as other:
            world.watch(one)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 5)
            name = one.builds[0].name
            stream = other.operator.log(name, follow=True)
            assert await anext(stream)
            await world.engine.until(lambda: world.engine.watching[name] == 2)
            await stream.aclose()
            await world.engine.until(lambda: world.engine.watching[name] == 1)
            assert world.engine.runs[0].stopped is None
            await one.stop_builds()
