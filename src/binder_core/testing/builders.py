"""The suite for builders."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from anyio.abc import TaskGroup

from binder_core.plugin import Builder, BuildRequest, BuildRun
from binder_core.testing.plugins import PluginSuite
from binder_core.testing.watching import Watch

STOPPED = "The build was stopped: it was in the way."
"""The reason that the suite gives."""


class BuilderSuite(PluginSuite):
    """The contract of `binder_core.plugin.Builder` as tests.

    Subclass it in a test module as ``class TestMine(BuilderSuite)`` and give it the methods down to
    `image_is_there`. Set an engine up in a fixture with ``autouse=True``. The tests run on
    asyncio and trio; a module fixture ``anyio_backend`` that returns ``"asyncio"`` leaves trio out.
    """

    survives: ClassVar[bool] = True
    """Whether a build goes on when the builder that started it is left."""
    shared: ClassVar[bool] = True
    """Whether two builders may be on one engine at the same time."""
    remembers: ClassVar[bool] = True
    """Whether a run that ended can still be followed."""

    # -- What an author gives ----------------------------------------------------------------

    def make_builder(self) -> Builder:
        """Return a new builder, not yet entered. All those of a test are on the same engine."""
        raise NotImplementedError

    def request_that_builds(self) -> BuildRequest:
        """Return a request for an image that is not there, and whose build says two lines or more.

        Each call returns another name and another image. So do the next two.
        """
        raise NotImplementedError

    def request_that_fails(self) -> BuildRequest | None:
        """Return a request whose build fails after a line or more; None: there is none."""
        return None

    def slow_request(self) -> BuildRequest:
        """Return a request whose build says a line, and then is not through for a while.

        The while is long enough for a second call to find the build under way, or lasts until
        `release`.
        """
        raise NotImplementedError

    async def release(self) -> None:
        """Let slow builds go on to their ends, where the author holds them back."""

    async def image_is_there(self, image: str) -> bool | None:
        """Return whether `image` is there, found out without the builder; None: no such way."""
        del image
        return None

    async def runs_started(self, name: str) -> int | None:
        """Return how many runs of this name there were, found out without the builder, or None."""
        del name
        return None

    # -- The tests ---------------------------------------------------------------------------

    async def test_settings_check_and_versions(self) -> None:
        """What every builder has."""
        async with self.make_builder() as builder:
            await self.check_common(builder)

    async def test_an_image_nobody_built_does_not_exist(self) -> None:
        """``exists``: False for what is not there."""
        await self.expect_image(self.request_that_builds(), there=False)

    async def test_a_build_makes_the_image_and_tells_its_log(self) -> None:
        """First ``started``, then numbered lines; at the return the image exists."""
        request = self.request_that_builds()
        async with self.make_builder() as builder:
            watch = await self.watch(builder, request)
        self.expect_built(watch)
        assert len(watch.report.lines) >= 2, "the whole log is told, not only its last line"
        await self.expect_image(request, there=True)
        await self.expect_runs(request, 1)

    async def test_no_run_for_an_image_that_exists(self) -> None:
        """A build asked for again starts nothing and tells nothing."""
        request = self.request_that_builds()
        async with self.make_builder() as builder:
            self.expect_built(await self.watch(builder, request))
            again = await self.watch(builder, request)
        self.expect_nothing_told(again)
        await self.expect_runs(request, 1)

    async def test_no_run_where_the_image_was_found(self) -> None:
        """``image_exists``: no run may be started, whatever the builder itself would say."""
        request = replace(self.request_that_builds(), image_exists=True)
        async with self.make_builder() as builder:
            watch = await self.watch(builder, request)
        self.expect_nothing_told(watch)
        await self.expect_runs(request, 0)
        await self.expect_image(request, there=False)

    async def test_a_failed_build_says_why(self) -> None:
        """``BuildFailed`` with a message, after the log; there is no image."""
        request = self.failing()
        async with self.make_builder() as builder:
            watch = await self.watch(builder, request)
        self.expect_failed(watch)
        assert watch.report.lines, "the log up to the failure is told"
        await self.expect_image(request, there=False)
        await self.expect_runs(request, 1)

    async def test_after_a_failure_a_new_run_may_start(self) -> None:
        """A failure is of one run: the next call starts another, with another id."""
        request = self.failing()
        async with self.make_builder() as builder:
            first = await self.watch(builder, request)
            second = await self.watch(builder, request)
        self.expect_failed(first)
        self.expect_failed(second)
        assert first.report.run_id != second.report.run_id, "another run has another id"
        await self.expect_runs(request, 2)

    @pytest.mark.parametrize("image_exists", [False, True])
    async def test_a_run_that_built_can_be_followed(self, image_exists: bool) -> None:  # noqa: FBT001
        """``follow``: a newcomer is told the finished run, from its first line to its end."""
        self.need(capable=self.remembers, what="ended runs are not remembered")
        request = self.request_that_builds()
        async with self.make_builder() as builder:
            first = await self.watch(builder, request)
        self.expect_built(first)
        follow = replace(request, follow=first.report.run_id, image_exists=image_exists)
        async with self.make_builder() as builder:
            second = await self.watch(builder, follow)
        self.expect_built(second)
        assert second.report.story == first.report.story
        await self.expect_runs(request, 1)

    async def test_a_run_that_failed_can_be_followed(self) -> None:
        """``follow`` of a failure is the same failure, not a new run."""
        self.need(capable=self.remembers, what="ended runs are not remembered")
        request = self.failing()
        async with self.make_builder() as builder:
            first = await self.watch(builder, request)
        async with self.make_builder() as builder:
            second = await self.watch(builder, replace(request, follow=first.report.run_id))
        self.expect_failed(first)
        self.expect_failed(second)
        assert second.report.story == first.report.story
        assert str(second.failure) == str(first.failure)
        await self.expect_runs(request, 1)

    async def test_an_unknown_run_to_follow_is_no_run_to_follow(self) -> None:
        """``follow`` of what nobody knows: as if nobody had asked for it."""
        request = replace(self.request_that_builds(), follow="nobody-knows-it")
        async with self.make_builder() as builder:
            watch = await self.watch(builder, request)
        self.expect_built(watch)
        assert watch.report.run_id != request.follow, "no run gets its id from a request"
        await self.expect_runs(request, 1)

    async def test_two_calls_at_once_are_one_run(self) -> None:
        """The name is the lock: two servers that start together start one run."""
        self.need(capable=self.shared, what="one builder on an engine at a time")
        request = self.slow_request()
        async with self.make_builder() as one, self.make_builder() as two, self.tasks() as tasks:
            watches = [self.start(tasks, builder, request) for builder in (one, two)]
            for watch in watches:
                await self.until_line(watch)
            await self.release()
            for watch in watches:
                await self.end(watch)
                self.expect_built(watch)
        assert watches[0].report.story == watches[1].report.story
        await self.expect_runs(request, 1)

    @pytest.mark.parametrize("following", [False, True])
    async def test_a_late_call_is_told_everything(self, following: bool) -> None:  # noqa: FBT001
        """Whoever comes later is told the run under way from its first line, asked for or not."""
        request = self.slow_request()
        async with self.make_builder() as builder, self.tasks() as tasks:
            early = self.start(tasks, builder, request)
            await self.until_line(early)
            follow = early.report.run_id if following else None
            late = self.start(tasks, builder, replace(request, follow=follow))
            await self.until_line(late)
            await self.release()
            for watch in (early, late):
                await self.end(watch)
                self.expect_built(watch)
        assert early.report.story == late.report.story
        await self.expect_runs(request, 1)

    async def test_a_call_that_is_cancelled_leaves_the_others_alone(self) -> None:
        """Cancelled, a call lets go at once; the run and the other calls go on."""
        request = self.slow_request()
        async with self.make_builder() as builder, self.tasks() as tasks:
            one, two = (self.start(tasks, builder, request) for _ in range(2))
            await self.until_line(one)
            await self.until_line(two)
            await self.leave(one)
            await self.release()
            await self.end(two)
        self.expect_built(two)
        assert one.report.run_id == two.report.run_id
        await self.expect_runs(request, 1)
        await self.expect_image(request, there=True)

    async def test_a_run_that_nobody_watches_goes_on(self) -> None:
        """The last call let go: the next one finds the same run and is told all of it."""
        request = self.slow_request()
        async with self.make_builder() as builder, self.tasks() as tasks:
            first = self.start(tasks, builder, request)
            await self.until_line(first)
            await self.leave(first)
            second = self.start(tasks, builder, request)
            await self.until_line(second)
            await self.release()
            await self.end(second)
        self.expect_built(second)
        self.expect_continued(first, second)
        await self.expect_runs(request, 1)

    async def test_a_builder_that_comes_back_finds_its_run(self) -> None:
        """The server stopped and came back: the run is the same, and so are its numbers."""
        self.need(capable=self.survives, what="builds end with the builder")
        request = self.slow_request()
        async with self.make_builder() as builder, self.tasks() as tasks:
            first = self.start(tasks, builder, request)
            await self.until_line(first)
            await self.leave(first)
        async with self.make_builder() as builder, self.tasks() as tasks:
            second = self.start(tasks, builder, request)
            await self.until_line(second)
            await self.release()
            await self.end(second)
        self.expect_built(second)
        self.expect_continued(first, second)
        await self.expect_runs(request, 1)

    async def test_stop_ends_the_run(self) -> None:
        """All who watch are told that it failed; there is no image, and the name is free again."""
        request = self.slow_request()
        async with self.make_builder() as builder, self.tasks() as tasks:
            watch = self.start(tasks, builder, request)
            await self.until_line(watch)
            with self.within_limit("stop"):
                await builder.stop(request, STOPPED)
            await self.end(watch)
            self.expect_stopped(watch)
            await self.expect_image(request, there=False, by=builder)
            await self.expect_runs(request, 1)
            second = self.start(tasks, builder, request)
            await self.until_line(second)
            assert second.report.run_id != watch.report.run_id, "another run has another id"
            await self.release()
            await self.end(second)
        self.expect_built(second)
        await self.expect_runs(request, 2)

    async def test_another_builder_can_stop_the_run(self) -> None:
        """``stop`` on one server ends the run that another one started."""
        self.need(capable=self.shared, what="one builder on an engine at a time")
        request = self.slow_request()
        async with self.make_builder() as one, self.make_builder() as two, self.tasks() as tasks:
            watch = self.start(tasks, one, request)
            await self.until_line(watch)
            with self.within_limit("stop"):
                await two.stop(request, STOPPED)
            await self.end(watch)
        self.expect_stopped(watch)
        await self.expect_image(request, there=False)

    async def test_stop_of_nothing_is_fine(self) -> None:
        """``stop`` before, twice, and after the end: nothing happens, and the image stays."""
        request = self.request_that_builds()
        async with self.make_builder() as builder:
            with self.within_limit("stop"):
                await builder.stop(request, STOPPED)
            await self.expect_runs(request, 0)
            self.expect_built(await self.watch(builder, request))
            with self.within_limit("stop"):
                await builder.stop(request, STOPPED)
                await builder.stop(request, STOPPED)
        await self.expect_image(request, there=True)

    async def test_what_is_under_way_is_listed(self) -> None:
        """``under_way``: the run, while it runs; on every server, where several share an engine."""
        request = self.slow_request()
        async with self.make_builder() as builder, self.tasks() as tasks:
            watch = self.start(tasks, builder, request)
            await self.until_line(watch)
            runs = await self.list_runs(builder, request)
            if runs is not None:
                assert [run.run_id for run in runs] == [watch.report.run_id]
                assert runs[0].image in {"", request.image}
                assert runs[0].seconds is None or runs[0].seconds >= 0
            if runs is not None and self.shared:
                async with self.make_builder() as other:
                    seen = await self.list_runs(other, request)
                assert [run.run_id for run in seen or ()] == [watch.report.run_id]
            await self.release()
            await self.end(watch)
            self.expect_built(watch)
            assert not await self.list_runs(builder, request), "it has ended"

    async def test_builds_of_other_names_are_other_runs(self) -> None:
        """Two builds under way: stopping one leaves the other alone."""
        one, two = self.slow_request(), self.slow_request()
        assert one.name != two.name, "slow_request: each call returns another name"
        async with self.make_builder() as builder, self.tasks() as tasks:
            first, second = (self.start(tasks, builder, request) for request in (one, two))
            await self.until_line(first)
            await self.until_line(second)
            assert first.report.run_id != second.report.run_id, "another run has another id"
            with self.within_limit("stop"):
                await builder.stop(one, STOPPED)
            await self.end(first)
            await self.release()
            await self.end(second)
        self.expect_stopped(first)
        self.expect_built(second)

    # -- Steps -------------------------------------------------------------------------------

    def need(self, *, capable: bool, what: str) -> None:
        """Skip the test where the builder cannot do what it needs."""
        if not capable:
            pytest.skip(what)

    def failing(self) -> BuildRequest:
        """Return a request that fails, or skip the test."""
        request = self.request_that_fails()
        if request is None:
            pytest.skip("there is no request that fails")
        return request

    def start(self, tasks: TaskGroup, builder: Builder, request: BuildRequest) -> Watch:
        """Begin to watch."""
        watch = Watch(builder, request, self.retry_delay)
        tasks.start_soon(watch.run)
        return watch

    async def watch(self, builder: Builder, request: BuildRequest) -> Watch:
        """Watch to the end."""
        watch = Watch(builder, request, self.retry_delay)
        with self.within_limit("build"):
            await watch.run()
        return watch

    async def until_line(self, watch: Watch) -> None:
        """Wait for the first line."""
        with self.within_limit("the first line of a slow build"):
            async with self.tasks() as tasks:
                # A call that ends without a line would leave us waiting for nothing.
                tasks.start_soon(self._until_ended, watch)
                await watch.report.until(lines=1)

    async def end(self, watch: Watch) -> None:
        """Wait for the end."""
        with self.within_limit("the end of the build"):
            await watch.ended()

    async def leave(self, watch: Watch) -> None:
        """Cancel the call, which lets go."""
        watch.cancel()
        with self.within_limit("letting go of a build after a cancellation"):
            await watch.ended()
        self._expect_legal(watch)
        assert watch.failure is None, "a build whose watcher was cancelled has not failed"
        assert watch.left, "a call that is cancelled does not return: it would mean an image"

    async def _until_ended(self, watch: Watch) -> None:
        await watch.ended()
        if not watch.report.lines:
            raise AssertionError(f"a slow build ended without a line: {watch.fault!r}")

    # -- Expectations ------------------------------------------------------------------------

    def expect_built(self, watch: Watch) -> None:
        """Fail the test unless the build came to a good end, and told of it as it should."""
        self._expect_legal(watch)
        assert watch.failure is None, f"the build failed: {watch.failure}"
        assert not watch.left, "the call was cancelled"
        assert watch.report.run_id is not None, "the run was not told"
        assert watch.report.lines, "no line was told"

    def expect_failed(self, watch: Watch) -> None:
        """Fail the test unless the build failed, with a message for a person."""
        self._expect_legal(watch)
        assert watch.failure is not None, "a build without an image must raise BuildFailed"
        assert watch.failure.message.strip(), "BuildFailed says why"
        assert watch.report.run_id is not None, "the run was not told"

    def expect_stopped(self, watch: Watch) -> None:
        """Fail the test unless the build failed for the reason that `stop` was given."""
        self.expect_failed(watch)
        assert watch.failure is not None
        assert STOPPED in watch.failure.message, "all who watch are told why it was stopped"

    def expect_nothing_told(self, watch: Watch) -> None:
        """Fail the test unless the call returned without a word."""
        self._expect_legal(watch)
        assert watch.failure is None, f"the build failed: {watch.failure}"
        assert watch.report.story == (None, ()), "there was no run to tell of"

    def expect_continued(self, first: Watch, second: Watch) -> None:
        """Fail the test unless both saw the same run, the first one less of it."""
        assert second.report.run_id == first.report.run_id, "a second run was started"
        seen = first.report.story[1]
        assert second.report.story[1][: len(seen)] == seen, "the same run told another log"

    async def expect_image(
        self, request: BuildRequest, *, there: bool, by: Builder | None = None
    ) -> None:
        """Fail the test unless `exists` and the second path say so.

        Args:
            request: Names the image.
            there: Whether it should be.
            by: Who is asked; by default a builder made for the question.
        """
        if by is None:
            async with self.make_builder() as fresh:
                await self.expect_image(request, there=there, by=fresh)
            return
        with self.within_limit("exists"):
            said = await by.exists(request.image)
        assert said is there, f"exists({request.image!r}) is {said!r}"
        second_path = await self.image_is_there(request.image)
        assert second_path in (None, there), f"{request.image} is there: {second_path}"

    async def expect_runs(self, request: BuildRequest, count: int) -> None:
        """Fail the test unless there were so many runs, where the author can count them."""
        runs = await self.runs_started(request.name)
        assert runs in (None, count), f"{runs} runs of {request.name}, expected {count}"

    async def list_runs(self, builder: Builder, request: BuildRequest) -> list[BuildRun] | None:
        """Return what `under_way` says of this name, None where it says nothing of any."""
        with self.within_limit("under_way"):
            runs = await builder.under_way()
        return None if runs is None else [run for run in runs if run.name == request.name]

    def _expect_legal(self, watch: Watch) -> None:
        assert watch.fault is None, f"build raised {watch.fault!r}"
        assert not watch.report.faults, "\n".join(watch.report.faults)
