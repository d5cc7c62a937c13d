"""Event streams without all that Quart keeps for an answer.

That is three tasks, the request and its contexts for as long as the answer takes. A stream takes
hours, most of which it waits: what it needs is a generator of bytes and an ear for the client's
leaving. Where this package serves itself, hypercorn's part goes as well: see
`binder_http.handover`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    HTTPScope,
)
from quart import Quart, Response
from quart.asgi import ASGIHTTPConnection
from quart.typing import ResponseTypes
from quart.utils import encode_headers

from binder_http.handover import Handover


class EventStream(Response):
    """An answer that takes as long as somebody listens.

    Args:
        body: What to write, each piece at once.
        headers: Of the answer.
    """

    def __init__(self, body: AsyncGenerator[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(body, headers=dict(headers))
        self.body = body
        # Else Quart cuts every stream after RESPONSE_TIMEOUT.
        self.timeout = None


class Connection(ASGIHTTPConnection):
    """Quart's way to answer a request, which it leaves as soon as an event stream has begun.

    An app of somebody else's may have any other: streams work there as well, and take more memory.

    Args:
        app: Answers.
        scope: The request's.
        handover: Takes streams over from the server below, where it can.
    """

    def __init__(self, app: Quart, scope: HTTPScope, handover: Handover | None = None) -> None:
        super().__init__(app, scope)
        self._handover = handover
        self._stream: EventStream | None = None

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer a request."""
        left = False

        async def heard() -> ASGIReceiveEvent:
            nonlocal left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            return message

        await super().__call__(heard, send)
        stream, self._stream = self._stream, None
        if stream is None or left:
            return
        taken = self._handover is not None and self._handover.take(
            self.scope, send, stream.body, stream.status_code
        )
        if not taken:
            await _pass_on(stream.body, receive, send)

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        if not isinstance(response, EventStream):
            await super()._send_response(send, response)
            return
        headers = encode_headers(response.headers)
        if self._handover is not None and self.scope["http_version"] == "1.1":
            headers.append((b"connection", b"close"))  # nothing comes behind a stream taken over
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": headers,
            }
        )
        self._stream = response


async def _pass_on(
    body: AsyncGenerator[bytes], receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Write a stream to its end, or until the client leaves."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    left = False

    async def listen() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    listening = asyncio.create_task(listen())
    try:
        async with aclosing(body):
            async for data in body:
                await send({"type": "http.response.body", "body": data, "more_body": True})
    except asyncio.CancelledError:
        # Unless somebody else wants this task to end as well.
        if not left or task.uncancel():
            raise
    else:
        listening.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        listening.cancel()
