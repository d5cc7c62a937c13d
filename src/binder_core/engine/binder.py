"""One request's story, from a spec to a running server."""

from __future__ import annotations

import difflib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self, TypeVar

from binder_core import naming
from binder_core.asking import perform, unasked
from binder_core.engine.bell import Batch, Flight, Source
from binder_core.engine.build_job import BuildJob
from binder_core.engine.jobs import Jobs, failed_event
from binder_core.engine.launch_job import LaunchJob
from binder_core.engine.limits import Limits
from binder_core.engine.observer import Observer, Silent
from binder_core.engine.operator import Operator
from binder_core.engine.values import BuildInfo, Check, Plan, Request
from binder_core.errors import (
    BackendUnavailable,
    BinderError,
    ProviderUnavailable,
    Refused,
    ShuttingDown,
    SpecError,
    UnknownProvider,
)
from binder_core.events import Built, Event, Failed, Ready, Waiting
from binder_core.journal import Told
from binder_core.ordering import FINAL
from binder_core.plugin import Asker, Builder, BuildRequest, Launcher, LaunchRequest, Provider
from binder_core.resume import END, Cursor, LaunchCursor, LogCursor, Signer
from binder_core.specs import Resolved, Spec

T = TypeVar("T")

MAX_SPEC_CHARS = 4096
"""A longer spec is refused before anything looks at it."""

_STOPPED = "The build was stopped."


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

    async def stream(self, request: Request) -> AsyncGenerator[Batch]:
        """Yield the events of a request, those that are new together, and heartbeats (empty).

        Errors are told as the last event. Without a last event the stream ends where the client
        shall reconnect, here or elsewhere: this server is shutting down, or it cannot find out now
        what a reconnect is to go on with. Close it when the client leaves.
        """
        cursor = self._cursor(request)
        if _ended(cursor):
            return
        try:
            async with aclosing(self._story(request, cursor)) as story:
                async for batch in story:
                    yield batch
        except _Draining:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
            if cursor is not None and isinstance(error, ProviderUnavailable | BackendUnavailable):
                # Rule 9: what it follows is under way or built, whether or not this server can
                # find out now. Without a last event it comes again.
                return
            yield [Told(failed_event(error), END)]

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

    async def _story(self, request: Request, cursor: Cursor | None) -> AsyncGenerator[Batch]:
        provider = self._provider(request)
        spec = provider.parse(request.spec)

        if isinstance(cursor, LaunchCursor):
            resolved = provider.pinned(spec, cursor.ref)
        else:
            known = unasked(provider.resolve(spec))
            if known is None:
                asked = self._jobs.once(
                    (provider.prefix, spec), lambda: self._resolve(provider, spec)
                )
                async with aclosing(self._pull(asked)) as beats:
                    async for beat in beats:
                        yield beat
                known = asked.result()
                del asked, beats  # who is parked further down shall hold no more than it needs
            resolved = known
            if resolved.notice and cursor is None:
                yield [Told(Waiting(message=resolved.notice))]
        image = naming.image_name(self._image_prefix, resolved.slug, resolved.ref)

        if not isinstance(cursor, LaunchCursor):
            looked = self._jobs.once(("image", image), lambda: self._exists(image))
            async with aclosing(self._pull(looked)) as beats:
                async for beat in beats:
                    yield beat
            launch = self._new_launch(resolved)
            if cursor is None and looked.result():
                yield [Told(_found(image), self._signer.launch_id(launch, request.text))]
            else:
                build = replace(
                    _build_request(resolved, image), follow=cursor.run_id if cursor else None
                )
                job = self._join(build, looked, request.provider)
                del looked, beats, build
                async with aclosing(self._watch(job, cursor)) as batches:
                    async for batch in batches:
                        yield batch
                if not job.built:
                    return
            cursor = launch

        if request.build_only:
            yield [Told(Ready(message=f"Image {image} is built\n", image_name=image), END)]
            return
        launched = self._launch(request, resolved, image, cursor)
        async with aclosing(self._pull(launched.reader(cursor.n))) as batches:
            async for batch in batches:
                yield batch

    async def _pull(self, source: Source) -> AsyncGenerator[Batch]:
        """Yield what is new until there is no more, and nothing (a heartbeat) at each beat."""
        bell, beats = source.bell, source.bell.beats
        while (batch := source.read()) is not None:
            if batch or bell.beats != beats:
                beats = bell.beats
                yield batch
            elif self._jobs.draining:
                raise _Draining
            else:
                await bell.wait()

    async def _watch(self, job: BuildJob, cursor: LogCursor | None) -> AsyncGenerator[Batch]:
        """Yield what is told of a build that was joined, and leave it."""
        try:
            async with aclosing(self._pull(job.reader(cursor))) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._jobs.leave(job)

    def _join(self, build: BuildRequest, looked: Flight[bool], provider: str) -> BuildJob:
        build = replace(build, image_exists=looked.result())
        return self._jobs.join(build, looked=looked.began, provider=provider)

    def _launch(
        self, request: Request, resolved: Resolved, image: str, cursor: LaunchCursor
    ) -> LaunchJob:
        server = self.server(
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

        return self._begin(cursor, server, ready, spec=request.text, provider=request.provider)

    def _begin(
        self,
        cursor: LaunchCursor,
        server: LaunchRequest,
        ready: Callable[[str], Ready],
        *,
        spec: str,
        provider: str,
    ) -> LaunchJob:
        if self.launcher is None:
            raise Refused("This server builds images and launches nothing.", status=400)
        return self._jobs.launch(
            cursor, server, ready, spec=spec, provider=provider, signer=self._signer
        )

    # -- Apart from a stream ----------------------------------------------------------------------

    async def plan(self, request: Request) -> Plan:
        """Return what a request's spec comes to now; nothing is begun.

        Raises:
            SpecError: It is none.
            UnknownProvider: There is no such provider here.
            RefNotFound: The service knows no such repository or ref.
            ProviderUnavailable: It did not say.
        """
        provider = self._provider(request)
        resolved = await self._resolve(provider, provider.parse(request.spec))
        image = naming.image_name(self._image_prefix, resolved.slug, resolved.ref)
        return Plan(resolved, _build_request(resolved, image))

    async def build(self, build: BuildRequest, provider: str) -> AsyncGenerator[Batch]:
        """Yield the events of a build alone, and heartbeats (empty).

        The last event is `Built` or `Failed`. Without one it ends where this server is shutting
        down. Close it when nobody watches any more; the build goes on.

        Args:
            build: See `plan`. If it names a run to follow, that one is told from its first line
                while it is known.
            provider: For the observer.
        """
        cursor = LogCursor(build.follow, 0) if build.follow is not None else None
        try:
            looked = self._jobs.once(("image", build.image), lambda: self._exists(build.image))
            async with aclosing(self._pull(looked)) as beats:
                async for beat in beats:
                    yield beat
            if cursor is None and looked.result():
                yield [Told(_found(build.image))]
                return
            job = self._join(build, looked, provider)
            async with aclosing(self._watch(job, cursor)) as batches:
                async for batch in batches:
                    yield batch
        except _Draining:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, who watches hears of it
            yield [Told(failed_event(error), END)]

    def new_server_name(self, slug: str) -> str:
        """Return a name that no server has.

        Args:
            slug: What it is a server of, for people's eyes.
        """
        return naming.user_name(slug, self._unique())

    def server(
        self,
        name: str,
        image: str,
        began: int,
        *,
        repo_url: str = "",
        ref: str = "",
        idle_timeout: float | None = None,
    ) -> LaunchRequest:
        """Return the launch of a server, its token included.

        Args:
            name: The server's.
            image: What it is started from.
            began: Seconds since the epoch; with the name it makes the token.
            repo_url: Where the image came from.
            ref: From which commit or version of it.
            idle_timeout: See `binder_core.plugin.LaunchRequest`.
        """
        token = self._signer.token(name, began)
        return LaunchRequest(name, image, token, repo_url, ref, idle_timeout)

    async def launch_image(self, server: LaunchRequest, began: int) -> Ready | Failed:
        """Launch a server, or find the one of its name, and return how that ended.

        Args:
            server: See `server`.
            began: The same as there.

        Raises:
            Refused: This server launches nothing, or not this image: see `check_image`.
            ShuttingDown: `drain` was called meanwhile; the launch may well go on.
        """
        self.check_image(server.image)

        def ready(url: str) -> Ready:
            message = f"Server running at {url}\n"
            return Ready(message=message, url=url, token=server.token, image=server.image)

        launched = self._begin(
            LaunchCursor(server.name, server.ref, began),
            server,
            ready,
            spec=f"image/{server.image}",
            provider="image",
        )
        last: Event | None = None
        try:
            async with aclosing(self._pull(launched.reader(0))) as batches:
                async for batch in batches:
                    last = batch[-1].event if batch else last
        except _Draining:
            raise ShuttingDown("This Binder is shutting down; ask again.") from None
        if not isinstance(last, Ready | Failed):
            raise ShuttingDown("The launch was given up.")
        return last

    def check_image(self, image: str) -> None:
        """Return if an image may be launched whose name was made elsewhere, or long ago.

        Raises:
            Refused: It has no name that this server gives, and `Limits.allow_images` does not name
                it.
        """
        if naming.is_image_name(self._image_prefix, image):
            return
        if any(fnmatchcase(image, allowed) for allowed in self.limits.allow_images):
            return
        own = f"{self._image_prefix}<repository>-<6 hexadecimal digits>:<ref>"
        others = ", ".join(self.limits.allow_images) or "none"
        raise Refused(
            f"The image {image[:200]!r} is not launched: allowed are {own} and those of the "
            f"setting limits.allow_images ({others})."
        )

    async def has_image(self, image: str) -> bool:
        """Return whether an image is there.

        Raises:
            BackendUnavailable: Nobody knows.
        """
        return await self._exists(image)

    async def preload(self, image: str) -> None:
        """Return when an image, which exists, is wherever servers may start.

        Raises:
            Refused: It may not be launched: see `check_image`.
            LaunchFailed: It cannot be brought there.
            BackendUnavailable: A connection or an engine broke.
        """
        self.check_image(image)
        if self.launcher is not None:
            await self.launcher.preload(image)

    async def end_build(self, build: BuildRequest, reason: str = _STOPPED) -> None:
        """End a build, whichever server follows it, and return when it has ended.

        Raises:
            BackendUnavailable: The engine that builds did not answer.
        """
        live = self._jobs.machine.live(build.name)
        if live is None:
            await self._jobs.persist(lambda: self.builder.stop(build, reason))
        else:
            self._jobs.stop(build.name, reason)
            await self._jobs.ended(live.id)

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

    def _provider(self, request: Request) -> Provider:
        if len(request.spec) > MAX_SPEC_CHARS:
            raise SpecError(
                f"The spec has {len(request.spec)} characters; at most {MAX_SPEC_CHARS} are taken.",
                text=request.spec,
                span=(MAX_SPEC_CHARS, MAX_SPEC_CHARS + 1),
            )
        provider = self.providers.get(request.provider)
        if provider is None:
            given = repr(request.provider[:40])
            near = difflib.get_close_matches(request.provider, self.providers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"try {', '.join(self.providers)}."
            raise UnknownProvider(f"There is no provider {given} here; {hint}")
        return provider

    async def _resolve(self, provider: Provider, spec: Spec) -> Resolved:
        return await perform(provider.resolve(spec), self._asker.ask)

    async def _exists(self, image: str) -> bool:
        return await self._jobs.persist(lambda: self.builder.exists(image))

    def _new_launch(self, resolved: Resolved) -> LaunchCursor:
        name = naming.user_name(resolved.slug, self._unique())
        return LaunchCursor(name, resolved.ref, int(self._now()))

    # -- For operators ----------------------------------------------------------------------------

    def drain(self) -> None:
        """Begin nothing new, and let every stream end soon; clients go on elsewhere or later."""
        self._jobs.drain()

    async def stop_build(self, name: str, reason: str = _STOPPED) -> bool:
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


def _found(image: str) -> Built:
    return Built(message=f"Found built image {image}\n", image=image)


def _build_request(resolved: Resolved, image: str) -> BuildRequest:
    return BuildRequest(
        name=naming.build_name(image, resolved.repo_url, resolved.ref),
        image=image,
        repo_url=resolved.repo_url,
        ref=resolved.ref,
        content_provider=resolved.content_provider,
    )


def _ended(cursor: Cursor | None) -> bool:
    return cursor is not None and cursor.last


class _Draining(Exception):
    """This server is shutting down."""
