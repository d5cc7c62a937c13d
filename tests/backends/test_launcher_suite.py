"""The fake launcher broken on purpose: each rule of the contract once, and the suite sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
from fake_suites import FakeLaunchers, failures

from binder_backends.fake import FakeLauncher
from binder_core.plugin import LaunchFailed, LaunchReport, LaunchRequest


class NoSlash(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        return (await super().launch(request, report)).rstrip("/")


class NoHost(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        await super().launch(request, report)
        return f"/user/{request.name}/"


class TokenInTheUrl(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        return f"{await super().launch(request, report)}{request.token}/"


class TokenInAMessage(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        report.line(f"jupyter --token={request.token}")
        return await super().launch(request, report)


class TokenInTheError(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        try:
            return await super().launch(request, report)
        except LaunchFailed as failure:
            raise LaunchFailed(f"{failure}: --token={request.token}") from None


class AnotherToken(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        return await super().launch(replace(request, token="own"), report)


class AnotherServerEachTime(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        count = self.engine.servers_started.total()
        return await super().launch(replace(request, name=f"{request.name}-{count}"), report)


class OneUrlForAll(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        await super().launch(request, report)
        return "http://127.0.0.1:1/"


class KnowsOnlyItsOwn(FakeLauncher):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mine: set[str] = set()

    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        if request.name in self.engine.servers and request.name not in self.mine:
            raise LaunchFailed(f"the name {request.name} is taken")
        self.mine.add(request.name)
        return await super().launch(request, report)


class LeavingEndsTheServers(FakeLauncher):
    async def __aexit__(self, *args: object) -> None:
        self.engine.servers.clear()
        self.engine.ident += "-"

    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        # Another port each time, as it is without a shared memory.
        port = len(self.engine.ident)
        url = await super().launch(request, report)
        return url.replace(":1/", f":{port}/")


class CancelFails(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        try:
            return await super().launch(request, report)
        except anyio.get_cancelled_exc_class():
            raise LaunchFailed("cancelled") from None


class LaunchCancelIsNotHeard(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        with anyio.move_on_after(0.5, shield=True):
            return await super().launch(request, report)
        return "too late"


class LaunchFailureLeavesSomething(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        try:
            return await super().launch(request, report)
        except LaunchFailed:
            self.engine.start_server(request, self.settings)
            raise


class LaunchFailureSaysNothing(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        try:
            return await super().launch(request, report)
        except LaunchFailed:
            raise LaunchFailed("") from None


class LaunchFailureIsAnotherError(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        try:
            return await super().launch(request, report)
        except LaunchFailed:
            raise TimeoutError from None


class LaunchFailureReturns(FakeLauncher):
    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        try:
            return await super().launch(request, report)
        except LaunchFailed:
            return f"{self.settings.base_url}user/{request.name}/"


class LaunchTalksAfterTheEnd(FakeLauncher):
    before: LaunchReport | None = None

    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        if self.before is not None:
            self.before.line("late")
        self.before = report
        return await super().launch(request, report)


class LaunchStopDoesNothing(FakeLauncher):
    async def stop(self, request: LaunchRequest) -> None:
        pass


class LaunchStopNeedsAServer(FakeLauncher):
    async def stop(self, request: LaunchRequest) -> None:
        del self.engine.servers[request.name]
        self.engine.changed()


class LaunchStopStopsAll(FakeLauncher):
    async def stop(self, request: LaunchRequest) -> None:
        self.engine.servers.clear()
        self.engine.changed()


class StopIsNotHeard(FakeLauncher):
    async def stop(self, request: LaunchRequest) -> None:
        self.engine.servers.pop(request.name, None)  # and whoever waits is not woken


LAUNCHERS: dict[type[FakeLauncher], str] = {
    NoSlash: "test_a_launch_returns_where_the_server_answers",
    NoHost: "test_a_launch_returns_where_the_server_answers",
    TokenInTheUrl: "test_the_token_is_told_to_nobody",
    TokenInAMessage: "test_the_token_is_told_to_nobody",
    TokenInTheError: "test_a_failed_launch_says_why_and_leaves_nothing",
    AnotherToken: "test_a_launch_returns_where_the_server_answers",
    AnotherServerEachTime: "test_the_same_name_is_the_same_server",
    OneUrlForAll: "test_other_names_are_other_servers",
    KnowsOnlyItsOwn: "test_another_launcher_finds_the_server",
    LeavingEndsTheServers: "test_a_launcher_that_comes_back_finds_the_server",
    CancelFails: "test_a_call_that_is_cancelled_lets_go",
    LaunchCancelIsNotHeard: "test_a_call_that_is_cancelled_lets_go",
    LaunchFailureLeavesSomething: "test_a_failed_launch_says_why_and_leaves_nothing",
    LaunchFailureSaysNothing: "test_a_failed_launch_says_why_and_leaves_nothing",
    LaunchFailureIsAnotherError: "test_a_failed_launch_says_why_and_leaves_nothing",
    LaunchFailureReturns: "test_a_failed_launch_says_why_and_leaves_nothing",
    LaunchTalksAfterTheEnd: "test_other_names_are_other_servers",
    LaunchStopDoesNothing: "test_stop_ends_the_server",
    LaunchStopNeedsAServer: "test_stop_of_nothing_is_fine",
    LaunchStopStopsAll: "test_other_names_are_other_servers",
    StopIsNotHeard: "test_stop_ends_a_launch_under_way",
}


def test_a_healthy_launcher_passes() -> None:
    assert failures(FakeLaunchers) == {}


@pytest.mark.parametrize("mutant", LAUNCHERS, ids=lambda mutant: mutant.__name__)
def test_the_suite_notices(mutant: type[FakeLauncher]) -> None:
    class Suite(FakeLaunchers):
        limit = 0.2
        launcher_class = mutant

    assert LAUNCHERS[mutant] in failures(Suite, LAUNCHERS[mutant])
