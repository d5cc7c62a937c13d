"""The fake builder broken on purpose: each rule of the contract once, and the suite sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import anyio
import msgspec
import pytest
from fake_suites import FakeBuilders, failures

from binder_backends.fake import FakeBuilder
from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    BuildRun,
    Phase,
    Progress,
    Report,
)


class Through:
    """A report that hands everything on; mutants override what they spoil."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def waiting(self, message: str) -> None:
        self.report.waiting(message)

    def started(self, run_id: str) -> None:
        self.report.started(run_id)

    def line(
        self, n: int, message: str, *, phase: Phase | None = None, progress: Progress | None = None
    ) -> None:
        self.report.line(n, message, phase=phase, progress=progress)


class Spoiled(FakeBuilder):
    """A builder whose report is spoiled."""

    Told: ClassVar[type[Through]]

    async def build(self, request: BuildRequest, report: Report) -> None:
        await super().build(request, self.Told(report))


class RunNotTold(Spoiled):
    class Told(Through):
        def started(self, run_id: str) -> None:
            pass


class RunIdIsNoRunId(Spoiled):
    class Told(Through):
        def started(self, run_id: str) -> None:
            super().started(f"run {run_id}.")


class RunIdAlwaysTheSame(Spoiled):
    class Told(Through):
        def started(self, run_id: str) -> None:
            super().started("run")


class RunIdOfTheReader(Spoiled):
    class Told(Through):
        def started(self, run_id: str) -> None:
            super().started(f"reader-{id(self)}")


class LineBeforeTheRun(Spoiled):
    class Told(Through):
        def started(self, run_id: str) -> None:
            self.line(1, "early\n")
            super().started(run_id)


class NumbersFall(Spoiled):
    class Told(Through):
        def line(self, n: int, message: str, **more: Any) -> None:
            super().line(100 - n, message, **more)


class NumbersFromZero(Spoiled):
    class Told(Through):
        def line(self, n: int, message: str, **more: Any) -> None:
            super().line(n - 1, message, **more)


class NumbersOfTheReader(Spoiled):
    class Told(Through):
        def line(self, n: int, message: str, **more: Any) -> None:
            super().line(n + id(self) % 1_000_000, message, **more)


class WordsOfTheReader(Spoiled):
    class Told(Through):
        def line(self, n: int, message: str, **more: Any) -> None:
            super().line(n, f"{id(self)}: {message}", **more)


class BuiltInTheLog(Spoiled):
    class Told(Through):
        def line(self, n: int, message: str, **more: Any) -> None:
            super().line(n, message, phase=Phase.BUILT)


class ProgressIsANumber(Spoiled):
    class Told(Through):
        def line(self, n: int, message: str, **more: Any) -> None:
            super().line(n, message, progress=cast("Progress", {"a1": 17}))


class OnlyTheLastLine(Spoiled):
    class Told(Through):
        def line(self, n: int, message: str, **more: Any) -> None:
            if n == 10:
                super().line(n, message, **more)


class LogOnlyWhenWell(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        class Held(Through):
            def line(self, n: int, message: str, **more: Any) -> None:
                if not request.repo_url.endswith("fails"):
                    super().line(n, message, **more)

        await super().build(request, Held(report))


class TalksAfterTheEnd(FakeBuilder):
    before: Report | None = None

    async def build(self, request: BuildRequest, report: Report) -> None:
        if self.before is not None:
            self.before.line(11, "late\n")
        self.before = report
        await super().build(request, report)


class LateCallsMissTheBeginning(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        run = self.engine.under_way(request.name)
        seen = self.engine.told.get(run.id, 0) if run else 0
        if seen:
            self.engine.clock.advance(1.0)  # type: ignore[attr-defined]  # a FakeClock here

        class Tail(Through):
            def line(self, n: int, message: str, **more: Any) -> None:
                if n > seen:
                    super().line(n, message, **more)

        await super().build(request, Tail(report))


class FailureReturns(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        try:
            await super().build(request, report)
        except BuildFailed:
            return


class FailureSaysNothing(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        try:
            await super().build(request, report)
        except BuildFailed:
            raise BuildFailed(" ") from None


class FailureIsAnotherError(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        try:
            await super().build(request, report)
        except BuildFailed:
            raise ConnectionError("broken pipe") from None


class FailureLeavesAnImage(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        try:
            await super().build(request, report)
        except BuildFailed:
            self.engine.images.add(request.image)
            raise


class FailureIsForEver(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        failed = [run for run in self.engine.runs if run.name == request.name]
        await super().build(replace(request, follow=failed[0].id if failed else None), report)


class EngineNeverComesBack(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        raise BackendUnavailable("no")


class BuildsAnew(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        if self.engine.has_image(request.image) and request.follow is None:
            self.engine.remove_image(request.image)
        await super().build(request, report)


class BuildsThoughTheImageWasFound(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        await super().build(replace(request, image_exists=False), report)


class NoLock(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        await super().build(replace(request, name=f"{request.name}-{id(report)}"), report)


class CancelEndsTheRun(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        try:
            await super().build(request, report)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.stop(request, "The build was stopped.")
            raise


class CancelReturns(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        try:
            await super().build(request, report)
        except anyio.get_cancelled_exc_class():
            return  # the cancellation is swallowed


class CancelIsAFailure(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        try:
            await super().build(request, report)
        except anyio.get_cancelled_exc_class():
            raise BuildFailed("cancelled") from None


class CancelIsNotHeard(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        # Not for ever: the test that fails has to end.
        with anyio.move_on_after(0.5, shield=True):
            await super().build(request, report)


class LeavingEndsTheRun(FakeBuilder):
    async def __aexit__(self, *args: object) -> None:
        for run in self.engine.runs:
            if not run.ended(self.engine.clock()):
                await self.stop(run.request, "The build was stopped.")


class StopDoesNothing(FakeBuilder):
    async def stop(self, request: BuildRequest, reason: str) -> None:
        pass


class StopNeedsARun(FakeBuilder):
    async def stop(self, request: BuildRequest, reason: str) -> None:
        if self.engine.under_way(request.name) is None:
            raise LookupError(request.name)
        await super().stop(request, reason)


class StopStopsAll(FakeBuilder):
    async def stop(self, request: BuildRequest, reason: str) -> None:
        for run in list(self.engine.runs):
            await super().stop(run.request, reason)


class StopTakesTheImage(FakeBuilder):
    async def stop(self, request: BuildRequest, reason: str) -> None:
        await super().stop(request, reason)
        self.engine.remove_image(request.image)


class StopIsSuccess(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        try:
            await super().build(request, report)
        except BuildFailed as failure:
            if "stopped" not in failure.message:
                raise


class StopOnlyHere(FakeBuilder):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mine: set[str] = set()

    async def build(self, request: BuildRequest, report: Report) -> None:
        self.mine.add(request.name)
        await super().build(request, report)

    async def stop(self, request: BuildRequest, reason: str) -> None:
        if request.name in self.mine:
            await super().stop(request, reason)


class ListsWhatHasEnded(FakeBuilder):
    async def under_way(self) -> list[BuildRun]:
        return [BuildRun(run.name, run.id) for run in self.engine.runs]


class ListsNothing(FakeBuilder):
    async def under_way(self) -> list[BuildRun]:
        return []


class FollowIsIgnored(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        await super().build(replace(request, follow=None), report)


class UnknownRunIsAFailure(FakeBuilder):
    async def build(self, request: BuildRequest, report: Report) -> None:
        if request.follow not in (None, *(run.id for run in self.engine.runs)):
            raise BuildFailed(f"there is no run {request.follow}")
        await super().build(request, report)


class EverythingExists(FakeBuilder):
    async def exists(self, image: str) -> bool:
        return True


class NothingExists(FakeBuilder):
    async def exists(self, image: str) -> bool:
        return False


class CheckSaysNo(FakeBuilder):
    async def check(self) -> None:
        return cast("None", False)


class VersionsAreNumbers(FakeBuilder):
    def versions(self) -> Mapping[str, str]:
        return cast("Mapping[str, str]", {"fake": 1})


class LaxSettings(FakeBuilder):
    class Settings(msgspec.Struct):
        pass


BUILDERS: dict[type[FakeBuilder], str] = {
    RunNotTold: "test_a_build_makes_the_image_and_tells_its_log",
    RunIdIsNoRunId: "test_a_build_makes_the_image_and_tells_its_log",
    RunIdAlwaysTheSame: "test_after_a_failure_a_new_run_may_start",
    RunIdOfTheReader: "test_a_late_call_is_told_everything",
    LineBeforeTheRun: "test_a_build_makes_the_image_and_tells_its_log",
    NumbersFall: "test_a_build_makes_the_image_and_tells_its_log",
    NumbersFromZero: "test_a_build_makes_the_image_and_tells_its_log",
    NumbersOfTheReader: "test_two_calls_at_once_are_one_run",
    WordsOfTheReader: "test_two_calls_at_once_are_one_run",
    BuiltInTheLog: "test_a_build_makes_the_image_and_tells_its_log",
    ProgressIsANumber: "test_a_build_makes_the_image_and_tells_its_log",
    OnlyTheLastLine: "test_a_build_makes_the_image_and_tells_its_log",
    LogOnlyWhenWell: "test_a_failed_build_says_why",
    TalksAfterTheEnd: "test_after_a_failure_a_new_run_may_start",
    LateCallsMissTheBeginning: "test_a_late_call_is_told_everything",
    FailureReturns: "test_a_failed_build_says_why",
    FailureSaysNothing: "test_a_failed_build_says_why",
    FailureIsAnotherError: "test_a_failed_build_says_why",
    FailureLeavesAnImage: "test_a_failed_build_says_why",
    FailureIsForEver: "test_after_a_failure_a_new_run_may_start",
    EngineNeverComesBack: "test_a_build_makes_the_image_and_tells_its_log",
    BuildsAnew: "test_no_run_for_an_image_that_exists",
    BuildsThoughTheImageWasFound: "test_no_run_where_the_image_was_found",
    NoLock: "test_two_calls_at_once_are_one_run",
    CancelEndsTheRun: "test_a_run_that_nobody_watches_goes_on",
    CancelReturns: "test_a_run_that_nobody_watches_goes_on",
    CancelIsAFailure: "test_a_run_that_nobody_watches_goes_on",
    CancelIsNotHeard: "test_a_call_that_is_cancelled_leaves_the_others_alone",
    LeavingEndsTheRun: "test_a_builder_that_comes_back_finds_its_run",
    StopDoesNothing: "test_stop_ends_the_run",
    StopNeedsARun: "test_stop_of_nothing_is_fine",
    StopStopsAll: "test_builds_of_other_names_are_other_runs",
    StopTakesTheImage: "test_stop_of_nothing_is_fine",
    StopIsSuccess: "test_stop_ends_the_run",
    StopOnlyHere: "test_another_builder_can_stop_the_run",
    ListsWhatHasEnded: "test_what_is_under_way_is_listed",
    ListsNothing: "test_what_is_under_way_is_listed",
    FollowIsIgnored: "test_a_run_that_built_can_be_followed",
    UnknownRunIsAFailure: "test_an_unknown_run_to_follow_is_no_run_to_follow",
    EverythingExists: "test_an_image_nobody_built_does_not_exist",
    NothingExists: "test_a_build_makes_the_image_and_tells_its_log",
    CheckSaysNo: "test_settings_check_and_versions",
    VersionsAreNumbers: "test_settings_check_and_versions",
    LaxSettings: "test_settings_check_and_versions",
}


def test_a_healthy_builder_passes() -> None:
    assert failures(FakeBuilders) == {}


@pytest.mark.parametrize("mutant", BUILDERS, ids=lambda mutant: mutant.__name__)
def test_the_suite_notices(mutant: type[FakeBuilder]) -> None:
    class Suite(FakeBuilders):
        limit = 0.2
        builder_class = mutant

    assert BUILDERS[mutant] in failures(Suite, BUILDERS[mutant])
