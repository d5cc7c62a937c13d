"""Which phase may follow which: the rules of order as one table.

1. A stream starts with ``waiting``, ``built`` or ``failed``.
2. Rank never falls: waiting < fetching < building < pushing < built < launching < ready.
   ``failed`` may end any of them.
3. There is exactly one last event, ``ready`` or ``failed``, and nothing after it.
4. ``built`` comes exactly once, before ``launching``; there is no ``launching`` without it.

(The rules 5 to 9, about many watchers of one build, are kept by `binder_core.builds` and
`binder_core.engine.jobs`.)
"""

from __future__ import annotations

import enum
from typing import Final


class Phase(enum.StrEnum):
    """Where a request stands, in the words of the event stream."""

    WAITING = "waiting"
    FETCHING = "fetching"
    BUILDING = "building"
    PUSHING = "pushing"
    BUILT = "built"
    LAUNCHING = "launching"
    READY = "ready"
    FAILED = "failed"


_W, _F, _B, _P = Phase.WAITING, Phase.FETCHING, Phase.BUILDING, Phase.PUSHING
_BT, _L, _R, _X = Phase.BUILT, Phase.LAUNCHING, Phase.READY, Phase.FAILED

FIRST: Final = frozenset({_W, _BT, _X})
"""What a stream may start with."""

FINAL: Final = frozenset({_R, _X})
"""What a stream ends with."""

LOG: Final = frozenset({_F, _B, _P})
"""The phases that a builder's log lines are told in."""

NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    _W: frozenset({_W, _F, _B, _P, _BT, _X}),
    _F: frozenset({_F, _B, _P, _BT, _X}),
    _B: frozenset({_B, _P, _BT, _X}),
    _P: frozenset({_P, _BT, _X}),
    _BT: frozenset({_L, _R, _X}),  # straight to ready where only a build was asked for
    _L: frozenset({_L, _R, _X}),
    _R: frozenset(),
    _X: frozenset(),
}
"""What may follow each phase."""

_RANK: Final = {phase: rank for rank, phase in enumerate(Phase)}


def may_follow(before: Phase | None, phase: Phase) -> bool:
    """Return whether `phase` may come after `before`, None being the start of a stream."""
    return phase in (FIRST if before is None else NEXT[before])


def log_phase(before: Phase | None, said: Phase | None) -> Phase:
    """Return the phase in which a log line is told.

    A line without a phase stays in the one before it, and one that names an earlier phase does not
    take the build back (rule 2). Only phases of a log count: a build cannot say of itself that it
    is built.

    Args:
        before: The phase of the line before, None for the first.
        said: What the line says of itself, None if nothing.
    """
    held = before if before in LOG else Phase.FETCHING
    if said not in LOG:
        return held
    return max(held, said, key=_RANK.__getitem__)
