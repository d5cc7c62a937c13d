"""One attempt at a build, as its builder tells it and its watchers read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio

from binder_core import events
from binder_core.builds import BuildId
from binder_core.engine.bell import Batch, Bell, Source
from binder_core.events import Built, Event, Failed, Progress, Waiting
from binder_core.journal import Journal, Page, Told
from binder_core.ordering import Phase, log_phase
from binder_core.plugin import BuildRequest
from binder_core.resume import END, LogCursor, check_run_id, log_id


class BuildJob:
    """One attempt at a build: its journal, and the `Report` that the builder writes to.

    Args:
        build_id: The attempt.
        request: What is built.
        log_cap_bytes: How much of its log is held.
        on_start: Called with the run's id when it is known.
        on_news: Called when a line is in the journal.
    """

    def __init__(
        self,
        build_id: BuildId,
        request: BuildRequest,
        *,
        log_cap_bytes: int,
        on_start: Callable[[BuildJob, str], None],
        on_news: Callable[[BuildJob], None],
    ) -> None:
        self.id = build_id
        self.request = request
        self.provider = ""
        self.bell = Bell()
        self.journal = Journal(cap_bytes=log_cap_bytes)
        self.built = False
        self.ended = False
        self.outcome: Told
        """The last event of the build, there once it has ended. It is none of the journal's: who
        comes back is told it even where the log is shorter than it was, or gone."""
        self.heard = 0
        """How many words of the builder have come, those that came again included."""
        self.began = anyio.current_time()
        self.scope = anyio.CancelScope()
        self.tasked = False
        """Whether it has a task."""
        self.may_start = anyio.Event()
        """Set when a run may be started for it."""
        self.looked_in_vain = False
        """Whether there was no run of it to follow, when it was looked for."""
        self._on_start = on_start
        self._on_news = on_news
        self._phase: Phase | None = None
        # Mostly one run. A second one, where the first vanished with the engine below it, is told
        # behind it; its lines are numbered on from here.
        self._runs: dict[str, int] = {}
        self._run_id: str | None = None
        self.tell_waiting("Waiting for the build to start...\n")

    # The `Report` protocol.

    def waiting(self, message: str) -> None:
        """Tell why the build has not begun yet."""
        self.heard += 1
        self.tell_waiting(message)

    def started(self, run_id: str) -> None:
        """Tell which run of the build is reported."""
        self.heard += 1
        if run_id == self._run_id or self.ended:
            return
        check_run_id(run_id)
        if self._runs and run_id not in self._runs:
            lost = events.log_event(log_phase(self._phase, None), "The build starts again.\n")
            self.tell(lost)
        self._run_id = run_id
        self._runs.setdefault(run_id, self.journal.last_number)
        self._on_start(self, run_id)
        self.bell.ring()

    def line(
        self,
        n: int,
        message: str,
        *,
        phase: Phase | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Tell line `n` of the log; one that was told already is dropped."""
        if self._run_id is None:
            raise RuntimeError("a builder must report `started` before its first line")
        self.heard += 1
        number = self._runs[self._run_id] + n
        if self.ended or number <= self.journal.last_number:
            return
        self._phase = now_in = log_phase(self._phase, phase)
        data = events.encode_line(now_in, message, progress)
        self.journal.append(Told(log_id(self._run_id, n), now_in, data), number)
        self._on_news(self)

    # For `Jobs` and the watchers.

    @property
    def begun(self) -> bool:
        """Return whether the builder has told which run it is."""
        return self._run_id is not None

    @property
    def phase(self) -> Phase:
        """Return what was told last."""
        if self.ended:
            return Phase.BUILT if self.built else Phase.FAILED
        return self._phase or Phase.WAITING

    def to_build(self) -> BuildRequest:
        """Return what to ask of the builder: where it broke, the same run once more.

        That one may have ended meanwhile; without its id, a failed build would be built again.
        """
        if self._run_id is None:
            return self.request
        return replace(self.request, follow=self._run_id)

    def tell_waiting(self, message: str) -> None:
        """Tell what the watchers wait for, unless the build has begun."""
        if self._run_id is None and not self.ended:
            self._word = Page([Told.of(Waiting(message=message))])
            self.journal.append(self._word[0])
            self._behind_word = len(self.journal)
            self.bell.ring()

    def tell(self, event: Event) -> None:
        """Tell what stands between the lines, in the words of this server."""
        self.journal.append(Told.of(event))
        self.bell.ring()

    def end(self, event: Built | Failed, *, of_run: bool) -> None:
        """Tell the last event of the build.

        Args:
            event: How it ended.
            of_run: Whether its log says so: every server tells it as the line behind the last.
                Else it is this server that knows no further, and the run may well say more.
        """
        self.built, self.ended = event.phase is Phase.BUILT, True
        event_id = "" if self.built else END
        if of_run and self._run_id is not None:
            n = self.journal.last_number + 1 - self._runs[self._run_id]
            event_id = log_id(self._run_id, n, last=not self.built, built=self.built)
        self.outcome = Told.of(event, event_id)
        self.bell.ring()

    def reader(self, cursor: LogCursor | None, *, built: bool = True) -> Source:
        """Return what a watcher reads.

        Args:
            cursor: What it has seen; None: nothing.
            built: Whether to tell a good end as well, unless it has seen that.
        """
        return _BuildReader(self, cursor, built=built)

    def position_after(self, cursor: LogCursor) -> int | None:
        """Return where a watcher goes on who has seen `cursor`; None if that is not known yet."""
        base = self._runs.get(cursor.run_id)
        if base is not None:
            number = base + cursor.n
            if self.journal.last_number >= number or self.ended:
                return self.journal.position_after(number)
            return None  # this server has not read so far itself
        if self._run_id is None:
            # The image was there and no run: the outcome is all that is left to tell.
            return len(self.journal) if self.ended else None
        return None

    def is_news_to(self, cursor: LogCursor) -> bool:
        """Return whether who has seen `cursor` is a newcomer here: that run is not told."""
        if self._run_id is None:
            return self.looked_in_vain
        return cursor.run_id not in self._runs

    @property
    def greeting(self) -> tuple[Batch, int]:
        """Return what a newcomer is told first, and where it goes on.

        Of all that was said before the build began only the last word still counts: places in a
        queue that it once had are no news.
        """
        return self._word, self._behind_word


class _BuildReader:
    def __init__(self, job: BuildJob, cursor: LogCursor | None, *, built: bool) -> None:
        self.bell = job.bell
        self._job = job
        self._cursor = cursor
        self._position: int | None = None
        self._tell_built = built and not (cursor and cursor.built)
        self._over = False

    def read(self) -> Batch | None:
        job = self._job
        if self._position is None:
            if self._cursor is None or job.is_news_to(self._cursor):
                told, self._position = job.greeting
                return told
            self._position = job.position_after(self._cursor)
            if self._position is None:
                return ()
        batch, self._position = job.journal.read(self._position)
        if batch or not job.ended:
            return batch or ()
        if self._over or (job.built and not self._tell_built):
            return None
        self._over = True
        return (job.outcome,)
