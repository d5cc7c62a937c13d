"""Launches notebook servers on this machine, from images of the local builder."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import anyio
import anyio.to_thread
import msgspec
import platformdirs
import psutil

from binder_backends.jupyter import api_status, asks_for_token, idle_arguments
from binder_backends.local.builder import cache_path
from binder_backends.local.environment import server_environment
from binder_backends.local.layout import Layout
from binder_backends.local.servers import (
    MARK,
    Place,
    State,
    copy_tree,
    end_servers,
    free_port,
    me,
    place_of,
    servers_in,
    write_private,
)
from binder_backends.local.settings import LocalLaunchSettings
from binder_backends.runner.installing import activated, script
from binder_backends.runner.local import Built, read_built
from binder_backends.runner.text import Redactor, strip_userinfo
from binder_core.plugin import (
    BackendUnavailable,
    LaunchFailed,
    LaunchReport,
    LaunchRequest,
    Plugin,
)

_TRIES: Final = 3
_FAST: Final = 0.005
_SLOW: Final = 0.02
_PROBE: Final = 2.0
_REFUSING: Final = 3.0
"""Seconds after which a server that refuses its token is believed."""
_SWEEP: Final = 5.0
_LOCK_WITHIN: Final = 10.0
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - looked for

_NOT_BUILT: Final = (
    "The built repository is not on this machine any more. Ask again, and it is built anew."
)


class _PortTaken(Exception):
    """Somebody else was faster."""


class LocalLauncher(Plugin):
    """Launches notebook servers as processes of this machine.

    A server outlives a crash of this process: the next one finds it by its name. A normal stop
    ends it.

    Args:
        settings: What the operator set.
    """

    Settings: ClassVar[type[msgspec.Struct]] = LocalLaunchSettings

    def __init__(self, settings: LocalLaunchSettings) -> None:
        self._settings = settings
        self._layout = Layout(cache_path(settings.cache_dir))
        state = settings.state_dir
        root = Path(state).absolute() if state else platformdirs.user_state_path("binderkit")
        self._folder = root / "servers"
        # Ours to end: by name, with the process where it is a child of this one.
        self._ours: dict[str, subprocess.Popen[bytes] | None] = {}
        self._under_way: dict[str, set[anyio.CancelScope]] = {}
        self._leaving = threading.Event()
        self._sweeper: threading.Thread | None = None

    async def __aenter__(self) -> Self:
        """Take over the servers of a process that crashed, clear up behind those that ended."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            await anyio.to_thread.run_sync(self._sweep)
        except OSError as error:
            raise _unavailable("The state folder (state_dir) cannot be used", error) from error
        self._sweeper = threading.Thread(target=self._sweep_on, name="servers", daemon=True)
        self._sweeper.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all servers, with all they started; remove their working copies."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._leave)

    async def check(self) -> None:
        """Return if the folder of running servers can be written.

        Raises:
            BackendUnavailable: It cannot.
        """
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise BackendUnavailable(
                "The local launcher cannot write to its state folder: set state_dir to one that it"
                " can write to."
            )

    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        """Start or find the server of this name; see `binder_core.plugin.Launcher.launch`."""
        place = place_of(self._folder, request.name)
        scopes = self._under_way.setdefault(request.name, set())
        with anyio.CancelScope() as scope:
            scopes.add(scope)
            try:
                return await self._launch(place, request, report)
            finally:
                scopes.discard(scope)
                if not scopes:
                    self._under_way.pop(request.name, None)
        raise LaunchFailed("The launch was stopped.")

    async def stop(self, request: LaunchRequest) -> None:
        """End the server of this name, with all it started."""
        place = place_of(self._folder, request.name)
        # First whoever is starting it: a thread that copies files cannot be interrupted.
        while scopes := self._under_way.get(request.name):
            for scope in scopes:
                scope.cancel()
            await anyio.sleep(_FAST)
        await anyio.to_thread.run_sync(self._end, place)

    async def _launch(self, place: Place, request: LaunchRequest, report: LaunchReport) -> str:
        deadline = time.monotonic() + self._settings.start_timeout
        for _ in range(_TRIES):
            state = await self._find_or_start(place, request, report)
            try:
                await self._until_ready(place, state, request.token, deadline)
            except _PortTaken:
                await anyio.to_thread.run_sync(self._end, place, state)
            except LaunchFailed:
                await anyio.to_thread.run_sync(self._end, place, state)
                raise
            else:
                return self._url(state.port)
        raise LaunchFailed("The notebook server found no free port to listen on. Try again.")

    async def running(self, request: LaunchRequest) -> bool:
        """Return whether the server's process is there."""
        state = place_of(self._folder, request.name).state()
        return state is not None and state.alive()

    async def preload(self, image: str) -> None:
        """Return if the image is in the cache.

        Raises:
            LaunchFailed: It is not.
        """
        if read_built(self._layout.built_file(image)) is None:
            raise LaunchFailed(_NOT_BUILT)

    async def _find_or_start(
        self, place: Place, request: LaunchRequest, report: LaunchReport
    ) -> State:
        while True:
            # Not interrupted in the middle: a server is started and written down, or not at all.
            try:
                state = await anyio.to_thread.run_sync(self._start, place, request)
            except OSError as error:
                raise _unavailable("The server's files cannot be written", error) from error
            if state is not None:
                report.line("Waiting for the notebook server to answer")
                return state
            await anyio.sleep(_SLOW)

    def _start(self, place: Place, request: LaunchRequest) -> State | None:
        """Return the server's state, found or just started; None while somebody else is at it."""
        lock = place.lock()
        if lock is None:
            return None
        with lock:
            before = place.state()
            if before is not None and before.alive():
                self._adopt(place, before)
                return before
            if before is not None or place.work.exists():
                self._end_locked(place)
                return None  # the lock went with the folder
            built = read_built(self._layout.built_file(request.image))
            if built is None:
                self._end_locked(place)
                raise LaunchFailed(_NOT_BUILT)
            try:
                copy_tree(Path(built.folder) / "repo", place.work)
                return self._spawn(place, request, built)
            except subprocess.CalledProcessError as error:
                self._end_locked(place)
                why = (error.stderr or "").strip().splitlines()[-1:]
                raise LaunchFailed(
                    f"The repository could not be copied ({''.join(why)[-200:]})."
                ) from error
            except BaseException:
                self._end_locked(place)
                raise

    def _spawn(self, place: Place, request: LaunchRequest, built: Built) -> State:
        port = free_port(self._settings.address)
        env_folder = Path(built.folder) / "env"
        token_file = place.folder / "token"
        write_private(token_file, request.token.encode())
        env = activated(
            server_environment(os.environ, self._settings.pass_environment), env_folder
        ) | {
            "HOME": str(place.work),
            "JUPYTER_TOKEN_FILE": str(token_file),
            "JUPYTER_RUNTIME_DIR": str(place.folder / "runtime"),
            "JUPYTER_IMAGE_SPEC": request.image,
            "BINDER_REPO_URL": strip_userinfo(request.repo_url),
            MARK: str(place.folder),
        }
        argv = self._command(env_folder, port, request.idle_timeout)
        if built.start:
            argv = [*script(place.work, built.start), *argv]
        log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=place.work,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchFailed(
                f"{Path(argv[0]).name} could not be started: {error.strerror}."
            ) from error
        finally:
            os.close(log)
        self._ours[place.folder.name] = process
        state = State(process.pid, psutil.Process(process.pid).create_time(), port, *me())
        place.write(state)
        return state

    def _command(self, env_folder: Path, port: int, idle_timeout: float | None) -> list[str]:
        settings = self._settings
        bin_folder = env_folder / "bin"
        names = ("jupyter-lab", "jupyter-notebook", "jupyter-server")
        program = next((name for name in names if (bin_folder / name).exists()), names[-1])
        argv = [
            str(bin_folder / program),
            f"--ServerApp.ip={settings.address}",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            "--ServerApp.open_browser=False",
        ]
        if os.geteuid() == 0:
            argv.append("--ServerApp.allow_root=True")
        if settings.allow_origin:
            argv.append(f"--ServerApp.allow_origin={settings.allow_origin}")
        idle = settings.idle_timeout if idle_timeout is None else idle_timeout
        argv += idle_arguments(idle)
        return argv

    async def _until_ready(self, place: Place, state: State, token: str, deadline: float) -> None:
        """Return as soon as the server answers.

        Raises:
            LaunchFailed: It never will.
            _PortTaken: It never will, on this port.
        """
        host = _WILDCARDS.get(self._settings.address, self._settings.address)
        child = self._ours.get(place.folder.name)
        delay, refused_since = _FAST, 0.0
        while True:
            status = 0
            with anyio.move_on_after(_PROBE):
                status = await api_status(host, state.port, token)
            if status == 200 and await asks_for_token(
                host, state.port, who="the repository", within=_PROBE
            ):
                return
            now = time.monotonic()
            ended = child.poll() is not None if child is not None else not state.alive()
            if ended:
                if any(
                    str(state.port) in line and ("in use" in line or "not available" in line)
                    for line in place.last_lines(20)
                ):
                    raise _PortTaken
                raise _failed(place, token, "The notebook server ended before it answered.")
            if status in {401, 403}:
                refused_since = refused_since or now
                if now - refused_since > _REFUSING:
                    raise LaunchFailed(
                        "The notebook server runs but does not accept its token: the repository"
                        " sets a token or a password of its own. Remove that setting."
                    )
            if now > deadline:
                seconds = self._settings.start_timeout
                raise _failed(
                    place, token, f"The notebook server did not answer within {seconds:g} s."
                )
            await anyio.sleep(delay)
            delay = min(delay * 1.2, _SLOW)

    def _url(self, port: int) -> str:
        address = self._settings.address
        host = socket.gethostname() if address in _WILDCARDS else address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def _adopt(self, place: Place, state: State) -> None:
        """Be the one who ends a server, unless the one who started it still runs."""
        owner, created = me()
        if state.owner != owner and not state.owned():
            place.write(State(state.pid, state.created, state.port, owner, created))
            self._ours.setdefault(place.folder.name, None)

    def _end(self, place: Place, only: State | None = None) -> None:
        """End the server that is there; if `only` is given, none but this one."""
        if not place.folder.exists():
            return
        with _locked([place]):
            state = place.state()
            if only is not None and state is not None and state.pid != only.pid:
                return  # its successor
            self._end_locked(place)

    def _end_locked(self, place: Place) -> None:
        child = self._ours.pop(place.folder.name, None)
        end_servers([place], [child] if child else [])

    def _leave(self) -> None:
        self._leaving.set()
        if self._sweeper is not None:
            self._sweeper.join()
        places = [Place(self._folder / name) for name in self._ours]
        places = [place for place in places if place.folder.exists()]
        with _locked(places):
            end_servers(places, [child for child in self._ours.values() if child])
        self._ours.clear()

    def _sweep_on(self) -> None:
        while not self._leaving.wait(_SWEEP):
            # A file system that is full now may not be the next time.
            with contextlib.suppress(OSError):
                self._sweep()

    def _sweep(self) -> None:
        """Clear up behind servers that ended, adopt orphans, keep logs short."""
        for child in list(self._ours.values()):
            if child is not None:
                child.poll()
        for place in servers_in(self._folder):
            state = place.state()
            if state is not None and state.alive():
                place.shorten_log(self._settings.server_log_cap_bytes)
                if state.owned():
                    continue
            lock = place.lock()
            if lock is None:
                continue
            with lock:
                state = place.state()
                if state is not None and state.alive():
                    self._adopt(place, state)
                else:
                    self._end_locked(place)


@contextlib.contextmanager
def _locked(places: list[Place]) -> Iterator[None]:
    """Hold the locks of `places`, or of those that can be had in time."""
    deadline = time.monotonic() + _LOCK_WITHIN
    with contextlib.ExitStack() as stack:
        for place in places:
            while (lock := place.lock()) is None and time.monotonic() < deadline:
                time.sleep(_SLOW)
            if lock is not None:
                stack.enter_context(lock)
        yield


def _failed(place: Place, token: str, what: str) -> LaunchFailed:
    redact = Redactor([token])
    lines = [redact(line)[:400] for line in place.last_lines(10)]
    told = " Its last lines:" + "".join(f"\n  {line}" for line in lines) if lines else ""
    return LaunchFailed(what + told)


def _unavailable(what: str, error: OSError) -> BackendUnavailable:
    return BackendUnavailable(f"{what}: {error.strerror or type(error).__name__}.")
