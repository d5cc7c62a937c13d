"""Plays a Docker engine: gives the answers that a test wrote down."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from aiohttp import web

Answer: TypeAlias = tuple[int, object]
"""Status, 0 for none at all, and bytes, a page of HTML, or what becomes JSON."""
Answers: TypeAlias = dict[str, Answer | list[Answer]]
"""By question, as ``GET /version``. Of several, each is given once and the last from then on."""

GOOD: Answers = {
    "GET /version": (200, {"Version": "20.10.24", "ApiVersion": "1.41"}),
    "GET /images/binderkit-builder/json": (
        200,
        {"Config": {"Labels": {"io.binderkit.runner": "yes"}}},
    ),
    "GET /containers/json": (200, []),
}
"""Those of an engine on which nothing runs."""


class PlayEngine:
    """An engine of the test's own."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.asked: list[str] = []
        """The questions so far."""
        self.host = ""

    def told(self, words: str) -> list[str]:
        """Return the questions so far that begin so."""
        return [each for each in self.asked if each.startswith(words)]

    async def _answer(self, asked: web.Request) -> web.StreamResponse:
        # Each question has the version before it that the engine gave as its own.
        question = f"{asked.method} {re.sub(r'^/v1[.][0-9]+/', '/', asked.path)}"
        query = f"?{asked.query_string}" if asked.query_string else ""
        self.asked.append(question + query)
        known = self.answers.get(question, (404, {"message": "no such thing"}))
        if isinstance(known, list):
            known = known.pop(0) if len(known) > 1 else known[0]
        status, said = known
        if not status:
            await asyncio.Event().wait()
        if isinstance(said, str):
            return web.Response(status=status, text=said, content_type="text/html")
        if isinstance(said, bytes):
            return web.Response(status=status, body=said)
        text = json.dumps(said) if said is not None else ""
        return web.Response(status=status, text=text, content_type="application/json")


@asynccontextmanager
async def playing(path: Path, answers: Answers) -> AsyncIterator[PlayEngine]:
    """Run an engine with a socket at `path`."""
    engine = PlayEngine(answers)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", engine._answer)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    engine.host = f"unix://{path}"
    try:
        yield engine
    finally:
        await runner.cleanup()


def frame(stream: int, data: bytes) -> bytes:
    """Return a piece of a container's log."""
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data
