"""A small world to run the real engine in: servers on one fake engine, and clients that watch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import anyio
import anyio.abc
import msgspec

from binder_backends.fake import (
    BuilderSettings,
    FakeBuilder,
    FakeEngine,
    FakeLauncher,
    LauncherSettings,
)
from binder_core.asking import Asks, http_get
from binder_core.engine import Binder, Limits, Request
from binder_core.journal import Told
from binder_core.ordering import FINAL, Phase, may_follow
from binder_core.plugin import (
    Answer,
    BuildRequest,
    Display,
    HttpReply,
    NoSettings,
    Pasted,
    ProviderUnavailable,
    Question,
    RefNotFound,
    Report,
    Resolved,
    Spec,
)
from binder_core.resume import LaunchCursor, Signer


async def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds."""
    while not condition():  # noqa: ASYNC110 - it depends on what has no event to wait for
        await anyio.sleep(0.001)


KEY = b"a key for tests, nothing more"


class WorldProvider:
    """``w/<repo>/<ref>``: one question to the world says what the ref is."""

    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    prefix = "w"
    display = Display("World", "Repository", "repo")

    def parse(self, text: str) -> Spec:
        repo, _, ref = text.partition("/")
        return Spec("w", repo, ref)

    def format(self, spec: Spec) -> str:
        return f"{spec.repo}/{spec.ref}"

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        reply = yield from http_get(f"http://world/{spec.repo}/{spec.ref}")
        if reply.status == 404:
            raise RefNotFound(f"The world knows no {spec.repo}/{spec.ref}.")
        return self.pinned(spec, reply.body.decode())

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        url = f"http://world/{spec.repo}"
        return Resolved("w", f"{spec.repo}/{ref}", url, ref, f"{url}/{ref}", spec.repo)

    def recognise(self, url: str) -> Pasted | None:
        del url
        return None


@dataclass
class WorldAsker:
    """Answers what the world's branches are."""

    branches: dict[str, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    delay: float = 0.0
    away: bool = False

    async def ask(self, question: Question) -> Answer:
        url = getattr(question, "url", "")
        self.asked[url] += 1
        await anyio.sleep(self.delay)
        if self.away:
            raise ProviderUnavailable("The world does not answer.")
        commit = self.branches.get(url.removeprefix("http://world/"))
        if commit is None:
            return HttpReply(404, url)
        return HttpReply(200, url, body=commit.encode())


class CountingBuilder(FakeBuilder):
    """Notices calls that one server must not make."""

    def __init__(self, engine: FakeEngine, settings: BuilderSettings) -> None:
        super().__init__(settings, engine)
        self.building: Counter[str] = Counter()

    async def build(self, request: BuildRequest, report: Report) -> None:
        self.building[request.name] += 1
        assert self.building[request.name] == 1, "rule 6: two builds of one key at a time"
        before = self.engine.runs_started[request.name]
        there = self.engine.has_image(request.image)
        try:
            await super().build(request, report)
        finally:
            self.building[request.name] -= 1
            if there:
                after = self.engine.runs_started[request.name]
                assert after == before, "rule 6: a build was started for an image that exists"


@dataclass(eq=False)
class Client:
    """Somebody who watches, leaves and comes back."""

    spec: str
    build_only: bool = False
    told: list[Told] = field(default_factory=list)
    """All events since the first connection."""
    starts: list[int] = field(default_factory=list)
    """How many had been told when each connection began."""
    last_id: str = ""
    online: bool = False
    heartbeats: int = 0
    scope: anyio.CancelScope = field(init=False)
    done: anyio.Event = field(init=False)

    @property
    def ended(self) -> bool:
        return bool(self.told) and self.told[-1].phase in FINAL

    @property
    def phases(self) -> list[Phase]:
        """The phases, without repetitions."""
        return [phase for phase, _ in itertools.groupby(told.phase for told in self.told)]

    @property
    def servers(self) -> set[str]:
        """The servers that it can come back to."""
        cursors = [
            Signer(KEY).read(told.id, self.spec, now=0, max_age=0) for told in self.told if told.id
        ]
        return {cursor.name for cursor in cursors if isinstance(cursor, LaunchCursor)}

    @property
    def messages(self) -> list[str]:
        return [told.event.message for told in self.told]

    def request(self) -> Request:
        provider, _, rest = self.spec.partition("/")
        return Request(
            provider=provider,
            spec=rest,
            build_only=self.build_only,
            last_event_id=self.last_id,
            launch_host="http://here/",
        )

    def run_lines(self) -> dict[str, list[tuple[int, bytes]]]:
        """The numbered events of each run, in the order in which they came."""
        runs: dict[str, list[tuple[int, bytes]]] = {}
        for told in self.told:
            if told.id and not told.id.startswith("~") and told.id != "end":
                run, n = told.id.split(".")[:2]
                runs.setdefault(run, []).append((int(n), told.data))
        return runs

    def check_order(self) -> None:
        """Hold the events against the rules 1 to 4."""
        before: Phase | None = None
        for told in self.told:
            assert may_follow(before, told.phase), (before, self.told)
            before = told.phase
        assert [told.phase for told in self.told].count(Phase.BUILT) <= 1, self.told


class World:
    """Servers on one fake engine.

    Args:
        tasks: Where clients run.
        builder: How builds go.
        launcher: How launches go.
        limits: Of all servers.
    """

    def __init__(
        self,
        tasks: anyio.abc.TaskGroup,
        *,
        builder: BuilderSettings | None = None,
        launcher: LauncherSettings | None = None,
        limits: Limits | None = None,
        branches: Mapping[str, str] | None = None,
    ) -> None:
        self.tasks = tasks
        self.engine = FakeEngine(clock=anyio.current_time, ident="run")
        self.asker = WorldAsker(dict(branches or {"repo/main": "c0ffee"}))
        self.limits = limits or Limits()
        self._builder = builder or BuilderSettings()
        self._launcher = launcher or LauncherSettings()
        self._names = itertools.count()

    def binder(self, *, launcher: bool = True) -> Binder:
        """Return a new server."""
        return Binder(
            providers={"w": WorldProvider()},
            builder=CountingBuilder(self.engine, self._builder),
            launcher=FakeLauncher(self._launcher, self.engine) if launcher else None,
            asker=self.asker,
            key=KEY,
            limits=self.limits,
            now=lambda: 1_800_000_000 + anyio.current_time(),
            unique=lambda: f"u{next(self._names)}",
        )

    def connect(self, client: Client, binder: Binder) -> None:
        """Let a client watch, from where it left."""
        client.online = True
        client.done = anyio.Event()
        client.scope = anyio.CancelScope()
        client.starts.append(len(client.told))
        self.tasks.start_soon(self._watch, client, binder)

    def watch(
        self, binder: Binder, spec: str = "w/repo/main", *, build_only: bool = False
    ) -> Client:
        """Return a new client that watches."""
        client = Client(spec, build_only)
        self.connect(client, binder)
        return client

    async def leave(self, client: Client) -> None:
        """Break the client's connection."""
        client.scope.cancel()
        await client.done.wait()

    async def _watch(self, client: Client, binder: Binder) -> None:
        stream = binder.stream(client.request())
        try:
            with client.scope:
                async for batch in stream:
                    client.heartbeats += not batch
                    for told in batch:
                        client.told.append(told)
                        client.last_id = told.id or client.last_id
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            client.online = False
            client.done.set()
