"""Somebody else's Quart app, with Binder under /binder.

Run it with ``python examples/quart_app.py``; BINDER_BUILDER__KIND=local builds for real.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator

from hypercorn import Config
from hypercorn.asyncio import serve
from quart import Quart

from binder_http.app import blueprint
from binder_http.assembly import access_token, make_asker, make_binder, opened
from binder_http.config import load
from binder_http.security import guard

config = load()
asker = make_asker(config)
binder = make_binder(config, asker)

app = Quart(__name__)
# Where builds and servers run as this user, the guard asks each request for a token.
app.register_blueprint(
    blueprint(binder, guard=guard(config, access_token(config))), url_prefix="/binder"
)


@app.get("/")
async def front() -> str:
    return "A page of mine."


@app.while_serving
async def binder_is_open() -> AsyncGenerator[None]:
    async with opened(binder, asker):
        yield


async def main(address: str) -> None:
    stop = asyncio.Event()

    def stopping() -> None:
        binder.drain()  # open event streams end, and their clients come again
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping)
    hypercorn = Config()
    hypercorn.bind = [address]
    await serve(app, hypercorn, shutdown_trigger=stop.wait)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"))
