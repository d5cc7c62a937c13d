"""Notebook servers, wherever they run: what they are told, and whether they answer."""

from __future__ import annotations

import re
from typing import Final

import anyio

from binder_core.plugin import LaunchFailed

_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_MAX_REPLY_BYTES: Final = 64 * 1024


async def api_status(host: str, port: int, token: str = "") -> int:
    """Return the HTTP status of ``/api/status``; 0 if nobody there answers as Jupyter does.

    Args:
        host: An address.
        port: The server's.
        token: The server's; empty: asked as somebody who has none.
    """
    known = f"Authorization: token {token}\r\n" if token else ""
    request = (
        "GET /api/status HTTP/1.1\r\n"
        f"Host: {f'[{host}]' if ':' in host else host}:{port}\r\n"
        f"{known}Connection: close\r\n\r\n"
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


async def asks_for_token(host: str, port: int, *, who: str, within: float) -> bool:
    """Return whether a server turns away who has no token; not if it does not answer now.

    Args:
        host: An address.
        port: The server's.
        who: What may have turned that off, for the message: ``the image``.
        within: Seconds in which it has to answer.

    Raises:
        LaunchFailed: It takes everybody.
    """
    status = 0
    with anyio.move_on_after(within):
        status = await api_status(host, port)
    if status == 200:
        raise LaunchFailed(
            f"The notebook server asks nobody for its token: {who} turns that off, with"
            " c.IdentityProvider.token or c.ServerApp.token in a configuration of Jupyter's."
            " Remove that setting."
        )
    return status != 0


def both(name: str, value: object) -> list[str]:
    """Return the arguments that set an option of the server, of whichever generation it is."""
    # Notebook 6 knows only the second.
    return [f"--ServerApp.{name}={value}", f"--NotebookApp.{name}={value}"]


def idle_arguments(seconds: float) -> list[str]:
    """Return what has a server, and each of its kernels before, end when nobody uses it.

    Args:
        seconds: Without activity; 0: never.
    """
    if not seconds:
        return []
    idle = max(1, round(seconds))  # Jupyter's own 0 means never
    return [
        *both("shutdown_no_activity_timeout", idle),
        f"--MappingKernelManager.cull_idle_timeout={idle}",
        f"--MappingKernelManager.cull_interval={max(1, min(idle // 4, 300))}",
        "--MappingKernelManager.cull_connected=True",
        f"--TerminalManager.cull_inactive_timeout={idle}",
    ]
