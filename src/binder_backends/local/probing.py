"""Asks a notebook server whether it answers."""

from __future__ import annotations

import re
from typing import Final

import anyio

_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_MAX_REPLY_BYTES: Final = 64 * 1024


async def api_status(host: str, port: int, token: str) -> int:
    """Return the HTTP status of ``/api/status``; 0 if nobody there answers as Jupyter does.

    Args:
        host: An address.
        port: The server's.
        token: The server's.
    """
    request = (
        "GET /api/status HTTP/1.1\r\n"
        f"Host: {f'[{host}]' if ':' in host else host}:{port}\r\n"
        f"Authorization: token {token}\r\n"
        "Connection: close\r\n\r\n"
    )
    reply = b""
    try:
        async with await anyio.connect_tcp(host, port) as stream:
            await stream.send(request.encode())
            while len(reply) < _MAX_REPLY_BYTES:
                reply += await stream.receive()
    except anyio.EndOfStream:
        pass
    except (OSError, anyio.BrokenResourceError):
        return 0
    found = _STATUS.match(reply)
    if found is None:
        return 0
    status = int(found[1])
    # Another program may have taken the port, and many answer 200 to anything.
    return 0 if status == 200 and b'"started"' not in reply else status
