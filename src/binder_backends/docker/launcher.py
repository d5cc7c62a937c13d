"""Launches servers as containers on a Docker engine, with nothing beside it.

The container named like the server is the server: any process of ours that shares the engine finds
it. Its port is open on loopback; its token is a file in it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import ClassVar, Final

import anyio
import msgspec
from aiodocker.exceptions import DockerError

from binder_backends.docker.engine import Conflict, Inspected, NotThere
from binder_backends.docker.engine_plugin import EnginePlugin
from binder_backends.docker.launch_settings import DockerLaunchSettings
from binder_backends.docker.pulling import pull
from binder_backends.docker.servers import (
    FOLDER,
    RESTARTS,
    SERVER_LABEL,
    TOKEN_FILE,
    Server,
    names_user,
    probed_host,
    read_server,
    server_config,
    server_url,
    user_of,
)
from binder_backends.jupyter import api_status, asks_for_token
from binder_backends.runner.text import Redactor
from binder_core.plugin import (
    BackendUnavailable,
    LaunchFailed,
    LaunchReport,
    LaunchRequest,
)

_FAST: Final = 0.02
_SLOW: Final = 0.25
_PROBE: Final = 2.0
_REFUSING: Final = 3.0
"""Seconds after which a server that refuses its token is believed."""
_FIND_WITHIN: Final = 60.0
_REMOVE_WITHIN: Final = 20.0
_SWEEP_EVERY: Final = 20.0
_FORGOTTEN: Final = 600.0
"""Seconds after which whoever made a container, or waits for its server, has died."""
_MOST_TOLD: Final = 1000
_LINES: Final = 10
_LINE_CHARS: Final = 400


class DockerLauncher(EnginePlugin):
    """Launches servers as containers on a Docker engine.

    Args:
        settings: What the operator set.
    """

    Settings: ClassVar[type[msgspec.Struct]] = DockerLaunchSettings

    def __init__(self, settings: DockerLaunchSettings) -> None:
        every = min(_SWEEP_EVERY, settings.keep_ended_for)
        super().__init__(settings.host, settings.registry, label=SERVER_LABEL, sweep_every=every)
        self._settings = settings
        self._under_way: dict[str, set[anyio.CancelScope]] = {}
        # Launches that were told that their server is waited for. Said again after each broken
        # connection it would pass for word from the server, and the launch be tried for ever.
        self._told: dict[str, None] = {}
        self._version = ""

    async def check(self) -> None:
        """Return if the engine answers, is new enough, and has the network of servers.

        Raises:
            BackendUnavailable: One of these is not so.
        """
        self._version = await self._engine.version()
        if name := self._settings.network:
            try:
                with self._engine.faults("The network of servers"):
                    await self._engine.docker.networks.get(name)
            except NotThere as error:
                raise self._no_network() from error

    def versions(self) -> Mapping[str, str]:
        """Return the engine's version."""
        return {"docker": self._version} if self._version else {}

    async def launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        """Start or find the server of this name; see `binder_core.plugin.Launcher.launch`."""
        scopes = self._under_way.setdefault(request.name, set())
        with anyio.CancelScope() as scope:
            scopes.add(scope)
            try:
                url = await self._launch(request, report)
            except LaunchFailed:
                self._told.pop(request.name, None)
                raise
            else:
                self._told.pop(request.name, None)
                return url
            finally:
                scopes.discard(scope)
                if not scopes:
                    self._under_way.pop(request.name, None)
        raise LaunchFailed("The launch was stopped.")

    async def stop(self, request: LaunchRequest) -> None:
        """End the server of this name, with all that is in its container."""
        # First whoever is starting it: it would only be started again.
        while scopes := self._under_way.get(request.name):
            for scope in scopes:
                scope.cancel()
            await anyio.sleep(_FAST)
        self._told.pop(request.name, None)
        with anyio.CancelScope(shield=True):
            server = await self._server(request.name)
            if server is not None:
                await self._remove(server)

    async def running(self, request: LaunchRequest) -> bool:
        """Return whether the server's container runs, or is about to be restarted."""
        server = await self._server(request.name)
        return server is not None and not server.fresh and not server.over

    async def preload(self, image: str) -> None:
        """Return when the engine has the image.

        Raises:
            LaunchFailed: It may not be launched, or is nowhere.
        """
        self._check_image(image)
        await self._have_image(image, _Silent())

    # -- Finding and starting ----------------------------------------------------------------

    async def _launch(self, request: LaunchRequest, report: LaunchReport) -> str:
        self._check_image(request.image)
        server = await self._find_or_start(request, report)
        try:
            return await self._until_ready(server, request)
        except LaunchFailed:
            with anyio.CancelScope(shield=True):
                await self._remove(server)
            raise

    async def _find_or_start(self, request: LaunchRequest, report: LaunchReport) -> Server:
        deadline = time.monotonic() + _FIND_WITHIN
        while time.monotonic() < deadline:
            server = await self._server(request.name)
            if server is not None and server.over:
                with anyio.CancelScope(shield=True):
                    await self._remove(server)
                server = None
            image: Inspected = {}
            if server is None:
                pulling = time.monotonic()
                image = await self._have_image(request.image, report)
                deadline += time.monotonic() - pulling
            # As a whole or not at all, whoever goes away meanwhile.
            with anyio.CancelScope(shield=True):
                if server is None:
                    server = await self._create(request, image)
                if server is not None and server.fresh:
                    # Ours, or one that another process is just starting, or has left: what is done
                    # here can be done twice.
                    server = await self._start(server, request)
            if server is not None:
                self._tell_waiting(request.name, report)
                return server
            await anyio.sleep(_FAST)
        raise BackendUnavailable(
            f"The container {request.name} cannot be started, nor removed: look at it on the Docker"
            " engine, and remove it."
        )

    def _tell_waiting(self, name: str, report: LaunchReport) -> None:
        if name not in self._told:
            while len(self._told) >= _MOST_TOLD:
                del self._told[next(iter(self._told))]
            self._told[name] = None
            report.line("Waiting for the notebook server to answer")

    async def _create(self, request: LaunchRequest, image: Inspected) -> Server | None:
        """Create the container; return None where another process was first."""
        root = user_of(image["Config"].get("User") or "", b"") == 0
        config = server_config(
            self._settings, request, port=_free_port(self._settings.address), root=root
        )
        with contextlib.suppress(Conflict, NotThere):  # NotThere: the image has just gone
            await self._engine.create(request.name, config)
        return await self._server(request.name)

    async def _start(self, server: Server, request: LaunchRequest) -> Server | None:
        """Start a container; return None where it cannot be, but another one may."""
        try:
            await self._give_token(server, request)
            with self._engine.faults("The server's container could not be started"):
                try:
                    await self._engine.docker.containers.container(server.container).start()
                except DockerError as error:
                    self._raise_for(error, request)
        except _PortTaken:
            await self._remove(server)
            return None
        except LaunchFailed:
            await self._remove(server)
            raise
        except (NotThere, Conflict):
            return None  # somebody is removing it
        return await self._server(request.name)

    async def _give_token(self, server: Server, request: LaunchRequest) -> None:
        """Put the token where the server, and whoever uses it, can read it."""
        passwd: bytes | None = b""
        if names_user(server.user):
            passwd = await self._engine.read_file(server.container, "/etc/passwd")
        owner, mode = user_of(server.user, passwd or b""), 0o400
        if owner is None and passwd is not None:
            raise LaunchFailed(
                f"The image {request.image} runs as the user {server.user!r}, whom it does not"
                " have. Correct the USER of its Dockerfile."
            )
        if owner is None:
            # The engine knows the id, but does not tell it. In the container there is nobody else.
            owner, mode = 0, 0o444
        files = {TOKEN_FILE: request.token.encode()}
        await self._engine.put_files(
            server.container, files, folders=[FOLDER], owner=owner, mode=mode
        )

    def _raise_for(self, error: DockerError, request: LaunchRequest) -> None:
        """Raise what a start that failed means."""
        said = " ".join(error.message.split())
        lower = said.lower()
        if "port is already allocated" in lower or "address already in use" in lower:
            raise _PortTaken from error
        if "cannot assign requested address" in lower:
            raise BackendUnavailable(
                f"The Docker engine's machine has no address {self._settings.address}: set address"
                " to one that it has."
            ) from error
        if "no space left on device" in lower:
            raise error  # the disk is nothing of the image's
        if "docker-init" in lower:
            raise BackendUnavailable(
                "The Docker engine lacks its program docker-init: install it (the package tini)."
            ) from error
        if error.status == 404 and "network" in lower:
            raise self._no_network() from error
        # (A user or a group that the image names and does not have is a 500.)
        if error.status == 400 or "oci runtime" in lower or lower.startswith("unable to find"):
            why = said.rpartition("failed: ")[2][:_LINE_CHARS]
            raise LaunchFailed(
                f"The notebook server cannot be started in the image {request.image}: {why}."
                " Does the image have Jupyter, and a shell?"
            ) from error
        raise error

    async def _have_image(self, name: str, report: LaunchReport) -> Inspected:
        """Return what the engine says of an image, pulled if need be."""
        found = await self._engine.image(name)
        if found is None and self._settings.pull:
            login = await self._registry.push_config(name)
            await pull(self._engine, name, login, report.line)
            found = await self._engine.image(name)
        if found is None:
            raise LaunchFailed(
                f"The image {name} is not on the Docker engine any more. Set pull = true for the"
                " launcher if builds push to a registry; else build it again."
            )
        return found

    def _check_image(self, image: str) -> None:
        allowed = self._settings.allow_images
        if allowed and not any(fnmatchcase(image, pattern) for pattern in allowed):
            raise LaunchFailed(
                f"The image {image[:200]} may not be launched: the setting allow_images of the"
                f" launcher names {', '.join(allowed)}."
            )

    async def _server(self, name: str) -> Server | None:
        try:
            said = await self._engine.inspect(name)
        except NotThere:
            return None
        if said["Name"] != f"/{name}":
            return None  # found by its id, which begins like the name
        server = read_server(said)
        if server is None:
            raise BackendUnavailable(
                f"There is a container {name} on the Docker engine that is no server of ours:"
                " rename or remove it."
            )
        return server

    # -- Waiting -----------------------------------------------------------------------------

    async def _until_ready(self, server: Server, request: LaunchRequest) -> str:
        """Return the server's URL as soon as it answers.

        Raises:
            LaunchFailed: It never will.
        """
        settings = self._settings
        deadline = time.monotonic() + settings.start_timeout
        host = probed_host(settings)
        delay, refused_since = _FAST, 0.0
        while True:
            status = 0
            with anyio.move_on_after(_PROBE):
                status = await api_status(host, server.port, request.token) if server.port else 0
            now = await self._server(request.name)
            if now is None or now.container != server.container:
                raise LaunchFailed("The notebook server was ended before it answered.")
            if now.over:
                raise await self._failed(now, request.token, self._why(now))
            if (
                status == 200
                and now.port == server.port
                and await asks_for_token(host, now.port, who="the image", within=_PROBE)
            ):
                if not now.restarts:
                    await self._let_restart(now)
                return server_url(settings, now.port, this_machine=socket.gethostname())
            server = now
            if status in {401, 403}:
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since > _REFUSING:
                    raise LaunchFailed(
                        "The notebook server runs but does not accept its token: the image sets a"
                        " token or a password of its own. Remove that setting."
                    )
            if time.monotonic() > deadline:
                seconds = settings.start_timeout
                raise await self._failed(
                    now, request.token, f"The notebook server did not answer within {seconds:g} s."
                )
            await anyio.sleep(delay)
            delay = min(delay * 1.5, _SLOW)

    async def _let_restart(self, server: Server) -> None:
        try:
            with self._engine.faults("The server's container"):
                await self._engine.docker._query_json(  # noqa: SLF001 - aiodocker has no call for it
                    f"containers/{server.container}/update",
                    "POST",
                    data={"RestartPolicy": RESTARTS},
                )
        except (NotThere, Conflict) as error:
            raise LaunchFailed("The notebook server was ended as soon as it answered.") from error

    def _why(self, ended: Server) -> str:
        if ended.out_of_memory:
            return (
                "The notebook server ran out of memory before it answered: it may use"
                f" {self._settings.memory_limit or 'what there is'}."
            )
        return f"The notebook server ended before it answered (status {ended.exit_code})."

    async def _failed(self, server: Server, token: str, what: str) -> LaunchFailed:
        redact = Redactor([token])
        lines = [redact(line)[:_LINE_CHARS] for line in await self._last_lines(server)]
        told = " Its last lines:" + "".join(f"\n  {line}" for line in lines) if lines else ""
        return LaunchFailed(what + told)

    async def _last_lines(self, server: Server) -> list[str]:
        printed = bytearray()
        with contextlib.suppress(NotThere):
            async with self._engine.log(server.container, follow=False, tail=2 * _LINES) as pieces:
                async for _, data in pieces:
                    printed += data
        lines = printed.decode("utf-8", "replace").splitlines()
        return [line.rstrip() for line in lines if line.strip()][-_LINES:]

    def _no_network(self) -> BackendUnavailable:
        name = self._settings.network
        return BackendUnavailable(
            f"The Docker engine at {self._engine.host} has no network {name}. Make it (docker"
            f" network create {name}), or set network."
        )

    # -- Ending ------------------------------------------------------------------------------

    async def _remove(self, server: Server) -> None:
        """Remove a container, and wait until its name is free."""
        deadline = time.monotonic() + _REMOVE_WITHIN
        while True:
            await self._engine.remove(server.container)
            now = await self._server(server.name)
            if now is None or now.container != server.container:
                return
            if time.monotonic() > deadline:
                raise BackendUnavailable(
                    f"The container {server.name} could not be removed: look at it on the Docker"
                    " engine."
                )
            await anyio.sleep(_SLOW)

    async def tidy(self, listed: Inspected) -> None:
        """Remove the container of a server that nobody can want any more; see `sweep`."""
        if listed["State"] in ("restarting", "paused"):
            return
        if listed["State"] == "running" and listed["Id"] in self._settled:
            return
        try:
            server = read_server(await self._engine.inspect(listed["Id"]))
        except NotThere:
            return
        if server is None:
            return
        if server.restarts:
            self._settled.add(listed["Id"])
        if self._is_left(server, time.time()):
            await self._engine.remove(server.container, force=not (server.over or server.fresh))

    def _is_left(self, server: Server, now: float) -> bool:
        """Return whether nobody can want a server any more."""
        if server.over:
            return now - server.ended > self._settings.keep_ended_for
        if server.fresh:
            return now - server.created > _FORGOTTEN
        # One that never answered: who waited for it would have removed it.
        patience = max(_FORGOTTEN, 2 * self._settings.start_timeout)
        return not server.restarts and now - max(server.created, server.started) > patience


class _PortTaken(Exception):
    """Somebody was quicker: another port may do."""


class _Silent:
    """Where nobody waits for word."""

    def line(self, message: str) -> None:
        """Forget it."""


def _free_port(address: str) -> int:
    """Return a port that nobody uses on `address` at the moment; 0 where the engine must know.

    The engine could choose one itself, but would choose another after each of its restarts.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.bind((address, 0))
            port: int = sock.getsockname()[1]
            return port
    except OSError:
        return 0  # an address of the engine's machine, which is another one
