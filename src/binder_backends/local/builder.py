"""Builds images on this machine: folders in a cache, made by the runner in a session of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import anyio
import anyio.to_thread
import msgspec
import platformdirs

from binder_backends.local.environment import build_environment, secret_names
from binder_backends.local.layout import Layout
from binder_backends.local.runs import Runs, Started, new_run_id
from binder_backends.local.settings import LocalSettings
from binder_backends.runner import LocalRecipe, RunnerOptions
from binder_backends.runner.fetching import url_secrets
from binder_backends.runner.local import read_built
from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    BuildRun,
    LogReader,
    Outcome,
    Plugin,
    Report,
)

_READ_BYTES: Final = 256 * 1024
_FAST: Final = 0.002
_SLOW: Final = 0.05
_LOOK: Final = 0.5
"""Seconds between two looks whether the runner of a silent run still lives."""
_STOP_WITHIN: Final = 15.0

_CUT_OFF: Final = (
    "The build was cut off: its process was ended from outside (was there a reboot, is there enough"
    " memory?). Ask again, and it is built anew."
)


class LocalBuilder(Plugin):
    """Builds images as folders in a cache on this machine.

    A build is a process of its own that outlives this one. Its log and its lock are files, so any
    server that shares the cache finds it.

    Args:
        settings: What the operator set.
    """

    Settings: ClassVar[type[msgspec.Struct]] = LocalSettings

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._layout = Layout(cache_path(settings.cache_dir))
        self._versions: dict[str, str] = {}
        self._started: list[Started] = []

    async def __aenter__(self) -> Self:
        """Make the cache folder, and clear up what killed builds have left."""
        await anyio.to_thread.run_sync(self._make_ready)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go: builds under way go on."""
        self._reap()
        with warnings.catch_warnings():
            # "Still running" is what is wanted here.
            warnings.simplefilter("ignore", ResourceWarning)
            self._started.clear()

    async def check(self) -> None:
        """Return if git and uv are there and the cache can be written.

        Raises:
            BackendUnavailable: One is not.
        """
        await anyio.to_thread.run_sync(self._check)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of git, uv and Python."""
        return self._versions

    async def exists(self, image: str) -> bool:
        """Return whether `image` was built here."""
        try:
            return self._exists(image)
        except OSError as error:
            raise _unavailable("The image cache cannot be read", error) from error

    async def build(self, request: BuildRequest, report: Report) -> None:
        """Start or find the build; see `binder_core.plugin.Builder.build`."""
        runs = Runs(self._layout, request.name)
        try:
            while True:
                # Not interrupted in the middle: a run is started as a whole or not at all.
                found = await anyio.to_thread.run_sync(self._find_or_start, runs, request)
                if found is None:
                    return
                if found:
                    break
                await anyio.sleep(_SLOW)
            report.started(found)
            outcome = await self._tell(runs, found, report)
            # It has nothing left to do but to let go of the lock.
            with anyio.move_on_after(_LOOK):
                while runs.alive(found):  # noqa: ASYNC110 - it is another process that ends
                    await anyio.sleep(_FAST)
            self._reap()
        except OSError as error:
            raise _unavailable("The build's files cannot be read or written", error) from error
        if not outcome.built:
            raise BuildFailed(outcome.message or _CUT_OFF)

    async def stop(self, request: BuildRequest, reason: str) -> None:
        """End the run under way of this name, with all it started."""
        runs = Runs(self._layout, request.name)
        try:
            await anyio.to_thread.run_sync(self._stop, runs, reason)
        except OSError as error:
            raise _unavailable("The build's files cannot be read or written", error) from error

    async def under_way(self) -> list[BuildRun]:
        """Return the runs under way in this cache, whoever started them."""
        try:
            return await anyio.to_thread.run_sync(self._under_way)
        except OSError as error:
            raise _unavailable("The builds' files cannot be read", error) from error

    async def _tell(self, runs: Runs, run_id: str, report: Report) -> Outcome:
        """Report the log of a run while it grows, and return its outcome."""
        reader = LogReader()
        log = os.open(runs.log(run_id), os.O_RDONLY)
        try:
            delay, looked = _FAST, time.monotonic()
            while True:
                if data := os.read(log, _READ_BYTES):
                    for entry in reader.feed(data):
                        if isinstance(entry, Outcome):
                            return entry
                        report.line(
                            entry.n, entry.message, phase=entry.phase, progress=entry.progress
                        )
                    delay = _FAST
                    await anyio.lowlevel.checkpoint()
                    continue
                now = time.monotonic()
                if now - looked > _LOOK:
                    looked = now
                    await anyio.to_thread.run_sync(self._settle, runs, run_id)
                await anyio.sleep(delay)
                delay = min(2 * delay, _SLOW)
        finally:
            os.close(log)
            self._reap()

    def _find_or_start(self, runs: Runs, request: BuildRequest) -> str | None:
        """Return the run to report, None if there is nothing to report; empty: ask again."""
        if request.follow and runs.known(request.follow):
            outcome = runs.outcome(request.follow)
            if outcome is None or not outcome.built or self._exists(request.image):
                return request.follow
        lock = runs.lock()
        if lock is None:
            # Another one starts it just now, or it is just ending, if its log is not the one of a
            # run under way.
            run_id = runs.current()
            under_way = runs.known(run_id) and runs.outcome(run_id) is None
            return run_id if under_way else ""
        with lock:
            runs.repair(runs.current(), _CUT_OFF)
            if request.image_exists or self._exists(request.image):
                return None
            self._check()
            keep, keep_for = self._settings.keep_logs, self._settings.keep_logs_for
            runs.clean(keep=keep - 1, keep_for=keep_for, now=time.time())
            options, env = self._options(request)
            assert isinstance(options.recipe, LocalRecipe)  # noqa: S101 - narrows for mypy
            self._started.append(runs.start(lock, options, env))
            return options.recipe.run_id

    def _options(self, request: BuildRequest) -> tuple[RunnerOptions, dict[str, str]]:
        settings = self._settings
        run_id = new_run_id()
        env = build_environment(os.environ, settings.pass_environment)
        recipe = LocalRecipe(
            run_id=run_id,
            image=request.image,
            repo_url=request.repo_url,
            ref=request.ref,
            content_provider=request.content_provider,
            folder=str(self._layout.image(request.image) / run_id),
            built_file=str(self._layout.built_file(request.image)),
            git=self._program("git"),
            uv=self._program("uv"),
            python=settings.python or sys.executable,
            jupyter_packages=settings.jupyter_packages,
            allow_directories=settings.allow_directories,
        )
        options = RunnerOptions(
            recipe,
            time_limit=settings.build_timeout,
            silence_limit=settings.silence_timeout,
            log_cap_bytes=settings.log_cap_bytes,
            secrets=url_secrets(request.repo_url),
            secret_variables=secret_names(env),
        )
        return options, env

    def _settle(self, runs: Runs, run_id: str) -> None:
        """Give a run an outcome if its runner is gone without one."""
        self._reap()
        lock = runs.lock()
        if lock is not None:
            with lock:
                runs.repair(run_id, _CUT_OFF)

    def _stop(self, runs: Runs, reason: str) -> None:
        deadline = time.monotonic() + _STOP_WITHIN
        while runs.exist() and time.monotonic() < deadline:
            self._reap()
            lock = runs.lock()
            if lock is not None:
                with lock:
                    runs.repair(runs.current(), reason)
                return
            runs.end(runs.current(), reason)
            time.sleep(_FAST)
        if runs.exist():
            raise BackendUnavailable("The build could not be ended: its processes do not die.")

    def _under_way(self) -> list[BuildRun]:
        folders = sorted(filter(Path.is_dir, self._layout.builds.iterdir()))
        found = (Runs(self._layout, folder.name).under_way(time.time()) for folder in folders)
        return [run for run in found if run is not None]

    def _exists(self, image: str) -> bool:
        return read_built(self._layout.built_file(image)) is not None

    def _make_ready(self) -> None:
        try:
            for folder in (self._layout.builds, self._layout.images):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in filter(Path.is_dir, self._layout.builds.iterdir()):
                self._clear_up(Runs(self._layout, folder.name))
        except OSError as error:
            raise _unavailable("The cache folder (cache_dir) cannot be used", error) from error
        self._versions = {"python": sys.version.partition(" ")[0]}
        for name in ("git", "uv"):
            with suppress(OSError, subprocess.SubprocessError, BackendUnavailable):
                self._versions[name] = _version(self._program(name))

    def _clear_up(self, runs: Runs) -> None:
        lock = runs.lock()
        if lock is None:
            return
        with lock:
            for run_id in runs.all():
                runs.repair(run_id, _CUT_OFF)
            keep, keep_for = self._settings.keep_logs, self._settings.keep_logs_for
            runs.clean(keep=keep, keep_for=keep_for, now=time.time())

    def _check(self) -> None:
        for name in ("git", "uv"):
            self._program(name)
        if not os.access(self._layout.images, os.W_OK | os.X_OK):
            raise BackendUnavailable(
                "The local builder cannot write to its cache folder: set cache_dir to one that it"
                " can write to."
            )

    def _program(self, name: str) -> str:
        given = self._settings.git if name == "git" else self._settings.uv
        beside = Path(sys.executable).with_name(name)
        if not given and beside.is_file():
            return str(beside)
        found = shutil.which(given or name)
        if found is None:
            cure = {"git": "install git", "uv": "pip install uv"}[name]
            raise BackendUnavailable(
                f"The local builder needs {name}, and there is no {given or name}: {cure},"
                f" or set {name} to its path."
            )
        return str(Path(found).absolute())

    def _reap(self) -> None:
        self._started = [process for process in self._started if process.poll() is None]


def cache_path(setting: str) -> Path:
    """Return the cache folder that a setting names."""
    return Path(setting).absolute() if setting else platformdirs.user_cache_path("binderkit")


def _version(program: str) -> str:
    done = subprocess.run(  # noqa: S603 - the operator's own program
        [program, "--version"], capture_output=True, text=True, timeout=10, check=True
    )
    return next((word for word in done.stdout.split() if word[0].isdigit()), "unknown")


def _unavailable(what: str, error: OSError) -> BackendUnavailable:
    # The path is no business of whoever asked for the build.
    return BackendUnavailable(f"{what}: {error.strerror or type(error).__name__}.")
