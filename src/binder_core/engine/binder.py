"""One request's story, from a spec to a running server."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from binder_core import naming
from binder_core.asking import unasked
from binder_core.engine.bell import Batch, Said, Source
from binder_core.engine.jobs import Jobs
from binder_core.engine.launch_job import LaunchJob
from binder_core.engine.limits import Limits
from binder_core.engine.observer import Observer, Silent
from binder_core.engine.operator import Operator
from binder_core.engine.steps import STOPPED, Steps, build_request, found
from binder_core.engine.values import BuildInfo, Check, Request
from binder_core.errors import (
    BinderError,
    ShuttingDown,
)
from binder_core.events import Event, Ready, Waiting
from binder_core.journal import Told
from binder_core.ordering import FINAL, Phase
from binder_core.plugin import Asker, Builder, Launcher, Provider
from binder_core.resume import END, Cursor, LaunchCursor, Signer
from binder_core.specs import Resolved

T = TypeVar("T")


class Binder:
    """From a spec to a running server; an async context manager.

    Args:
        providers: By the prefix they serve.
        builder: Makes images.
        launcher: Starts servers; None where only builds are asked for.
        asker: Performs the providers' questions.
        key: Signs event ids, and the tokens of servers are derived from it. At least 16 random
            bytes, the same on all servers and after a restart.
        limits: What it may take, and how patient it is.
        image_prefix: What image names start with, e.g. ``registry.example/binder-``.
        observer: Is told of what ended.
        now: The time, seconds since the epoch.
        unique: Makes the unique part of a server's name.
    """

    def __init__(
        self,
        *,
        providers: Mapping[str, Provider],
        builder: Builder,
        launcher: Launcher | None,
        asker: Asker,
        key: bytes,
        limits: Limits | None = None,
        image_prefix: str = "",
        observer: Observer | None = None,
        now: Callable[[], float] = time.time,
        unique: Callable[[], str] = lambda: secrets.token_hex(5),
    ) -> None:
        self.providers = providers
        self.builder = builder
        self.launcher = launcher
        self.limits = limits or Limits()
        self._asker = asker
        self._signer = Signer(key)
        self._image_prefix = image_prefix
        self._observer = observer or Silent()
        self._now = now
        self._unique = unique
        self._stack = AsyncExitStack()
        self.steps: Steps
        """What a story is made of, for who asks for one step alone. There from the entry on."""
        self.operator: Operator
        """What an operator sees of builds, and does with them."""
        self._jobs: Jobs

    async def __aenter__(self) -> Self:
        """Make the plug-ins ready.

        Raises:
            BackendUnavailable: One of them cannot be.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.builder)
            if self.launcher is not None:
                await stack.enter_async_context(self.launcher)
            self._jobs = await stack.enter_async_context(
                Jobs(
                    builder=self.builder,
                    launcher=self.launcher,
                    limits=self.limits,
                    observer=self._observer,
                )
            )
            self.operator = Operator(self._jobs, self.builder)
            self.steps = Steps(
                self._jobs,
                providers=self.providers,
                builder=self.builder,
                launcher=self.launcher,
                asker=self._asker,
                signer=self._signer,
                allow_images=self.limits.allow_images,
                image_prefix=self._image_prefix,
                unique=self._unique,
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every stream and let go of the plug-ins; builds go on where they can."""
        await self._stack.__aexit__(exc_type, exc, traceback)

    # -- Streams ----------------------------------------------------------------------------------

    def had_ended(self, request: Request) -> bool:
        """Return whether who reconnects has seen the last event: there is nothing to say."""
        return _ended(self._cursor(request))

    def stream(self, request: Request) -> AsyncGenerator[Batch]:
        """Yield the events of a request, those that are new together, and heartbeats (empty).

        Errors are told as the last event. Without a last event the stream ends where the client
        shall reconnect, here or elsewhere: this server is shutting down, or it cannot find out now
        what a reconnect is to go on with. Close it when the client leaves.
        """
        cursor = self._cursor(request)
        return self.steps.tell(self._story(request, cursor), again=cursor is not None)

    async def launch(self, spec: str, *, build_only: bool = False) -> AsyncGenerator[Event]:
        """Yield the events of a launch.

        Args:
            spec: ``gh/user/repo/HEAD``.
            build_only: Build, but launch nothing.

        Raises:
            ShuttingDown: `drain` was called meanwhile.
        """
        provider, _, rest = spec.partition("/")
        request = Request(provider=provider, spec=rest, build_only=build_only)
        async with aclosing(self.stream(request)) as batches:
            told = None
            async for batch in batches:
                for told in batch:
                    yield told.event
        if told is None or told.phase not in FINAL:
            raise ShuttingDown("This Binder is shutting down; ask again, here or elsewhere.")

    def _story(self, request: Request, cursor: Cursor | None) -> Generator[Source]:
        """Yield what there is to read, one source after another; see `Steps.tell`."""
        if _ended(cursor):
            return
        provider = self.steps.provider(request)
        spec = provider.parse(request.spec)

        if isinstance(cursor, LaunchCursor):
            resolved = provider.pinned(spec, cursor.ref)
        else:
            known = unasked(provider.resolve(spec))
            if known is None:
                asked = self._jobs.once(
                    (provider.prefix, spec), lambda: self.steps.resolve(provider, spec)
                )
                yield asked
                known = asked.result()
                del asked  # who is parked further down shall hold no more than it needs
            resolved = known
            if resolved.notice and cursor is None:
                yield Said(Told.of(Waiting(message=resolved.notice)))
        image = naming.image_name(self._image_prefix, resolved.slug, resolved.ref)

        if not isinstance(cursor, LaunchCursor):
            looked = self.steps.look(image)
            yield looked
            if cursor is None and looked.result():
                launch = self._new_launch(resolved)
                yield Said(Told.of(found(image), self._signer.launch_id(launch, request.text)))
            else:
                build = replace(
                    build_request(resolved, image), follow=cursor.run_id if cursor else None
                )
                job = self.steps.join(build, looked, request.provider)
                del looked, build
                yield from self.steps.watch(job, cursor, built=request.build_only)
                if not job.built:
                    return
                launch = self._new_launch(resolved)
                if not request.build_only:
                    # Each one's own: who comes back behind it comes back to this launch.
                    launch_id = self._signer.launch_id(launch, request.text)
                    yield Said(Told(launch_id, Phase.BUILT, job.outcome.data))
            cursor = launch

        if request.build_only:
            yield Said(Told.of(Ready(message=f"Image {image} is built\n", image_name=image), END))
            return
        yield self._launch(request, resolved, image, cursor).reader(cursor.n)

    def _launch(
        self, request: Request, resolved: Resolved, image: str, cursor: LaunchCursor
    ) -> LaunchJob:
        server = self.steps.server(
            cursor.name, image, cursor.time, repo_url=resolved.repo_url, ref=resolved.ref
        )

        def ready(url: str) -> Ready:
            return Ready(
                message=f"Server running at {url}\n",
                url=url,
                token=server.token,
                image=image,
                repo_url=resolved.repo_url,
                binder_ref_url=resolved.ref_url,
                binder_launch_host=request.launch_host,
                binder_request=f"v2/{request.text}",
                binder_persistent_request=f"v2/{request.provider}/{resolved.spec}",
            )

        return self.steps.begin(cursor, server, ready, spec=request.text, provider=request.provider)

    # -- What the story needs ---------------------------------------------------------------------

    def _cursor(self, request: Request) -> Cursor | None:
        if not request.last_event_id:
            return None
        return self._signer.read(
            request.last_event_id,
            request.text,
            now=self._now(),
            max_age=self.limits.max_handle_age,
        )

    def _new_launch(self, resolved: Resolved) -> LaunchCursor:
        name = self.steps.new_server_name(resolved.slug)
        return LaunchCursor(name, resolved.ref, int(self._now()))

    # -- For operators ----------------------------------------------------------------------------

    def drain(self) -> None:
        """Begin nothing new, and let every stream end soon; clients go on elsewhere or later."""
        self._jobs.drain()

    async def stop_build(self, name: str, reason: str = STOPPED) -> bool:
        """End the build of that name; return whether there was one under way."""
        return self._jobs.stop(name, reason)

    async def stop_builds(self, reason: str = "The server was stopped.") -> None:
        """End all builds under way and return when they have ended."""
        live = [build for build in self._jobs.machine.all() if not build.state.ended]
        for build in live:
            self._jobs.stop(build.id.key, reason)
        for build in live:
            await self._jobs.ended(build.id)

    @property
    def builds(self) -> list[BuildInfo]:
        """Return the builds that this server knows of, oldest first; ended ones for a while."""
        return self.operator.here()

    @property
    def in_progress(self) -> tuple[int, int]:
        """Return how many builds (queued ones included) and launches are under way."""
        machine = self._jobs.machine
        return machine.running + machine.queued, self._jobs.launching

    async def check(self) -> list[Check]:
        """Return whether each part works."""
        parts: list[tuple[str, Builder | Launcher]] = [("builder", self.builder)]
        if self.launcher is not None:
            parts.append(("launcher", self.launcher))
        checks = []
        for service, part in parts:
            try:
                await part.check()
            except BinderError as error:
                checks.append(Check(service, ok=False, message=str(error)))
            else:
                checks.append(Check(service, ok=True))
        return checks


def _ended(cursor: Cursor | None) -> bool:
    return cursor is not None and cursor.last
