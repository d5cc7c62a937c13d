"""The least there is: ``python -m benchmarks.bare PORT MODE FEED HEARTBEAT``.

A bare asyncio server that writes prepared frames to whoever asks. It knows nothing of HTTP but the
end of a request's head, and has no task for a watcher. ``/file/<path>`` sends a file.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from binder_http.sse import HEARTBEAT

HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\nconnection: close\r\n\r\n"
)
_FIRST: Final = b'data: {"phase":"waiting","message":"Waiting for the build to start...\\n"}\n\n'


class Watcher(asyncio.Protocol):
    """One client."""

    __slots__ = ("at", "builds", "head", "paused", "transport")

    def __init__(self, builds: Builds) -> None:
        self.builds = builds
        self.at = 0
        self.head = b""
        self.paused = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.head += data
        if b"\r\n\r\n" in self.head:
            target, self.head = self.head.split(b" ", 2)[1].decode(), b""
            self.transport.write(HEAD)
            if target.startswith("/build/"):
                self.transport.write(_FIRST)
                self.builds.join(target, self)
            elif target.startswith("/file/"):
                self.builds.keep(asyncio.create_task(self._send(unquote(target[6:]))))
            else:
                self.transport.close()

    async def _send(self, path: str) -> None:
        with Path(path).open("rb") as file:
            await asyncio.get_running_loop().sendfile(self.transport, file)
        self.transport.close()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.builds.serve(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.builds.leave(self)


class Build(asyncio.Protocol):
    """One build: its frames, as they come from the feeder, and who reads them."""

    def __init__(self, plan: str, *, each: bool) -> None:
        self.frames: list[bytes] = []
        self.watchers: dict[Watcher, None] = {}
        self._plan = plan
        self._each = each
        self._rest = b""
        self._due = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"frames {self._plan}\n".encode())

    def data_received(self, data: bytes) -> None:
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        self.frames += [frame + b"\n\n" for frame in frames]
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._due = False
        end = len(self.frames)
        made: dict[int, bytes] = {}
        for watcher in self.watchers:
            if watcher.paused or watcher.at == end:
                continue
            if self._each:
                self.serve(watcher)
                continue
            # Mostly all stand at the same place.
            new = made.get(watcher.at)
            if new is None:
                new = made[watcher.at] = b"".join(self.frames[watcher.at :])
            watcher.at = end
            watcher.transport.write(new)

    def serve(self, watcher: Watcher) -> None:
        """Write to one watcher what it has not got."""
        if not self._each:
            new = b"".join(self.frames[watcher.at :])
            watcher.at = len(self.frames)
            if new:
                watcher.transport.write(new)
            return
        while watcher.at < len(self.frames) and not watcher.paused:
            watcher.at += 1
            watcher.transport.write(self.frames[watcher.at - 1])


class Builds:
    """All builds."""

    def __init__(self, mode: str, feed: str) -> None:
        self._each = mode == "each"
        self._feed = feed
        self._builds: dict[str, Build] = {}
        self._of: dict[Watcher, Build] = {}
        self._tasks: set[asyncio.Task[object]] = set()

    def join(self, target: str, watcher: Watcher) -> None:
        """Let a watcher read a build, begun now if nobody reads it."""
        build = self._builds.get(target)
        if build is None:
            repo = unquote(target.split("/")[3])
            plan = repo.partition("//")[2].partition("/")[2]
            build = made = self._builds[target] = Build(plan, each=self._each)
            if self._feed:
                loop = asyncio.get_running_loop()
                connecting = loop.create_unix_connection(lambda: made, self._feed)
                self.keep(asyncio.create_task(connecting))
        build.watchers[watcher] = None
        self._of[watcher] = build
        build.serve(watcher)

    def keep(self, task: asyncio.Task[object]) -> None:
        """Keep a task until it has ended."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def serve(self, watcher: Watcher) -> None:
        """Go on with a watcher that reads again."""
        if watcher in self._of:
            self._of[watcher].serve(watcher)

    def leave(self, watcher: Watcher) -> None:
        """Forget a watcher."""
        build = self._of.pop(watcher, None)
        if build is not None:
            del build.watchers[watcher]

    def beat(self) -> None:
        """Write a heartbeat to everybody."""
        for watcher in self._of:
            watcher.transport.write(HEARTBEAT)


async def _serve(port: int, mode: str, feed: str, heartbeat: float) -> None:
    builds = Builds(mode, feed)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Watcher(builds), "127.0.0.1", port, backlog=1024)
    while True:
        await asyncio.sleep(heartbeat)
        builds.beat()


if __name__ == "__main__":
    _port, _mode, _feed, _heartbeat = sys.argv[1:]
    asyncio.run(_serve(int(_port), _mode, _feed, float(_heartbeat)))
