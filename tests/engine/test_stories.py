"""One request's story, on the fake backend."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest
from world import Client, World, until

from binder_backends.fake import BuilderSettings, LauncherSettings, Script
from binder_core.engine import Limits
from binder_core.events import Failed, Ready
from binder_core.ordering import Phase
from binder_core.plugin import BackendUnavailable, BuildFailed, BuildRequest, Report

pytestmark = pytest.mark.anyio


ALL = ["waiting", "fetching", "building", "pushing", "built", "launching", "ready"]


async def test_a_build_is_told_from_waiting_to_ready() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(layers={"abc": 100}))
        async with world.binder() as binder:
            client = world.watch(binder)
            await client.done.wait()
        assert client.phases == ALL
        client.check_order()
        ready = client.told[-1].event
        assert isinstance(ready, Ready)
        server = world.engine.servers["repo-u0"]
        assert (ready.url, ready.token) == (
            "http://127.0.0.1:1/user/repo-u0/",
            server.request.token,
        )
        assert ready.binder_request == "v2/w/repo/main"
        assert ready.binder_persistent_request == "v2/w/repo/c0ffee"
        assert ready.binder_launch_host == "http://here/"
        assert ready.repo_url == "http://world/repo"


async def test_an_image_that_exists_is_launched_and_never_built() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(images=("*",)))
        async with world.binder() as binder:
            client = world.watch(binder)
            await client.done.wait()
        assert client.phases == ["built", "launching", "ready"]
        assert not world.engine.runs


async def test_build_only_ends_with_the_image() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks)
        async with world.binder(launcher=False) as binder:
            client = world.watch(binder, build_only=True)
            await client.done.wait()
            ready = client.told[-1].event
            assert isinstance(ready, Ready)
            assert ready.image_name == world.engine.runs[0].request.image
            assert client.phases[-2:] == ["built", "ready"]
            refused = world.watch(binder)
            await refused.done.wait()
        assert refused.phases == ["built", "failed"]


async def test_two_hundred_ask_at_once_and_one_build_serves_them() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=50, rate=200.0))
        world.asker.delay = 0.01
        async with world.binder() as binder:
            clients = [world.watch(binder) for _ in range(200)]
            for client in clients:
                await client.done.wait()
        assert len(world.engine.runs) == 1
        assert world.asker.asked.total() == 1
        assert world.engine.exists_calls.total() == 1
        stories = {str(client.run_lines()) for client in clients}
        assert len(stories) == 1
        assert len(clients[0].run_lines()["run-1"]) == 50
        assert len(world.engine.servers) == 200


async def test_a_late_watcher_hears_everything_and_the_leaving_of_the_first_changes_nothing() -> (
    None
):
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=20, rate=100.0))
        async with world.binder() as binder:
            first = world.watch(binder)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 5)
            await world.leave(first)
            assert binder.builds[0].watchers == 0
            late = world.watch(binder)
            await late.done.wait()
        assert [n for n, _ in late.run_lines()["run-1"]] == list(range(1, 21))
        assert not world.engine.runs[0].stopped


async def test_a_reconnect_on_another_server_gets_the_rest() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=20, rate=100.0))
        async with world.binder() as one:
            client = world.watch(one)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 5)
        assert not client.ended
        async with world.binder() as other:
            world.connect(client, other)
            await client.done.wait()
        assert [n for n, _ in client.run_lines()["run-1"]] == list(range(1, 21))
        client.check_order()
        assert len(world.engine.runs) == 1
        assert client.ended


async def test_a_reconnect_after_the_build_ended_gets_the_rest_of_that_run() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=20, rate=100.0, fails="no luck"))
        async with world.binder() as one:
            client = world.watch(one)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 5)
        await anyio.sleep(0.3)  # the run goes on with no server at all
        async with world.binder() as other:
            world.connect(client, other)
            await client.done.wait()
            assert client.messages[-1] == "no luck\n"
            assert [n for n, _ in client.run_lines()["run-1"]] == list(range(1, 22))
            assert len(world.engine.runs) == 1
            assert other.had_ended(client.request())
            newcomer = world.watch(other)
            await newcomer.done.wait()
        assert len(world.engine.runs) == 2


async def test_a_reconnect_while_launching_finds_the_same_server() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(
            tasks, builder=BuilderSettings(images=("*",)), launcher=LauncherSettings(delay=0.2)
        )
        async with world.binder() as one:
            client = world.watch(one)
            await world.engine.until(lambda: bool(world.engine.servers))
            await until(lambda: Phase.LAUNCHING in client.phases)
        world.asker.branches["repo/main"] = "badbad"  # the branch moves meanwhile
        async with world.binder() as other:
            world.connect(client, other)
            await client.done.wait()
            ready = client.told[-1].event
            assert isinstance(ready, Ready)
            assert len(world.engine.servers) == 1
            (server,) = world.engine.servers.values()
            assert ready.token == server.request.token
            assert ready.binder_persistent_request == "v2/w/repo/c0ffee"
            assert other.had_ended(client.request())
            assert client.phases == ["built", "launching", "ready"]


async def test_who_heard_that_it_is_built_comes_back_to_the_same_launch() -> None:
    async with anyio.create_task_group() as tasks:
        # The launcher has said nothing yet when the connection breaks.
        world = World(tasks, launcher=LauncherSettings(delay=0.2, messages=()))
        async with world.binder() as one:
            client = world.watch(one)
            await until(lambda: Phase.BUILT in client.phases)
            await world.engine.until(lambda: bool(world.engine.servers))
            await world.leave(client)
        async with world.binder() as other:
            world.connect(client, other)
            await client.done.wait()
        assert client.phases[-2:] == ["built", "ready"]
        client.check_order()
        assert set(world.engine.servers_started) == client.servers
        assert len(client.servers) == 1


@pytest.mark.parametrize("fails", ["", "no luck"])
@pytest.mark.parametrize("build_only", [False, True])
async def test_a_log_that_is_gone_has_an_outcome_all_the_same(
    fails: str,
    build_only: bool,  # noqa: FBT001
) -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=20, rate=100.0, fails=fails))
        async with world.binder() as one:
            client = world.watch(one, build_only=build_only)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 5)
        binder = world.binder()

        async def forgotten(request: BuildRequest, report: Report) -> None:
            report.started("run-1")
            if fails:
                raise BuildFailed(fails)
            world.engine.images.add(request.image)

        vars(binder.builder)["build"] = forgotten
        async with binder:
            world.connect(client, binder)
            await client.done.wait()
        client.check_order()
        assert client.phases[-1] == ("failed" if fails else "ready")
        assert client.phases.count(Phase.BUILT) == (not fails)


async def test_a_build_that_is_stopped_while_it_is_being_started_does_not_go_on() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=5, ends=False))
        binder = world.binder()
        build, asked, go = binder.builder.build, anyio.Event(), anyio.Event()

        async def slow(request: BuildRequest, report: Report) -> None:
            asked.set()
            await go.wait()
            await build(request, report)

        vars(binder.builder)["build"] = slow
        async with binder:
            client = world.watch(binder)
            await asked.wait()
            assert await binder.stop_build(binder.builds[0].name, "Enough.")
            await anyio.wait_all_tasks_blocked()
            go.set()
            await client.done.wait()
            assert client.messages[-1] == "Enough.\n"
            (run,) = world.engine.runs
            assert run.stop_reason == "Enough."


async def test_a_launch_that_was_given_up_leaves_no_server() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(
            tasks,
            builder=BuilderSettings(images=("*",)),
            launcher=LauncherSettings(faults=1000),
            limits=Limits(retry_for=0.1),
        )
        async with world.binder() as binder:
            client = world.watch(binder)
            await client.done.wait()
            assert client.phases[-1] == "failed"
            await world.engine.until(lambda: not world.engine.servers)
        assert world.engine.servers_started.total() == 1


async def test_what_is_left_of_a_launch_is_not_asked_for_without_a_pause() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(
            tasks,
            builder=BuilderSettings(images=("*",)),
            launcher=LauncherSettings(faults=1000),
            limits=Limits(retry_for=0.1),
        )
        binder = world.binder()
        stops = 0

        async def away(_: object) -> None:
            nonlocal stops
            stops += 1
            await anyio.lowlevel.checkpoint()
            raise BackendUnavailable("The engine is away.")

        vars(binder.launcher)["stop"] = away
        async with binder:
            await world.watch(binder).done.wait()
            await until(lambda: stops > 0)
            with anyio.fail_after(5):
                await anyio.wait_all_tasks_blocked()
            assert stops == 1


@pytest.mark.parametrize("spec", ["w/repo/nosuch", "x/repo/main", "w/" + "x" * 5000])
async def test_errors_are_one_last_event(spec: str) -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks)
        async with world.binder() as binder:
            client = world.watch(binder, spec)
            await client.done.wait()
            assert client.phases == ["failed"]
            failed = client.told[0].event
            assert isinstance(failed, Failed)
            assert failed.status_code in {400, 404}
            assert binder.had_ended(client.request())


async def test_a_queue_tells_places_and_images_that_exist_do_not_wait() -> None:
    async with anyio.create_task_group() as tasks:
        branches = {f"repo{i}/main": "c0ffee" for i in range(4)}
        world = World(
            tasks,
            builder=BuilderSettings(ends=False, scripts={"repo3*": Script(exists=True)}),
            limits=Limits(max_builds=1),
            branches=branches,
        )
        async with world.binder() as binder:
            clients: list[Client] = []
            for i in range(3):
                clients.append(world.watch(binder, f"w/repo{i}/main"))
                await until(lambda: len(binder.builds) == len(clients))
            found = world.watch(binder, "w/repo3/main")
            await found.done.wait()
            assert found.phases == ["built", "launching", "ready"]
            assert binder.in_progress == (3, 0)
            for client, build in zip(clients, binder.builds, strict=True):
                await until(partial(world.engine.runs_started.__contains__, build.name))
                await binder.stop_build(build.name)
                await client.done.wait()
        told = "".join(clients[2].messages)
        assert told.index("number 2 in the queue") < told.index("number 1 in the queue")


async def test_a_broken_backend_is_tried_again_and_is_no_fault_of_the_build() -> None:
    async with anyio.create_task_group() as tasks:
        script = BuilderSettings(lines=20, rate=100.0, start_faults=1, exists_faults=1)
        world = World(tasks, builder=script, launcher=LauncherSettings(start_faults=1, faults=1))
        async with world.binder() as binder:
            client = world.watch(binder)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 3)
            world.engine.cut()
            await client.done.wait()
        client.check_order()
        assert client.phases[-1] == "ready"
        assert [n for n, _ in client.run_lines()["run-1"]] == list(range(1, 21))
        assert len(world.engine.servers) == 1


async def test_a_backend_that_stays_away_fails_with_its_reason() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(
            tasks, builder=BuilderSettings(down="no engine"), limits=Limits(retry_for=0.1)
        )
        async with world.binder() as binder:
            client = world.watch(binder)
            await client.done.wait()
        failed = client.told[-1].event
        assert isinstance(failed, Failed)
        assert (failed.message, failed.status_code) == ("no engine\n", 503)


async def test_a_stopped_build_says_so_and_the_next_one_is_new() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=5, ends=False))
        async with world.binder() as binder:
            client = world.watch(binder)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 5)
            assert await binder.stop_build(binder.builds[0].name, "Enough.")
            await client.done.wait()
            assert client.messages[-1] == "Enough.\n"
            again = world.watch(binder)
            await world.engine.until(lambda: world.engine.told.get("run-2", 0) >= 5)
            await binder.stop_builds()
            await again.done.wait()
            assert again.phases[-1] == "failed"
            assert not await binder.stop_build("no such build")


async def test_a_launch_that_hangs_fails_in_time_and_leaves_no_server() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(
            tasks,
            builder=BuilderSettings(images=("*",)),
            launcher=LauncherSettings(ends=False),
            limits=Limits(launch_timeout=0.05),
        )
        async with world.binder() as binder:
            client = world.watch(binder)
            await client.done.wait()
            assert client.messages[-1] == "The server did not start within 0.05 s.\n"
        assert not world.engine.servers


async def test_silence_has_a_heartbeat() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(ends=False), limits=Limits(heartbeat=0.01))
        async with world.binder() as binder:
            client = world.watch(binder)
            await until(lambda: client.heartbeats >= 3)
            binder.drain()
            await client.done.wait()
            assert not client.ended
            assert client.last_id == "run-1.10"
            assert not world.engine.runs[0].stopped
            late = Client("w/repo/main")
            world.connect(late, binder)
            await late.done.wait()
            assert late.told == []


async def test_an_embedder_gets_typed_events() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks)
        async with world.binder() as binder:
            events = [event async for event in binder.launch("w/repo/main")]
        assert isinstance(events[-1], Ready)


async def test_what_backends_raise_unexpectedly_stays_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks)
        binder = world.binder()

        async def fall(*_: object) -> None:
            raise KeyError("secret")

        vars(binder.builder)["build"] = fall  # a plug-in with a fault
        async with binder:
            client = world.watch(binder)
            await client.done.wait()
        assert "secret" not in "".join(client.messages)
        assert client.phases == ["waiting", "failed"]
        assert "internal error" in caplog.text


async def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(ends=False))
        with pytest.raises(ValueError, match="mine"):
            async with world.binder() as binder:
                client = world.watch(binder)
                await world.engine.until(lambda: bool(world.engine.told))
                raise ValueError("mine")
        await client.done.wait()
        assert not client.ended


async def test_a_cancelled_binder_lets_go() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(ends=False))
        with anyio.CancelScope() as scope:
            async with world.binder() as binder:
                client = world.watch(binder)
                await world.engine.until(lambda: bool(world.engine.told))
                scope.cancel()
                await anyio.sleep_forever()
        await client.done.wait()
        assert not client.ended
        assert not world.engine.runs[0].stopped


async def test_a_service_that_is_away_fails_a_newcomer_but_nobody_who_comes_back() -> None:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, builder=BuilderSettings(lines=20, rate=100.0))
        async with world.binder() as one:
            client = world.watch(one)
            await world.engine.until(lambda: world.engine.told.get("run-1", 0) >= 5)
        world.asker.away = True
        async with world.binder() as other:
            world.connect(client, other)
            newcomer = world.watch(other)
            await client.done.wait()
            await newcomer.done.wait()
            assert newcomer.phases == ["failed"]
            assert not client.ended
            world.asker.away = False
            world.connect(client, other)
            await client.done.wait()
        assert [n for n, _ in client.run_lines()["run-1"]] == list(range(1, 21))
        client.check_order()
