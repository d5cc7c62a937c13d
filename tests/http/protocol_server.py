"""A server of the older protocol as a process: prints its URL and serves until it is killed.

Arguments: the settings, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

from protocol_world import KnownGitHub

from binder_http.config import load
from binder_http.server import running


async def main() -> None:
    config = load(env={}, flags=json.loads(sys.argv[1]))
    async with running(config, providers={"gh": KnownGitHub()}) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
