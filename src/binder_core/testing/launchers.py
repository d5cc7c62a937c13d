"""The suite for launchers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from binder_core.plugin import BackendUnavailable, Launcher, LaunchFailed, LaunchRequest
from binder_core.testing.plugins import PluginSuite
from binder_core.testing.reports import LaunchLog


@dataclass(eq=False)
class Launch:
    """One call of `launch`, as the engine makes it: once more where the connection broke."""

    launcher: Launcher
    request: LaunchRequest
    retry_delay: float
    log: LaunchLog = field(default_factory=LaunchLog)
    url: str | None = None
    """What it returned."""
    failure: LaunchFailed | None = None
    """How it failed."""
    fault: BaseException | None = None
    """Something raised that the contract does not know."""

    def __post_init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._calling = False

    async def run(self) -> None:
        """Wait for the URL, or until `cancel`."""
        try:
            with self._scope:
                await self._launch()
        finally:
            self.log.close()
            self._ended.set()

    async def inside(self) -> None:
        """Return when the call waits inside the launcher, not for its next try, or has ended."""
        await _settled()
        while not self._calling and not self._ended.is_set():
            await anyio.sleep(self.retry_delay)
            await _settled()

    def cancel(self) -> None:
        """Cancel the call."""
        self._scope.cancel()

    async def ended(self) -> None:
        """Return when the call has ended."""
        await self._ended.wait()

    async def _launch(self) -> None:
        delay = self.retry_delay
        while True:
            try:
                self._calling = True
                self.url = await self.launcher.launch(self.request, self.log)
            except BackendUnavailable:
                self._calling = False
                await anyio.sleep(delay)
                delay = min(1.0, 2 * delay)
            except LaunchFailed as failure:
                self.failure = failure
                return
            except Exception as fault:  # noqa: BLE001 - whatever it is, the suite says so
                self.fault = fault
                return
            else:
                return


async def _settled() -> None:
    # What is going on needs a few turns; asked too early, anyio looks again only after 0.1 s.
    for _ in range(20):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class LauncherSuite(PluginSuite):
    """The contract of `binder_core.plugin.Launcher` as tests.

    Subclass it in a test module as ``class TestMine(LauncherSuite)`` and give it the methods down
    to `is_left`. Images are made in a fixture with ``autouse=True``.
    """

    shared: ClassVar[bool] = True
    """Whether two launchers may be on one engine at the same time."""
    survives: ClassVar[bool] = True
    """Whether servers go on when the launcher that started them is left."""

    # -- What an author gives ----------------------------------------------------------------

    def make_launcher(self) -> Launcher:
        """Return a new launcher, not yet entered. All those of a test are on the same engine."""
        raise NotImplementedError

    def request_that_launches(self) -> LaunchRequest:
        """Return a request whose server will answer. Each call returns another name and token."""
        raise NotImplementedError

    def request_that_fails(self) -> LaunchRequest | None:
        """Return a request whose server never answers, found out in time; None: there is none."""
        return None

    def slow_request(self) -> LaunchRequest:
        """Return a request whose server takes a while to answer, or until `release`."""
        return self.request_that_launches()

    async def release(self) -> None:
        """Let slow launches go on to their ends, where the author holds them back."""

    async def answers(self, url: str, token: str) -> bool | None:
        """Return whether a server at `url` takes `token`, asked without the launcher, or None."""
        del url, token
        return None

    async def is_left(self, name: str) -> bool | None:
        """Return whether anything of the server of this name is there: process, folder, pod.

        Found out without the launcher; None: no such way.
        """
        del name
        return None

    # -- The tests ---------------------------------------------------------------------------

    async def test_settings_check_and_versions(self) -> None:
        """What every launcher has."""
        async with self.make_launcher() as launcher:
            await self.check_common(launcher)

    async def test_a_launch_returns_where_the_server_answers(self) -> None:
        """The URL is whole, ends in a slash, and takes this token and no other."""
        request = self.request_that_launches()
        async with self.make_launcher() as launcher:
            launch = await self.launch(launcher, request)
            url = self.expect_url(launch)
            await self.expect_answer(url, request.token, expected=True)
            await self.expect_answer(url, request.token + "x", expected=False)
            await self.stop(launcher, request)

    async def test_the_token_is_told_to_nobody(self) -> None:
        """Neither a message nor the URL holds it: both are logged."""
        request = self.request_that_launches()
        async with self.make_launcher() as launcher:
            launch = await self.launch(launcher, request)
            await self.stop(launcher, request)
        assert request.token not in self.expect_url(launch)
        assert not [message for message in launch.log.messages if request.token in message]

    async def test_the_same_name_is_the_same_server(self) -> None:
        """A second call returns the same URL, and the token still fits."""
        request = self.request_that_launches()
        async with self.make_launcher() as launcher:
            first = await self.launch(launcher, request)
            second = await self.launch(launcher, request)
            assert self.expect_url(first) == self.expect_url(second)
            await self.expect_answer(self.expect_url(second), request.token, expected=True)
            await self.stop(launcher, request)

    async def test_two_calls_at_once_are_one_server(self) -> None:
        """Two that wait for the same name are told the same URL."""
        request = self.slow_request()
        async with self.make_launcher() as launcher, self.tasks() as tasks:
            launches = [self.start(tasks, launcher, request) for _ in range(2)]
            await self.release()
            for launch in launches:
                await self.end(launch)
            one, two = (self.expect_url(launch) for launch in launches)
            await self.stop(launcher, request)
        assert one == two

    async def test_another_launcher_finds_the_server(self) -> None:
        """The same name on another server of ours: the same URL."""
        self.need(capable=self.shared, what="one launcher on an engine at a time")
        request = self.request_that_launches()
        async with self.make_launcher() as one, self.make_launcher() as two:
            first, second = await self.launch(one, request), await self.launch(two, request)
            assert self.expect_url(first) == self.expect_url(second)
            await self.stop(two, request)
        await self.expect_gone(request, self.expect_url(first))

    async def test_a_launcher_that_comes_back_finds_the_server(self) -> None:
        """Our server stopped and came back: the same URL, and the token still fits."""
        self.need(capable=self.survives, what="servers end with the launcher")
        request = self.request_that_launches()
        async with self.make_launcher() as launcher:
            first = await self.launch(launcher, request)
        async with self.make_launcher() as launcher:
            second = await self.launch(launcher, request)
            assert self.expect_url(first) == self.expect_url(second)
            await self.expect_answer(self.expect_url(second), request.token, expected=True)
            await self.stop(launcher, request)

    async def test_other_names_are_other_servers(self) -> None:
        """Two launches are two URLs; stopping one leaves the other alone."""
        one, two = self.request_that_launches(), self.request_that_launches()
        assert one.name != two.name, "request_that_launches: each call returns another name"
        async with self.make_launcher() as launcher:
            first, second = await self.launch(launcher, one), await self.launch(launcher, two)
            assert self.expect_url(first) != self.expect_url(second)
            await self.stop(launcher, one)
            await self.expect_gone(one, self.expect_url(first))
            await self.expect_answer(self.expect_url(second), two.token, expected=True)
            again = await self.launch(launcher, two)
            assert self.expect_url(again) == self.expect_url(second)
            await self.stop(launcher, two)

    async def test_a_call_that_is_cancelled_lets_go(self) -> None:
        """Cancelled, a call ends at once; the next one finds the server or starts it anew."""
        request = self.slow_request()
        async with self.make_launcher() as launcher, self.tasks() as tasks:
            first = self.start(tasks, launcher, request)
            await self.inside(first)
            first.cancel()
            with self.within_limit("letting go of a launch after a cancellation"):
                await first.ended()
            self._expect_legal(first)
            assert first.failure is None, "a launch whose watcher was cancelled has not failed"
            second = self.start(tasks, launcher, request)
            await self.release()
            await self.end(second)
            await self.expect_answer(self.expect_url(second), request.token, expected=True)
            await self.stop(launcher, request)

    async def test_a_failed_launch_says_why_and_leaves_nothing(self) -> None:
        """``LaunchFailed`` with a message; nothing is left, and the next call may try again."""
        request = self.request_that_fails()
        if request is None:
            pytest.skip("there is no request that fails")
        async with self.make_launcher() as launcher:
            for _ in range(2):
                launch = await self.launch(launcher, request)
                self._expect_legal(launch)
                assert launch.failure is not None, "a launch without a server raises LaunchFailed"
                assert launch.failure.message.strip(), "LaunchFailed says why"
                assert request.token not in launch.failure.message, "the token is told to nobody"
                await self.expect_gone(request, None)
            await self.stop(launcher, request)

    async def test_stop_ends_the_server(self) -> None:
        """Nobody answers any more, nothing is left, and the name is free again."""
        request = self.request_that_launches()
        async with self.make_launcher() as launcher:
            first = await self.launch(launcher, request)
            await self.stop(launcher, request)
            await self.expect_gone(request, self.expect_url(first))
            second = await self.launch(launcher, request)
            await self.expect_answer(self.expect_url(second), request.token, expected=True)
            await self.stop(launcher, request)
        await self.expect_gone(request, self.expect_url(second))

    async def test_stop_ends_a_launch_under_way(self) -> None:
        """A call that waits does not wait for ever; nothing is left."""
        request = self.slow_request()
        async with self.make_launcher() as launcher, self.tasks() as tasks:
            launch = self.start(tasks, launcher, request)
            await self.inside(launch)
            await self.stop(launcher, request)
            await self.end(launch)
            self._expect_legal(launch)
            if launch.failure is None:  # the server was quicker than the stop
                await self.stop(launcher, request)
        await self.expect_gone(request, launch.url)

    async def test_stop_of_nothing_is_fine(self) -> None:
        """``stop`` before and twice: nothing happens."""
        request = self.request_that_launches()
        async with self.make_launcher() as launcher:
            await self.stop(launcher, request)
            self.expect_url(await self.launch(launcher, request))
            await self.stop(launcher, request)
            await self.stop(launcher, request)

    # -- Steps -------------------------------------------------------------------------------

    def need(self, *, capable: bool, what: str) -> None:
        """Skip the test where the launcher cannot do what it needs."""
        if not capable:
            pytest.skip(what)

    def start(self, tasks: TaskGroup, launcher: Launcher, request: LaunchRequest) -> Launch:
        """Begin to launch."""
        launch = Launch(launcher, request, self.retry_delay)
        tasks.start_soon(launch.run)
        return launch

    async def launch(self, launcher: Launcher, request: LaunchRequest) -> Launch:
        """Launch, and wait for the end."""
        launch = Launch(launcher, request, self.retry_delay)
        with self.within_limit("launch"):
            await launch.run()
        return launch

    async def inside(self, launch: Launch) -> None:
        """Wait until the call waits."""
        with self.within_limit("a launch that waits for its server"):
            await launch.inside()

    async def end(self, launch: Launch) -> None:
        """Wait for the end."""
        with self.within_limit("the end of the launch"):
            await launch.ended()

    async def stop(self, launcher: Launcher, request: LaunchRequest) -> None:
        """Stop the server."""
        with self.within_limit("stop"):
            await launcher.stop(request)

    # -- Expectations ------------------------------------------------------------------------

    def expect_url(self, launch: Launch) -> str:
        """Return the URL, or fail the test if there is none or it is of no use."""
        self._expect_legal(launch)
        assert launch.failure is None, f"the launch failed: {launch.failure}"
        url = launch.url
        assert isinstance(url, str), f"launch returned {url!r}, expected a URL"
        parts = urlsplit(url)
        assert parts.scheme in ("http", "https"), f"{url} is no whole http(s) URL"
        assert parts.hostname, f"{url} is no whole http(s) URL"
        assert parts.path.endswith("/"), f"{url} does not end in a slash: clients add to it"
        assert not parts.query, f"{url} is a base that clients add to"
        return url

    async def expect_answer(self, url: str, token: str, *, expected: bool) -> None:
        """Fail the test unless the second path, if there is one, finds the server so."""
        with self.within_limit("asking the server"):
            answer = await self.answers(url, token)
        takes = "takes" if expected else "refuses"
        which = "its own token" if expected else "another token, or is gone"
        assert answer in (None, expected), f"the server at {url} {takes} {which}: it does not"

    async def expect_gone(self, request: LaunchRequest, url: str | None) -> None:
        """Fail the test if the second path finds anything of the server."""
        if url is not None:
            await self.expect_answer(url, request.token, expected=False)
        assert not await self.is_left(request.name), f"something is left of {request.name}"

    def _expect_legal(self, launch: Launch) -> None:
        assert launch.fault is None, f"launch raised {launch.fault!r}"
        assert not launch.log.faults, "\n".join(launch.log.faults)
