"""Events as the bytes of an event stream. Pure, and made once for all who watch.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from binder_core.journal import Page, Told
from binder_core.ordering import FINAL

HEARTBEAT: Final = b":heartbeat\n\n"
"""A comment: it keeps proxies from cutting a silent stream, and clients drop it."""

CONTENT_TYPE: Final = "text/event-stream"


def retry(seconds: float) -> bytes:
    """Return the hint how long EventSource shall wait before it reconnects.

    It belongs right before an event: some clients take one that stands alone for an empty event.
    """
    return b"retry: %d\n" % round(seconds * 1000)


def frame(told: Told) -> bytes:
    """Return one event. It is kept in `told`, for the next who watches."""
    made = told.frame
    if made is None:
        # JSON has no line break outside of strings and escapes those inside: one line is enough.
        if told.id:
            made = b"id: %b\ndata: %b\n\n" % (told.id.encode(), told.data)
        else:
            made = b"data: %b\n\n" % told.data
        told.frame = made
    return made


def frames(batch: Sequence[Told]) -> bytes:
    """Return a batch as one write; nothing new is a heartbeat."""
    if not batch:
        return HEARTBEAT
    if not isinstance(batch, Page):
        return b"".join(map(frame, batch))
    # A page of a journal is joined once for all who read it.
    if batch.frames is None:
        batch.frames = b"".join([told.frame or frame(told) for told in batch])
    return batch.frames


def ends(batch: Sequence[Told]) -> bool:
    """Return whether the last event of a stream is in the batch."""
    return bool(batch) and batch[-1].phase in FINAL
