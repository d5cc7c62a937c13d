"""A Quart app over hypercorn that answers three events.

``python -m benchmarks.bare_quart PORT``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator

from hypercorn import Config
from hypercorn.asyncio import serve
from quart import Quart, Response

FRAMES = (
    b'id: ~eyJ\ndata: {"phase":"built","message":"Found built image x\\n","imageName":"x"}\n\n',
    b'id: ~eyJ\ndata: {"phase":"launching","message":"Server is starting\\n"}\n\n',
    b'id: ~eyJ\ndata: {"phase":"ready","message":"Server running at http://127.0.0.1:1/\\n"}\n\n',
)

app = Quart(__name__)


@app.get("/build/<path:spec>")
async def build(spec: str) -> Response:
    async def body() -> AsyncGenerator[bytes]:
        for frame in FRAMES:
            yield frame

    headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
    response = Response(body(), headers=headers)
    response.timeout = None
    return response


@app.get("/versions")
async def versions() -> dict[str, str]:
    return {}


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    asyncio.run(serve(app, config))
