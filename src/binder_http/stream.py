"""A stream of one client: bytes, in time, until the end or until the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from binder_core.engine import Batch
from binder_http import sse


async def chunks(
    batches: AsyncGenerator[Batch], *, retry: float, linger: float, closing: asyncio.Event
) -> AsyncGenerator[bytes]:
    """Yield what to write, each piece at once.

    A client that leaves cancels whoever writes, wherever it waits in here: `batches` is closed and
    the cancellation goes on.

    Args:
        batches: Events; an empty batch is a heartbeat.
        retry: Seconds after which EventSource shall reconnect.
        linger: Seconds to wait after the last event, so that the client closes first: EventSource
            takes the end of a stream for a broken one.
        closing: Set when the server stops: nobody lingers any more.
    """
    hint = sse.retry(retry)
    ended = False
    async with aclosing(batches):
        async for batch in batches:
            if batch and hint:
                yield hint + sse.frames(batch)
                hint = b""
            else:
                yield sse.frames(batch)
            ended = sse.ends(batch)
    if ended:
        try:
            async with asyncio.timeout(linger):
                await closing.wait()
        except TimeoutError:
            pass
