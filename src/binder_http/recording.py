"""Builds and launches that are recorded: who follows them, and what is kept of them.

What is asked for is recorded first and begun then, so that nothing that was answered is lost. A
record under way is held by one server for the time of a lease, which that server renews; if it
dies, another one takes the record over and follows the same build or launch, which are found by
their names wherever they run.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import anyio.abc

from binder_core.engine import Binder
from binder_core.errors import BackendUnavailable, BinderError, ShuttingDown
from binder_core.events import Failed, Ready
from binder_core.journal import Told
from binder_core.ordering import LOG, Phase
from binder_core.plugin import (
    BuildRecord,
    BuildRequest,
    BuildStatus,
    DeploymentRecord,
    DeploymentStatus,
    Ending,
    LaunchRequest,
    Store,
    TemplateRecord,
)
from binder_http.buildlog import LogText
from binder_http.config import Records

log = logging.getLogger("binder.records")

T = TypeVar("T")

_SWEEP_EVERY: Final = 3600.0
_REMEMBER_FAULT: Final = 1.0
"""Seconds for which a database that could not be opened is not tried again."""
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 15.0
_LETTING_GO: Final = 2.0
_LAST: Final = frozenset({Phase.BUILT, Phase.FAILED})
"""What the events of a build alone end with."""


class Recorder:
    """Keeps records of what a `Binder` does for the older protocol; an async context manager.

    The store is opened when it is first needed: its libraries take long to import.

    Args:
        binder: An open one.
        make_store: Makes the store, called in a thread.
        settings: How long records are kept, and leases last.
        early: Open the store at once, beside everything else.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        binder: Binder,
        make_store: Callable[[], Store],
        settings: Records,
        *,
        early: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.binder = binder
        self.now = now
        self.me = secrets.token_hex(8)
        self._make_store = make_store
        self._settings = settings
        self._early = early
        self._store: Store | None = None
        self._opened = anyio.Event()
        self._opened.set()
        self._tried = float("-inf")
        self._fault = ""
        self._followed: set[str] = set()
        self._stack = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup

    async def __aenter__(self) -> Self:
        """Begin to follow what will be asked for."""
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        if self._early:
            self._tasks.start_soon(self._open_early)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Let go of everything under way, so that other servers go on with it, and close."""
        self._tasks.cancel_scope.cancel()
        try:
            return await self._stack.__aexit__(exc_type, exc, traceback)
        finally:
            if self._store is not None:
                with anyio.CancelScope(shield=True):
                    await self._store.__aexit__(None, None, None)

    async def store(self) -> Store:
        """Return the store, opened now if it is not yet.

        Raises:
            BackendUnavailable: That is not possible.
        """
        if self._store is None:
            if self._opened.is_set() and anyio.current_time() - self._tried > _REMEMBER_FAULT:
                # By a task of its own: whoever asked first may leave.
                self._opened = anyio.Event()
                self._tasks.start_soon(self._open)
            await self._opened.wait()
        if self._store is None:
            raise BackendUnavailable(self._fault)
        return self._store

    async def _open(self) -> None:
        try:
            made = await anyio.to_thread.run_sync(self._make_store)
            with anyio.CancelScope(shield=True):
                store = self._store = await made.__aenter__()
        except BinderError as error:
            self._fault = str(error)
            log.warning("no records: %s", error)
        else:
            self._tasks.start_soon(self._keep, store)
        finally:
            self._tried = anyio.current_time()
            self._opened.set()

    # -- What is begun ----------------------------------------------------------------------------

    async def start_build(self, build: BuildRecord, *, instead: BuildRecord | None = None) -> bool:
        """Record a build and begin it; return False where another one of its name is live.

        Args:
            build: See `held`.
            instead: A live one of its name, which is ended.

        Raises:
            BackendUnavailable: It could not be recorded, and is not begun.
        """
        store = await self.store()
        if not await store.add_build(build, replacing=instead.id if instead else None):
            return False
        self._tasks.start_soon(self._build, store, build, instead)
        return True

    async def start_deployment(self, deployment: DeploymentRecord) -> None:
        """Record a launch and begin it.

        Raises:
            BackendUnavailable: It could not be recorded, and is not begun.
        """
        store = await self.store()
        await store.add_deployment(deployment)
        self._tasks.start_soon(self._deploy, store, deployment)

    def held(self) -> tuple[str, float]:
        """Return the owner and lease of a record that this server begins to follow now."""
        return self.me, self.now() + self._settings.lease

    def server_of(self, deployment: DeploymentRecord) -> LaunchRequest:
        """Return the launch that a deployment is, its token included."""
        return self.binder.steps.server(
            deployment.server,
            deployment.image,
            int(deployment.started),
            repo_url=deployment.repo_url,
            ref=deployment.ref,
            idle_timeout=deployment.idle_timeout,
        )

    async def still(self, deployment: DeploymentRecord) -> DeploymentRecord:
        """Return a deployment as it is now: its server may have ended meanwhile.

        Raises:
            BackendUnavailable: That it has could not be recorded.
        """
        launcher = self.binder.launcher
        if deployment.status is not DeploymentStatus.READY or launcher is None:
            return deployment
        try:
            if await launcher.running(self.server_of(deployment)):
                return deployment
        except BackendUnavailable:
            return deployment  # nobody knows: it is taken to go on
        ended = replace(
            deployment,
            status=DeploymentStatus.ENDED,
            message="The server has ended.",
            ended=self.now(),
        )
        await (await self.store()).change_deployment(ended)
        return ended

    # -- Builds -----------------------------------------------------------------------------------

    async def _build(
        self, store: Store, build: BuildRecord, instead: BuildRecord | None = None
    ) -> None:
        """Follow a build to its end, and record that."""
        following = _Following(build)
        self._followed.add(build.id)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._renew, store, following)
                if instead is not None:
                    await self._end(instead)
                ending = await self._told(following)
                tasks.cancel_scope.cancel()
            if ending is not None:
                await self._persist(lambda: store.end_build(build.id, ending))
                return
        except Exception:
            # A fault of ours: another try, here or elsewhere, when the lease is over.
            log.exception("following the build %s failed", build.name)
            return
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_LETTING_GO, shield=True):
                await self._let_go(store, following)
            raise
        else:
            await self._let_go(store, following)
        finally:
            self._followed.discard(build.id)

    async def _told(self, following: _Following) -> Ending | None:
        """Return how a build ended, None if this server is shutting down."""
        build = following.build
        asked = replace(_request(build), follow=build.run or None)
        async with aclosing(self.binder.steps.build(asked, build.provider)) as batches:
            async for batch in batches:
                for told in batch:
                    following.heard(told)
                    if told.phase in _LAST:
                        return following.ending(told, self.now())
        return None

    async def _end(self, build: BuildRecord) -> None:
        """End a build that another one takes the place of."""
        try:
            await self.binder.steps.end_build(_request(build))
        except BinderError as error:
            log.warning("the build %s could not be stopped: %s", build.name, error)

    async def _renew(self, store: Store, following: _Following) -> None:
        """Note how a build goes on, and that this server follows it."""
        while True:
            with anyio.move_on_after(self._settings.lease / 3):
                await following.news.wait()
            following.news = anyio.Event()
            try:
                await store.keep_build(replace(following.build, lease=self.held()[1]))
            except BackendUnavailable as error:
                log.warning("%s", error)
                await anyio.sleep(_FIRST_DELAY)

    async def _let_go(self, store: Store, following: _Following) -> None:
        try:
            await store.keep_build(replace(following.build, lease=0.0))
        except BackendUnavailable as error:
            log.warning("%s", error)

    # -- Deployments ------------------------------------------------------------------------------

    async def _deploy(self, store: Store, deployment: DeploymentRecord) -> None:
        """Follow a launch to its end, and record that."""
        self._followed.add(deployment.id)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._renew_deployment, store, deployment)
                ended = await self._launched(deployment)
                tasks.cancel_scope.cancel()
            await self._persist(lambda: store.change_deployment(ended))
        except Exception:
            log.exception("following the launch %s failed", deployment.server)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_LETTING_GO, shield=True):
                try:
                    await store.change_deployment(replace(deployment, lease=0.0))
                except BackendUnavailable as error:
                    log.warning("%s", error)
            raise
        finally:
            self._followed.discard(deployment.id)

    async def _launched(self, deployment: DeploymentRecord) -> DeploymentRecord:
        began = int(deployment.started)
        try:
            told = await self.binder.steps.launch_image(self.server_of(deployment), began)
        except ShuttingDown:
            return replace(deployment, lease=0.0)
        except BinderError as error:
            told = Failed(message=str(error))
        match told:
            case Ready(url=str(url)):
                return replace(deployment, status=DeploymentStatus.READY, url=url)
            case _:
                return replace(
                    deployment,
                    status=DeploymentStatus.ENDED,
                    message=told.message.strip(),
                    ended=self.now(),
                )

    async def _renew_deployment(self, store: Store, deployment: DeploymentRecord) -> None:
        while True:
            await anyio.sleep(self._settings.lease / 3)
            try:
                await store.change_deployment(replace(deployment, lease=self.held()[1]))
            except BackendUnavailable as error:
                log.warning("%s", error)

    # -- All the time -----------------------------------------------------------------------------

    async def _open_early(self) -> None:
        delay = _FIRST_DELAY
        while self._store is None:
            try:
                await self.store()
            except BackendUnavailable:
                await anyio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)

    async def _keep(self, store: Store) -> None:
        """Take over what another server let go of, and forget what is old, now and then."""
        swept = float("-inf")
        while True:
            try:
                owner, lease = self.held()
                for build in await store.claim_builds(owner, self.now(), lease):
                    # Where the database was away for long it may be one of our own.
                    if build.id not in self._followed:
                        self._tasks.start_soon(self._build, store, build)
                for deployment in await store.claim_deployments(owner, self.now(), lease):
                    if deployment.id not in self._followed:
                        self._tasks.start_soon(self._deploy, store, deployment)
                if anyio.current_time() - swept > _SWEEP_EVERY:
                    await store.sweep(
                        before=self.now() - self._settings.keep_for,
                        keep_bytes=self._settings.keep_log_bytes,
                    )
                    swept = anyio.current_time()
            except BackendUnavailable as error:
                log.warning("%s", error)
            await anyio.sleep(self._settings.lease / 2)

    async def _persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Return what `write` does, tried again for as long as the database is away."""
        delay = _FIRST_DELAY
        while True:
            try:
                return await write()
            except BackendUnavailable as error:
                log.warning("%s Trying again...", error)
            await anyio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)


class _Following:
    """A build that is being followed.

    Args:
        build: As it was recorded.
    """

    def __init__(self, build: BuildRecord) -> None:
        self.build = build
        self.news = anyio.Event()
        self._text = LogText()

    def heard(self, told: Told) -> None:
        """Take what was told."""
        self._text.add(told.event.message)
        if told.phase in _LAST:
            return
        run = self.build.run
        if told.phase in LOG:
            run = told.id.rpartition(".")[0]
        status = BuildStatus.PENDING if told.phase is Phase.WAITING else BuildStatus.RUNNING
        changed = replace(self.build, status=status, phase=told.phase.value, run=run)
        if changed != self.build:
            self.build = changed
            self.news.set()

    def ending(self, told: Told, now: float) -> Ending:
        """Return the end that the last event tells."""
        build = self.build
        if told.phase is Phase.FAILED:
            return Ending(
                status=BuildStatus.FAILED,
                ended=now,
                phase=build.phase,
                message=told.event.message.strip(),
                log=self._text.end(),
            )
        return Ending(
            status=BuildStatus.COMPLETED,
            ended=now,
            phase=Phase.BUILT.value,
            log=self._text.end(),
            template=TemplateRecord(
                name=build.name,
                image=build.image,
                repository=build.repository,
                source=build.source,
                repo_url=build.repo_url,
                ref=build.ref,
                registered=now,
            ),
        )


def _request(build: BuildRecord) -> BuildRequest:
    return BuildRequest(
        name=build.build_name,
        image=build.image,
        repo_url=build.repo_url,
        ref=build.ref,
        content_provider=build.content_provider,
    )
