"""The plug-in: what binderkit calls."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import anyio
import msgspec
from anyio import to_thread

from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    LogReader,
    Outcome,
    Plugin,
    Report,
)
from binderkit_copy_builder.store import Store

_POLL = 0.05
_CHUNK = 64 * 1024


class CopySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The section ``[builder.copy]`` of an operator's configuration."""

    folder: str
    """Where images and logs are kept. Servers that share it share their builds."""
    protocols: tuple[str, ...] = ("https", "ssh")
    """What git may fetch over."""
    scan: tuple[str, ...] = ()
    """A command that has to approve of each image: it gets the tarball's path as last argument,
    what it prints is part of the log, and any exit status but 0 fails the build."""


class CopyBuilder(Plugin):
    """Makes an image of a repository: a tarball of its files.

    Each run is a process of its own that holds a lock and writes a numbered log. So a run goes on
    when the server that started it ends, and whoever comes next, also from another process, finds
    it by its lock and tells the same lines with the same numbers.
    """

    Settings: ClassVar[type[msgspec.Struct]] = CopySettings

    def __init__(self, settings: CopySettings) -> None:
        self._store = Store(Path(settings.folder), settings.protocols, settings.scan)
        self._git = ""

    async def __aenter__(self) -> Self:
        """Make the folder.

        Raises:
            BackendUnavailable: There is no git, or the folder cannot be made.
        """
        await self.check()
        answer = await anyio.run_process(["git", "--version"])
        self._git = answer.stdout.decode().removeprefix("git version ").strip()
        return self

    async def check(self) -> None:
        """Return if git is there and the folder can be used."""
        if shutil.which("git") is None:
            raise BackendUnavailable("The copy builder needs git on the PATH.")
        try:
            await to_thread.run_sync(self._store.prepare)
        except OSError as error:
            raise BackendUnavailable(
                f"The copy builder cannot use its folder: {error.strerror}. See the setting folder."
            ) from error

    def versions(self) -> Mapping[str, str]:
        """Return git's version."""
        return {"git": self._git}

    async def exists(self, image: str) -> bool:
        """Return whether the tarball is there."""
        return await to_thread.run_sync(self._store.has_image, image)

    async def build(self, request: BuildRequest, report: Report) -> None:
        """Start or find the run and tell its log."""
        if request.content_provider != "Git":
            raise BuildFailed(
                f"The copy builder fetches git repositories only, not {request.content_provider}."
            )
        try:
            run_id = await to_thread.run_sync(self._store.start_or_find, request)
            if run_id is None:
                return
            report.started(run_id)
            outcome = await self._tell(request.name, run_id, report)
        except OSError as error:
            # A full disk or a folder that went away says nothing about the build.
            raise BackendUnavailable(f"The builder's folder: {error.strerror}") from error
        if not outcome.built:
            raise BuildFailed(outcome.message)

    async def stop(self, request: BuildRequest, reason: str) -> None:
        """Kill the run under way, with all that it started."""
        await to_thread.run_sync(self._store.stop, request.name, reason)

    async def _tell(self, name: str, run_id: str, report: Report) -> Outcome:
        reader = LogReader()
        async with await anyio.open_file(self._store.log(name, run_id), "rb") as log:
            while True:
                data = await log.read(_CHUNK)
                for entry in reader.feed(data):
                    if isinstance(entry, Outcome):
                        return entry
                    report.line(entry.n, entry.message, phase=entry.phase, progress=entry.progress)
                if not data and not await to_thread.run_sync(self._store.settle, name, run_id):
                    await anyio.sleep(_POLL)
