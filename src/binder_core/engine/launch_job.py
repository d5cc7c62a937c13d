"""One launch, as its launcher tells it and its watchers read it."""

from __future__ import annotations

import msgspec

from binder_core.engine.bell import Batch, Bell, Source
from binder_core.events import Event, Launching
from binder_core.journal import Told
from binder_core.ordering import FINAL, Phase
from binder_core.plugin import LaunchRequest
from binder_core.resume import LaunchCursor, Signer


class LaunchJob:
    """One launch: what was told of it, and the `LaunchReport` that the launcher writes to.

    Args:
        cursor: Where it stands: at its beginning, or where another server left it.
        request: What is launched.
        spec: ``<provider>/<spec>``, which its event ids are good for.
        signer: Makes the ids.
    """

    def __init__(
        self, cursor: LaunchCursor, request: LaunchRequest, spec: str, signer: Signer
    ) -> None:
        self.request = request
        self.bell = Bell()
        self.ended = False
        self.heard = 0
        """How many words of the launcher have come."""
        self.retries = 0
        self._cursor = cursor
        self._first = cursor.n
        self._told: list[Told] = []
        self._spec = spec
        self._signer = signer

    def line(self, message: str) -> None:
        """Tell the person who waits what is going on."""
        self.heard += 1
        self.tell_launching(message)

    def tell_launching(self, message: str) -> None:
        """Tell what goes on, unless the launch has ended."""
        if not self.ended:
            self.tell(Launching(message=message))

    def tell(self, event: Event) -> None:
        """Tell an event of the launch."""
        self.ended = event.phase in FINAL
        self._cursor = msgspec.structs.replace(self._cursor, n=self._cursor.n + 1, last=self.ended)
        event_id = self._signer.launch_id(self._cursor, self._spec)
        self._told.append(Told.of(event, event_id))
        self.bell.ring()

    def reader(self, n: int) -> Source:
        """Return what a watcher reads who has seen the first `n` events of the launch."""
        return _LaunchReader(self, n)

    @property
    def ready(self) -> bool:
        """Return whether it has come to a good end."""
        return bool(self._told) and self._told[-1].phase is Phase.READY

    def after(self, n: int) -> list[Told]:
        """Return what was told behind event `n`."""
        return self._told[max(0, n - self._first) :]


class _LaunchReader:
    def __init__(self, job: LaunchJob, n: int) -> None:
        self.bell = job.bell
        self._job = job
        self._n = n

    def read(self) -> Batch | None:
        batch = self._job.after(self._n)
        self._n += len(batch)
        return batch or (None if self._job.ended else ())
