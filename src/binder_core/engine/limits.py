"""What the engine may take, and how patient it is."""

from __future__ import annotations

from typing import Final

import msgspec

from binder_core.builds import BuildLimits
from binder_core.journal import CAP_BYTES

_SELDOM: Final = 25
_OFTEN: Final = 5
"""How much longer than a round of writes it is from one to the next."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Durations are seconds."""

    max_builds: int | None = None
    """How many builds run at once; the others queue. Watchers take no slot."""
    build_timeout: float | None = 3 * 3600.0
    """A build that takes longer is stopped."""
    build_silence: float | None = None
    """A build that says nothing for so long is stopped."""
    stop_grace: float = 30.0
    """How long a build that is being stopped may take to end."""
    launch_timeout: float = 300.0
    """A launch that takes longer has failed."""
    retry_for: float = 60.0
    """How long a backend that broke is tried again, counted from the last progress."""
    keep_ended: float = 300.0
    """How long an ended build or launch is kept for those who reconnect."""
    max_handle_age: float = 24 * 3600.0
    """How old a launch may be to which a client reconnects."""
    heartbeat: float = 25.0
    """Between two heartbeats of a silent stream. Proxies cut what is silent for 30 s and more."""
    batch: float = 0.05
    """How long a log line may wait for others while lines are pouring in: a twenty-fifth of it at
    least, half of it where many watch, half as much again while the server is behind."""
    log_cap_bytes: int = CAP_BYTES
    """How much of a build's log is held in memory: half for its head, half for its tail."""
    allow_images: tuple[str, ...] = ()
    """Images that may be launched beside those that were named here; ``*`` stands for anything."""

    @property
    def burst(self) -> float:
        """Return how long a line waits for others at least.

        What a program prints at once comes in pieces, and each round of writes costs as much as
        many lines.
        """
        return self.batch / 25

    def patience(self, took: float) -> float:
        """Return how long lines wait for others now, from one round of writes to the next.

        Writing takes a twenty-fifth of the time while lines need not wait half of `batch` for that,
        and a fifth at most while they need not wait half as much again.

        Args:
            took: What the last round took.
        """
        return min(max(_OFTEN * took, min(_SELDOM * took, self.batch / 2)), self.batch * 3 / 2)

    def of_builds(self) -> BuildLimits:
        """Return those that the dedup machine keeps."""
        return BuildLimits(
            max_builds=self.max_builds,
            max_age=self.build_timeout,
            max_silence=self.build_silence,
            stop_grace=self.stop_grace,
            keep_ended=self.keep_ended,
        )
