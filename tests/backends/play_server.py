"""Plays a server process of ours: builds or launches what it is told, until it is killed.

``python play_server.py build|launch``, all else as JSON on standard input. It prints what it is
told, a line each; a launch then waits for ever.
"""

from __future__ import annotations

import sys
from typing import Any

import anyio
import msgspec

from binder_backends.local import LocalBuilder, LocalLauncher, LocalLaunchSettings, LocalSettings
from binder_core.plugin import BuildFailed, BuildRequest, LaunchRequest


def say(*words: object) -> None:
    print(*words, flush=True)


class Report:
    def waiting(self, message: str) -> None:
        say("waiting", message)

    def started(self, run_id: str) -> None:
        say("started", run_id)

    def line(self, n: int, message: str = "", **_: Any) -> None:
        say("line", n, message.rstrip())


class LaunchReport:
    def line(self, message: str) -> None:
        say("told", message)


async def build(given: dict[str, Any]) -> None:
    async with LocalBuilder(msgspec.convert(given["settings"], LocalSettings)) as builder:
        try:
            await builder.build(msgspec.convert(given["request"], BuildRequest), Report())
        except BuildFailed as failure:
            say("failed", failure.message.splitlines()[0])
        else:
            say("built")


async def launch(given: dict[str, Any]) -> None:
    async with LocalLauncher(msgspec.convert(given["settings"], LocalLaunchSettings)) as launcher:
        request = msgspec.convert(given["request"], LaunchRequest)
        say("ready", await launcher.launch(request, LaunchReport()))
        await anyio.sleep_forever()


if __name__ == "__main__":
    todo = {"build": build, "launch": launch}[sys.argv[1]]
    anyio.run(todo, msgspec.json.decode(sys.stdin.buffer.read()))
