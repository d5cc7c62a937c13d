"""A call of `build`, watched by the suite."""

from __future__ import annotations

from dataclasses import replace

import anyio

from binder_core.plugin import BackendUnavailable, Builder, BuildFailed, BuildRequest
from binder_core.testing.reports import StrictReport


class Watch:
    """One call of `build`, as the engine makes it: once more where the connection broke."""

    def __init__(self, builder: Builder, request: BuildRequest, retry_delay: float) -> None:
        self.builder = builder
        self.request = request
        self.report = StrictReport()
        self.failure: BuildFailed | None = None
        """How the build failed."""
        self.fault: BaseException | None = None
        """Something raised that the contract does not know."""
        self.left = False
        """Whether the call was cancelled before the build ended."""
        self._retry_delay = retry_delay
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Watch the build to its end, or until `leave`."""
        try:
            with self._scope:
                await self._build()
            self.left = self._scope.cancelled_caught
        finally:
            self.report.close()
            self._ended.set()

    def cancel(self) -> None:
        """Cancel the call."""
        self._scope.cancel()

    async def ended(self) -> None:
        """Return when the call has ended."""
        await self._ended.wait()

    async def _build(self) -> None:
        delay = self._retry_delay
        while True:
            try:
                # What was seen once is what is followed: the run may end while we are away.
                follow = self.report.run_id or self.request.follow
                await self.builder.build(replace(self.request, follow=follow), self.report)
            except BackendUnavailable:
                await anyio.sleep(delay)
                delay = min(1.0, 2 * delay)
            except BuildFailed as failure:
                self.failure = failure
                return
            except Exception as fault:  # noqa: BLE001 - whatever it is, the suite says so
                self.fault = fault
                return
            else:
                return
