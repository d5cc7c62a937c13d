"""The steps of a story, each alone: stories are made of them, the older protocol asks for them."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain

from binder_core import naming
from binder_core.asking import perform
from binder_core.engine.bell import Batch, Flight, Said, Source
from binder_core.engine.build_job import BuildJob
from binder_core.engine.jobs import Jobs, failed_event
from binder_core.engine.launch_job import LaunchJob
from binder_core.engine.values import Plan, Request
from binder_core.errors import (
    BackendUnavailable,
    ProviderUnavailable,
    Refused,
    ShuttingDown,
    SpecError,
    UnknownProvider,
)
from binder_core.events import Built, Event, Failed, Ready
from binder_core.journal import Page, Told
from binder_core.plugin import Asker, Builder, BuildRequest, Launcher, LaunchRequest, Provider
from binder_core.resume import END, LaunchCursor, LogCursor, Signer
from binder_core.specs import Resolved, Spec

MAX_SPEC_CHARS = 4096
"""A longer spec is refused before anything looks at it."""

_FEW = 250
"""Events that cost as much as a write does."""

STOPPED = "The build was stopped."


class Steps:
    """Does one step at a time.

    Args:
        jobs: Does the work.
        providers: As for `binder_core.engine.Binder`, as is all that follows.
        builder: Makes images.
        launcher: Starts servers.
        asker: Performs the providers' questions.
        signer: Makes ids and tokens.
        allow_images: Images that may be launched beside those named here.
        image_prefix: What image names start with.
        unique: Makes the unique part of a server's name.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        providers: Mapping[str, Provider],
        builder: Builder,
        launcher: Launcher | None,
        asker: Asker,
        signer: Signer,
        allow_images: tuple[str, ...],
        image_prefix: str,
        unique: Callable[[], str],
    ) -> None:
        self._jobs = jobs
        self._providers = providers
        self._builder = builder
        self._launcher = launcher
        self._asker = asker
        self._signer = signer
        self._allow_images = allow_images
        self._image_prefix = image_prefix
        self._unique = unique

    async def tell(self, story: Generator[Source], *, again: bool = False) -> AsyncGenerator[Batch]:
        """Yield what the sources of a story tell, one after another; nothing is a heartbeat.

        What little is there at once is told at once, from however many sources. The story is closed
        at the end; where it breaks, that is told as the last event. This one loop is all that runs
        when a parked watcher is woken: no other generator is on the way from its bell to whoever
        writes.

        Args:
            story: Goes on once a source has no more to come.
            again: Whether who asks has seen a part of it.
        """
        held: list[Batch] = []
        try:
            for source in story:
                bell, beats = source.bell, source.bell.beats
                while (batch := source.read()) is not None:
                    if batch and (not held or sum(map(len, held)) + len(batch) <= _FEW):
                        held.append(batch)
                    elif held:
                        beats = bell.beats
                        yield _joined(held)
                        held = [batch] if batch else []
                    elif bell.beats != beats:
                        beats = bell.beats
                        yield ()
                    elif self._jobs.draining:
                        return
                    else:
                        await bell.wait()
        except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
            # Rule 9: what a reconnect follows is under way or built, whether or not this server can
            # find out now. Without a last event it comes again.
            if not (again and isinstance(error, ProviderUnavailable | BackendUnavailable)):
                held.append([Told.of(failed_event(error), END)])
        finally:
            story.close()
        if held:
            yield _joined(held)

    def look(self, image: str) -> Flight[bool]:
        """Return the question whether an image is there, asked."""
        return self._jobs.once(("image", image), lambda: self.exists(image))

    def watch(
        self, job: BuildJob, cursor: LogCursor | None, *, built: bool = True
    ) -> Generator[Source]:
        """Yield what is told of a build that was joined, and leave it; see `BuildJob.reader`."""
        try:
            yield job.reader(cursor, built=built)
        finally:
            self._jobs.leave(job)

    def join(self, build: BuildRequest, looked: Flight[bool], provider: str) -> BuildJob:
        """Return a build, joined; see `Jobs.join`.

        Args:
            build: What to build.
            looked: Whether its image exists, answered.
            provider: For the observer.
        """
        build = replace(build, image_exists=looked.result())
        return self._jobs.join(build, looked=looked.began, provider=provider)

    def begin(
        self,
        cursor: LaunchCursor,
        server: LaunchRequest,
        ready: Callable[[str], Ready],
        *,
        spec: str,
        provider: str,
    ) -> LaunchJob:
        """Return a launch, begun; see `Jobs.launch`.

        Raises:
            Refused: This server launches nothing.
        """
        if self._launcher is None:
            raise Refused("This server builds images and launches nothing.", status=400)
        return self._jobs.launch(
            cursor, server, ready, spec=spec, provider=provider, signer=self._signer
        )

    def provider(self, request: Request) -> Provider:
        """Return the provider that a request names.

        Raises:
            SpecError: The spec is too long to be looked at.
            UnknownProvider: There is no such provider here.
        """
        if len(request.spec) > MAX_SPEC_CHARS:
            raise SpecError(
                f"The spec has {len(request.spec)} characters; at most {MAX_SPEC_CHARS} are taken.",
                text=request.spec,
                span=(MAX_SPEC_CHARS, MAX_SPEC_CHARS + 1),
            )
        provider = self._providers.get(request.provider)
        if provider is None:
            given = repr(request.provider[:40])
            near = difflib.get_close_matches(request.provider, self._providers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"try {', '.join(self._providers)}."
            raise UnknownProvider(f"There is no provider {given} here; {hint}")
        return provider

    async def resolve(self, provider: Provider, spec: Spec) -> Resolved:
        """Return what a spec comes to now; see `binder_core.plugin.Provider.resolve`."""
        return await perform(provider.resolve(spec), self._asker.ask)

    async def exists(self, image: str) -> bool:
        """Return whether an image is there.

        Raises:
            BackendUnavailable: Nobody knows.
        """
        return await self._jobs.persist(lambda: self._builder.exists(image))

    async def plan(self, request: Request) -> Plan:
        """Return what a request's spec comes to now; nothing is begun.

        Raises:
            SpecError: It is none.
            UnknownProvider: There is no such provider here.
            RefNotFound: The service knows no such repository or ref.
            ProviderUnavailable: It did not say.
        """
        provider = self.provider(request)
        resolved = await self.resolve(provider, provider.parse(request.spec))
        image = naming.image_name(self._image_prefix, resolved.slug, resolved.ref)
        return Plan(resolved, build_request(resolved, image))

    def build(self, build: BuildRequest, provider: str) -> AsyncGenerator[Batch]:
        """Yield the events of a build alone, and heartbeats (empty).

        The last event is `Built` or `Failed`. Without one it ends where this server is shutting
        down. Close it when nobody watches any more; the build goes on.

        Args:
            build: See `plan`. If it names a run to follow, that one is told from its first line
                while it is known.
            provider: For the observer.
        """
        return self.tell(self._build(build, provider))

    def _build(self, build: BuildRequest, provider: str) -> Generator[Source]:
        cursor = LogCursor(build.follow, 0) if build.follow is not None else None
        looked = self.look(build.image)
        yield looked
        if cursor is None and looked.result():
            yield Said(Told.of(found(build.image)))
        else:
            yield from self.watch(self.join(build, looked, provider), cursor)

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

        launched = self.begin(
            LaunchCursor(server.name, server.ref, began),
            server,
            ready,
            spec=f"image/{server.image}",
            provider="image",
        )
        last: Event | None = None
        async with aclosing(self.tell(_all_of(launched.reader(0)))) as batches:
            async for batch in batches:
                last = batch[-1].event if batch else last
        if not isinstance(last, Ready | Failed):
            raise ShuttingDown("This Binder is shutting down; ask again.")
        return last

    def check_image(self, image: str) -> None:
        """Return if an image may be launched whose name was made elsewhere, or long ago.

        Raises:
            Refused: It has no name that this server gives, and `Limits.allow_images` does not name
                it.
        """
        if naming.is_image_name(self._image_prefix, image):
            return
        if any(fnmatchcase(image, allowed) for allowed in self._allow_images):
            return
        own = f"{self._image_prefix}<repository>-<6 hexadecimal digits>:<ref>"
        others = ", ".join(self._allow_images) or "none"
        raise Refused(
            f"The image {image[:200]!r} is not launched: allowed are {own} and those of the "
            f"setting limits.allow_images ({others})."
        )

    async def preload(self, image: str) -> None:
        """Return when an image, which exists, is wherever servers may start.

        Raises:
            Refused: It may not be launched: see `check_image`.
            LaunchFailed: It cannot be brought there.
            BackendUnavailable: A connection or an engine broke.
        """
        self.check_image(image)
        if self._launcher is not None:
            await self._launcher.preload(image)

    async def end_build(self, build: BuildRequest, reason: str = STOPPED) -> None:
        """End a build, whichever server follows it, and return when it has ended.

        Raises:
            BackendUnavailable: The engine that builds did not answer.
        """
        live = self._jobs.machine.live(build.name)
        if live is None:
            await self._jobs.persist(lambda: self._builder.stop(build, reason))
        else:
            self._jobs.stop(build.name, reason)
            await self._jobs.ended(live.id)


def found(image: str) -> Built:
    """Return the event of an image that need not be built."""
    return Built(message=f"Found built image {image}\n", image=image)


def build_request(resolved: Resolved, image: str) -> BuildRequest:
    """Return what to build, if it is not there already."""
    return BuildRequest(
        name=naming.build_name(image, resolved.repo_url, resolved.ref),
        image=image,
        repo_url=resolved.repo_url,
        ref=resolved.ref,
        content_provider=resolved.content_provider,
    )


def _joined(batches: list[Batch]) -> Batch:
    """Return several as one; one stays what others read as well, and encoded only once."""
    return batches[0] if len(batches) == 1 else Page(chain.from_iterable(batches))


def _all_of(source: Source) -> Generator[Source]:
    yield source
