"""Event streams without all that Quart keeps for an answer.

That is three tasks, the request and its contexts for as long as the answer takes. A stream takes
hours, most of which it waits: what it needs is a generator of bytes and an ear for the client's
leaving.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable
from quart import Response
from quart.asgi import ASGIHTTPConnection
from quart.typing import ResponseTypes
from quart.utils import encode_headers


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
    """

    _body: AsyncGenerator[bytes] | None = None

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer a request."""
        left = False

        async def heard() -> ASGIReceiveEvent:
            nonlocal left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            return message

        await super().__call__(heard, send)
        body, self._body = self._body, None
        if body is not None and not left:
            await _pass_on(body, receive, send)

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        if not isinstance(response, EventStream):
            await super()._send_response(send, response)
            return
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        self._body = response.body


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
