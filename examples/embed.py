"""Binder as a library: a repository's way to a running server."""

import secrets
import sys

import anyio

from binder_backends.asker import AskerSettings, HttpGitAsker
from binder_backends.fake import BuilderSettings, FakeBuilder, FakeLauncher, LauncherSettings
from binder_core.engine import Binder
from binder_core.providers import defaults


async def main(spec: str) -> None:
    async with HttpGitAsker(AskerSettings()) as asker:
        builder = FakeBuilder(BuilderSettings())  # binder_backends.local builds for real
        launcher = FakeLauncher(LauncherSettings())
        made = Binder(providers=defaults(), builder=builder, launcher=launcher, asker=asker,
                      key=secrets.token_bytes(32))  # fmt: skip
        async with made as binder:
            async for event in binder.launch(spec):
                print(f"{event.phase:9} {event.message}", end="")


anyio.run(main, sys.argv[1])
