from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup

from binder_backends.fake import (
    BuilderSettings,
    FakeBuilder,
    FakeClock,
    FakeEngine,
    FakeLauncher,
    LauncherSettings,
    LaunchScript,
    LogLine,
    Script,
)
from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    LaunchFailed,
    LaunchRequest,
    LayerProgress,
    Phase,
)
from binder_core.testing import LaunchLog, StrictReport

pytestmark = pytest.mark.anyio

REQUEST = BuildRequest("build", "image:abc", "https://example.org/repo", "abc")
LAUNCH = LaunchRequest("server", "image:abc", token="s3cret")


class Calls:
    """Calls of the fakes under way, on a clock turned by hand."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.clock = FakeClock()
        self.engine = FakeEngine(clock=self.clock, ident="e")
        self.ends: list[tuple[float, object]] = []
        """When each call ended and how."""
        self._tasks = tasks

    def build(self, request: BuildRequest = REQUEST, **settings: Any) -> StrictReport:
        report = StrictReport()
        builder = FakeBuilder(msgspec.convert(settings, BuilderSettings), self.engine)
        self._tasks.start_soon(self._end, builder.build, request, report)
        return report

    def launch(self, **settings: Any) -> LaunchLog:
        log = LaunchLog()
        launcher = FakeLauncher(msgspec.convert(settings, LauncherSettings), self.engine)
        self._tasks.start_soon(self._end, launcher.launch, LAUNCH, log)
        return log

    async def _end(self, call: Any, *arguments: object) -> None:
        try:
            result = await call(*arguments)
        except (BuildFailed, LaunchFailed, BackendUnavailable) as error:
            self.ends.append((self.clock.now, f"{type(error).__name__}: {error}"))
        else:
            self.ends.append((self.clock.now, result))


@asynccontextmanager
async def calls() -> AsyncIterator[Calls]:
    async with anyio.create_task_group() as tasks:
        yield Calls(tasks)
        tasks.cancel_scope.cancel()


async def test_lines_come_at_their_rate() -> None:
    async with calls() as fakes:
        report = fakes.build(lines=5, fetching=1, rate=2.0)
        seen = []
        for _ in range(6):
            await fakes.clock.elapse(0.5)
            seen.append(len(report.lines))
        assert seen == [2, 3, 4, 5, 5, 5]
        assert fakes.ends == [(2.5, None)]
        assert [line.phase for line in report.story[1]] == [Phase.FETCHING, *[Phase.BUILDING] * 4]


@pytest.mark.parametrize("rate", [3.0, 7.0, 0.1, 1e6])
def test_a_line_is_there_at_its_time(rate: float) -> None:
    script = Script(lines=2000, rate=rate)
    for n in range(1, 2001):
        assert script.lines_at(script.time_of(n)) == n
    assert script.lines_at(-0.1) == 0
    assert script.lines_at(1e9) == 2000


async def test_a_push_tells_its_bytes() -> None:
    async with calls() as fakes:
        report = fakes.build(lines=0, layers={"a1": 1000}, layers_there=["b2"], push_steps=2)
        await fakes.clock.elapse(0)
        there = "Layer already exists"
        assert [(line.phase, line.progress) for line in report.story[1]] == [
            (Phase.PUSHING, {"a1": LayerProgress(500, 1000), "b2": there}),
            (Phase.PUSHING, {"a1": "Pushed", "b2": there}),
        ]


async def test_a_log_word_for_word() -> None:
    log = (LogLine("12345\n"), LogLine("100%\r", Phase.PUSHING, {"a1": "Pushed"}))
    async with calls() as fakes:
        report = fakes.build(log=log)
        await fakes.clock.elapse(0)
        told = [(line.n, line.message, line.phase, line.progress) for line in report.story[1]]
        assert told == [
            (1, *msgspec.structs.astuple(log[0])),
            (2, *msgspec.structs.astuple(log[1])),
        ]


async def test_a_run_waits_in_its_queue() -> None:
    async with calls() as fakes:
        report = fakes.build(delay=3.0, waiting=["third", "second", "first"])
        await fakes.clock.elapse(1.5)
        assert report.queue == ["third", "second"]
        assert report.story == (None, ())
        await fakes.clock.elapse(1.5)
        assert report.queue == ["third", "second", "first"]
        assert str(report.run_id) == "e-1"
        assert fakes.ends == [(3.0, None)]


async def test_a_run_stopped_in_its_queue_never_was() -> None:
    async with calls() as fakes:
        report = fakes.build(delay=3.0)
        await fakes.clock.elapse(1.0)
        await FakeBuilder(BuilderSettings(), fakes.engine).stop(REQUEST, "The build was stopped.")
        await fakes.clock.elapse(5.0)
        assert fakes.ends == [(1.0, "BuildFailed: The build was stopped.")]
        assert report.story == (None, ())


async def test_a_run_that_never_ends() -> None:
    async with calls() as fakes:
        report = fakes.build(lines=2, ends=False)
        await fakes.clock.elapse(1e9)
        assert (len(report.lines), fakes.ends) == (2, [])


async def test_a_silent_run_ends_late() -> None:
    async with calls() as fakes:
        fakes.build(silent=60.0, fails="too little memory")
        await fakes.clock.elapse(100.0)
        assert fakes.ends == [(60.0, "BuildFailed: too little memory")]


async def test_a_connection_breaks_and_the_run_goes_on() -> None:
    broke = "BackendUnavailable: the connection to the fake engine broke"
    async with calls() as fakes:
        settings: dict[str, Any] = {"lines": 4, "rate": 1.0, "faults": 2, "fault_after": 2}
        first = fakes.build(**settings)
        await fakes.clock.elapse(2.5)
        assert (len(first.lines), fakes.ends) == (2, [(1.0, broke)])
        second = fakes.build(**settings)
        await fakes.clock.elapse(0.1)
        assert (len(second.lines), fakes.ends[1:]) == (2, [(2.5, broke)])
        third = fakes.build(**settings)
        await fakes.clock.elapse(10.0)
        assert fakes.ends[2:] == [(4.0, None)]
        assert third.story[1][:2] == first.story[1]
        assert fakes.engine.runs_started == {"build": 1}


async def test_the_engine_is_gone_before_anything_is_started() -> None:
    async with calls() as fakes:
        fakes.build(start_faults=1)
        await fakes.clock.elapse(0)
        assert fakes.ends == [(0.0, "BackendUnavailable: the fake engine does not answer")]
        assert not fakes.engine.runs
        fakes.build(start_faults=1)
        await fakes.clock.elapse(0)
        assert fakes.ends[1:] == [(0.0, None)]


async def test_cut_and_disconnect_break_every_call() -> None:
    async with calls() as fakes:
        fakes.build(rate=1.0)
        fakes.launch(delay=20.0)
        await fakes.clock.elapse(1.0)
        fakes.engine.cut()
        await fakes.clock.elapse(1.0)
        assert [when for when, _ in fakes.ends] == [1.0, 1.0]
        again = fakes.build()
        fakes.launch()
        await fakes.clock.elapse(1.0)
        fakes.engine.disconnect("the cable is out")
        await fakes.clock.elapse(1.0)
        assert fakes.ends[2:] == [(3.0, "BackendUnavailable: the cable is out")] * 2
        fakes.build()
        await fakes.clock.elapse(1.0)
        assert fakes.ends[4:] == [(4.0, "BackendUnavailable: the cable is out")]
        fakes.engine.reconnect()
        later = fakes.build()
        await fakes.clock.elapse(20.0)
        assert fakes.ends[5:] == [(10.0, None)]
        assert later.story[1][: len(again.lines)] == again.story[1]


async def test_lines_come_twice_and_again() -> None:
    told: list[object] = []

    class Report(StrictReport):
        def started(self, run_id: str) -> None:
            told.append(run_id)
            super().started(run_id)

        def line(self, n: int, message: str, **more: Any) -> None:
            told.append(n)
            super().line(n, message, **more)

    builder = FakeBuilder(
        BuilderSettings(lines=3, twice=True, again_after=2), FakeEngine(ident="e")
    )
    report = Report()
    await builder.build(REQUEST, report)
    assert told == ["e-1", 1, 1, 2, 2, "e-1", 1, 1, 2, 2, 3, 3]
    assert (list(report.lines), report.faults) == ([1, 2, 3], [])


async def test_scripts_are_picked_by_what_a_request_goes_by() -> None:
    settings = msgspec.toml.decode(
        """
        lines = 1
        images = ["old-*"]

        [scripts."https://example.org/*"]
        lines = 2

        [[scripts."image-3:*"]]
        fails = "the first time"
        [[scripts."image-3:*"]]
        lines = 4
        """,
        type=BuilderSettings,
    )
    engine = FakeEngine(scripts={"build-5": Script(lines=5)})
    builder = FakeBuilder(settings, engine)

    async def lines(n: int, host: str) -> int:
        report = StrictReport()
        request = BuildRequest(f"build-{n}", f"image-{n}:x", f"https://{host}/r", "x")
        await builder.build(request, report)
        return len(report.lines)

    assert await lines(1, "example.com") == 1
    assert await lines(2, "example.org") == 2
    with pytest.raises(BuildFailed, match="the first time"):
        await lines(3, "example.com")
    assert await lines(3, "example.com") == 4
    assert await lines(5, "example.org") == 5
    assert await builder.exists("old-one:1")
    assert not await builder.exists("new-one:1")
    assert engine.exists_calls == {"old-one:1": 1, "new-one:1": 1}


def test_settings_name_what_is_wrong_with_them() -> None:
    with pytest.raises(msgspec.ValidationError, match="`line`"):
        msgspec.convert({"line": 1}, BuilderSettings)
    with pytest.raises(msgspec.ValidationError, match="rate"):
        msgspec.convert({"rate": -1.0}, BuilderSettings)


async def test_a_builder_that_is_down() -> None:
    builder = FakeBuilder(BuilderSettings(down="no disk"))
    for call in (
        builder.check(),
        builder.exists("image:abc"),
        builder.stop(REQUEST, "The build was stopped."),
    ):
        with pytest.raises(BackendUnavailable, match="no disk"):
            await call


async def test_exists_may_not_be_known() -> None:
    builder = FakeBuilder(BuilderSettings(exists=True, exists_faults=1))
    with pytest.raises(BackendUnavailable, match="registry"):
        await builder.exists("image:abc")
    assert await builder.exists("image:abc")
    report = StrictReport()
    await builder.build(REQUEST, report)
    assert report.run_id is None


async def test_what_an_operator_sweeps_is_gone() -> None:
    engine = FakeEngine(ident="e")
    builder = FakeBuilder(BuilderSettings(), engine)
    await builder.build(REQUEST, StrictReport())
    engine.forget("e-1")
    assert await builder.exists(REQUEST.image)
    with pytest.raises(LookupError, match="e-1"):
        engine.forget("e-1")
    engine.remove_image(REQUEST.image)
    assert not await builder.exists(REQUEST.image)
    await builder.build(REQUEST, StrictReport())
    engine.remove_image(REQUEST.image)
    assert not await builder.exists(REQUEST.image)


async def test_a_test_waits_for_what_it_needs() -> None:
    async with calls() as fakes:
        engine = fakes.engine
        fakes.build(rate=1.0)
        await engine.until(lambda: engine.watching["build"] == 1)
        fakes.clock.advance(3.0)
        await engine.until(lambda: engine.told.get("e-1", 0) >= 4)
        fakes.clock.advance(100.0)
        await engine.until(lambda: not engine.watching["build"])
        assert engine.under_way("build") is None


async def test_it_runs_on_the_real_clock_too() -> None:
    builder = FakeBuilder(BuilderSettings(lines=3, rate=200.0))
    report = StrictReport()
    with anyio.fail_after(5):
        await builder.build(REQUEST, report)
    assert list(report.lines) == [1, 2, 3]


def test_an_engine_outlives_an_event_loop() -> None:
    engine = FakeEngine(scripts={"build": Script(lines=3, rate=50.0)})
    first, second = StrictReport(), StrictReport()

    async def see_a_line() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(FakeBuilder(BuilderSettings(), engine).build, REQUEST, first)
            await first.until(lines=1)
            tasks.cancel_scope.cancel()

    anyio.run(see_a_line)
    anyio.run(FakeBuilder(BuilderSettings(), engine).build, REQUEST, second, backend="trio")
    assert second.run_id == first.run_id
    assert list(second.lines) == [1, 2, 3]


async def test_a_launch_says_what_it_waits_for() -> None:
    async with calls() as fakes:
        log = fakes.launch(messages=["pulling", "starting"], delay=4.0, base_url="https://hub/")
        await fakes.clock.elapse(1.0)
        assert log.messages == ["pulling"]
        await fakes.clock.elapse(5.0)
        assert log.messages == ["pulling", "starting"]
        assert fakes.ends == [(4.0, "https://hub/user/server/")]
        assert fakes.engine.servers["server"].request.token == "s3cret"
        assert fakes.engine.servers_started == {"server": 1}


async def test_a_launch_that_never_ends() -> None:
    async with calls() as fakes:
        fakes.launch(ends=False)
        await fakes.clock.elapse(1e9)
        assert fakes.ends == []


async def test_a_launch_needs_its_image_if_told_so() -> None:
    async with calls() as fakes:
        fakes.launch(needs_image=True)
        await fakes.clock.elapse(0)
        assert fakes.ends == [(0.0, "LaunchFailed: there is no image image:abc")]
        fakes.engine.images.add("image:*")
        fakes.launch(needs_image=True)
        await fakes.clock.elapse(0)
        assert fakes.ends[1:] == [(0.0, "http://127.0.0.1:1/user/server/")]


async def test_a_launch_with_another_token_is_refused() -> None:
    launcher = FakeLauncher(LauncherSettings(scripts={"*": LaunchScript(messages=())}))
    await launcher.launch(LAUNCH, LaunchLog())
    with pytest.raises(LaunchFailed, match="another token"):
        await launcher.launch(LaunchRequest("server", "image:abc", token="x"), LaunchLog())
