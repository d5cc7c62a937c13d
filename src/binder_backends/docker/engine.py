"""The connection to a Docker engine: a few calls over aiodocker, its faults made ours."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tarfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from binder_core.plugin import BackendUnavailable

DEFAULT_SOCKET: Final = "/var/run/docker.sock"
MINIMUM_API: Final = (1, 41)
"""Docker 20.10."""

NO_ENGINE: Final = 900
"""The status that aiodocker gives where there is no engine."""
_UNIX: Final = "unix://"
_SCHEMES: Final = (_UNIX, "tcp://", "http://", "https://")
_HEADER_BYTES: Final = 8
_OPEN_WITHIN: Final = 60.0
"""Seconds in which a log must begin; it may take as long as it likes to end."""
_MOST_READ_BYTES: Final = 2**20
_TIMEOUT: Final = aiohttp.ClientTimeout(total=60.0, sock_connect=10.0)

Inspected = dict[str, Any]
"""What the engine says of a container or an image."""


class NotThere(Exception):
    """The engine knows no such container or image."""


class Conflict(Exception):
    """Another one was first, or the container is in another state than was thought."""


class Engine:
    """A Docker engine.

    Args:
        host: Where it listens: ``unix:///var/run/docker.sock``, ``tcp://127.0.0.1:2375``; empty:
            what ``DOCKER_HOST`` says, else the usual socket.
    """

    def __init__(self, host: str = "") -> None:
        self.host = host or os.environ.get("DOCKER_HOST", "") or f"{_UNIX}{DEFAULT_SOCKET}"
        self._docker: aiodocker.Docker | None = None

    @property
    def socket(self) -> str:
        """Return the path of its socket, empty if it is reached another way."""
        return self.host.removeprefix(_UNIX) if self.host.startswith(_UNIX) else ""

    @property
    def docker(self) -> aiodocker.Docker:
        """Return aiodocker's client, for calls that this class does not have; see `faults`."""
        assert self._docker is not None, "the engine is entered first"  # noqa: S101
        return self._docker

    async def __aenter__(self) -> Self:
        """Open the connection pool; asks nothing of the engine yet.

        Raises:
            BackendUnavailable: The address is none.
        """
        if not self.host.startswith(_SCHEMES):
            raise BackendUnavailable(
                f"The address of the Docker engine is {self.host!r}: expected one such as"
                f" unix://{DEFAULT_SOCKET} or tcp://127.0.0.1:2375. Set host, or DOCKER_HOST."
            )
        # Each attached log holds a connection for as long as a build takes: no upper bound.
        try:
            self._docker = aiodocker.Docker(self.host, timeout=_TIMEOUT)
        except (ValueError, OSError) as error:
            raise BackendUnavailable(
                f"The Docker engine at {self.host} cannot be reached: {error}. Are"
                " DOCKER_TLS_VERIFY and DOCKER_CERT_PATH right?"
            ) from error
        connector = self._docker.connector
        if connector is not None:
            connector._limit = 0  # noqa: SLF001 - aiodocker gives no other way
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        docker, self._docker = self._docker, None
        if docker is not None:
            await docker.close()

    @contextmanager
    def faults(self, what: str) -> Iterator[None]:
        """Make the faults of calls inside ours.

        Args:
            what: What was tried, as a sentence's subject: "The build container".

        Raises:
            NotThere: 404.
            Conflict: 409, and 304 where aiodocker tells it.
            BackendUnavailable: All else: the message says what, why, and what to try.
        """
        try:
            yield
        except DockerError as error:
            if error.status == 404:
                raise NotThere(error.message) from error
            if error.status == 409:
                raise Conflict(error.message) from error
            raise self._unavailable(what, error) from error
        except TimeoutError as error:
            raise BackendUnavailable(
                f"The Docker engine at {self.host} did not answer in time. Is it overloaded?"
            ) from error
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise self._gone() from error
        except (AttributeError, LookupError, TypeError, ValueError, tarfile.TarError) as error:
            # aiodocker's, of an answer with another content than it expects.
            raise BackendUnavailable(
                f"{what}: what the Docker engine at {self.host} answered cannot be read. Is there"
                " something else, or something between, such as a proxy?"
            ) from error

    def _unavailable(self, what: str, error: DockerError) -> BackendUnavailable:
        if error.status == NO_ENGINE:
            return self._gone()
        said = " ".join(error.message.split())[:400]
        if "no space left on device" in said.lower():
            return BackendUnavailable(
                "The disk of the Docker engine is full (no space left on device). Make room, for"
                " instance with `docker image prune` and `docker builder prune`."
            )
        if "bind source path does not exist" in said:
            return BackendUnavailable(
                "On the Docker engine's machine there is no such socket as build containers shall"
                f" be given ({said.rpartition(': ')[2]}). Set engine_socket to the path of the"
                " engine's socket there."
            )
        return BackendUnavailable(f"{what}: the Docker engine answered {error.status}: {said}")

    def _gone(self) -> BackendUnavailable:
        cure = "Is it running? Set host, or DOCKER_HOST, if it listens elsewhere."
        if self.socket:
            path = Path(self.socket)
            try:
                if not stat.S_ISSOCK(path.stat().st_mode):
                    cure = "There is something else than a socket: set host to the engine's socket."
                elif not os.access(path, os.R_OK | os.W_OK):
                    cure = (
                        "This user may not use its socket: add the user to the group that owns it"
                        " (docker)."
                    )
            except OSError:
                cure = "There is no such socket: start the engine, or set host to its socket."
        return BackendUnavailable(f"The Docker engine at {self.host} cannot be reached. {cure}")

    # -- The engine itself -------------------------------------------------------------------

    async def version(self) -> str:
        """Return the engine's version.

        Raises:
            BackendUnavailable: There is no engine there, or it is too old.
        """
        try:
            with self.faults("The Docker engine"):
                async with asyncio.timeout(15):
                    said = await self.docker.version()
            name = str(said["Version"])
            api = tuple(int(part) for part in str(said["ApiVersion"]).split(".")[:2])
        except (NotThere, Conflict, KeyError, TypeError, ValueError) as error:
            raise BackendUnavailable(
                f"What answers at {self.host} is no Docker engine. Set host to the engine's socket."
            ) from error
        if api < MINIMUM_API:
            wanted = ".".join(map(str, MINIMUM_API))
            raise BackendUnavailable(
                f"The Docker engine at {self.host} is {name} (API {said['ApiVersion']}), which is"
                f" too old: API {wanted} is needed. Upgrade it to Docker 20.10 or newer."
            )
        return name

    async def has_network(self, name: str) -> bool:
        """Return whether the engine has a network of that name."""
        try:
            with self.faults("The network"):
                await self.docker.networks.get(name)
        except NotThere:
            return False
        return True

    # -- Containers --------------------------------------------------------------------------

    async def inspect(self, name: str) -> Inspected:
        """Return what the engine says of a container.

        Raises:
            NotThere: There is none of that name or id.
        """
        with self.faults("The container"):
            container = await self.docker.containers.get(name)
            return container._container  # noqa: SLF001 - what was just answered

    async def containers(self, *labels: str) -> list[Inspected]:
        """Return the engine's list of containers, running or not, that have all these labels.

        Args:
            labels: ``key`` or ``key=value``.
        """
        with self.faults("The list of containers"):
            found = await self.docker.containers.list(
                all=True, filters={"label": list(labels)} if labels else {}
            )
            return [container._container for container in found]  # noqa: SLF001 - as above

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container and return its id.

        Raises:
            Conflict: There is one of that name.
            NotThere: Its image is not there.
        """
        with self.faults("The container could not be created"):
            return (await self.docker.containers.create(dict(config), name=name)).id

    async def start(self, container: str) -> None:
        """Start a container; one that runs already is fine."""
        with self.faults("The container could not be started"):
            await self.docker.containers.container(container).start()

    async def rename(self, container: str, name: str) -> bool:
        """Rename a container; return False where another one was first."""
        try:
            with self.faults("The container could not be renamed"):
                try:
                    await self.docker.containers.container(container).rename(name)
                except DockerError as error:
                    if "same name as its current name" in error.message:
                        return False  # just what was wanted here was done by another one
                    raise
        except (NotThere, Conflict):
            return False
        return True

    async def kill(self, container: str, signal: str = "SIGKILL") -> None:
        """Send a signal; a container that has ended or is gone is fine."""
        try:
            with self.faults("The container could not be ended"):
                await self.docker.containers.container(container).kill(signal=signal)
        except (NotThere, Conflict):
            return

    async def remove(self, container: str, *, force: bool = True) -> None:
        """Remove a container with its anonymous volumes; gone already is fine.

        Args:
            container: Its name or id.
            force: Whether one that runs is ended; else it stays.
        """
        try:
            with self.faults("The container could not be removed"):
                await self.docker.containers.container(container).delete(force=force, v=True)
        except (NotThere, Conflict):
            return

    async def wait(self, container: str) -> int:
        """Return the exit status of a container when it has ended.

        Raises:
            NotThere: It is gone.
        """
        with self.faults("The container"):
            said = await self.docker.containers.container(container).wait()
            return int(said["StatusCode"])

    # -- Files in containers -----------------------------------------------------------------

    async def put_files(
        self,
        container: str,
        files: Mapping[str, bytes],
        *,
        folders: Iterable[str] = (),
        owner: int = 0,
        mode: int = 0o600,
    ) -> None:
        """Write files into a container, which need not run.

        Nothing of them shows in what the engine tells of the container.

        Args:
            container: Its name or id.
            files: Contents by absolute path.
            folders: Folders, outermost first, to make or to take over: who may read the files gets
                in. (The engine makes others that are missing, open to all.)
            owner: The id of the user and group that owns files and folders.
            mode: Of the files: for ``owner`` alone, or for all to read.

        Raises:
            NotThere: There is no such container.
        """
        with self.faults("Files could not be brought into the container"):
            there: Any = self.docker.containers.container(container)  # put_archive has no types
            await there.put_archive("/", _archive(files, folders, owner, mode))

    async def read_file(self, container: str, path: str) -> bytes | None:
        """Return what is in a file of a container, running or not.

        None if there is none that can be read here: what is there may be a link, or have no end,
        for it comes from a repository.
        """
        head = bytearray()
        try:
            with self.faults("A file of the container"):
                # Not `DockerContainer.get_archive`: that holds all there is in memory.
                async with self.docker._query(  # noqa: SLF001 - as above
                    f"containers/{container}/archive", params={"path": path}
                ) as response:
                    try:
                        while len(head) <= _MOST_READ_BYTES:
                            if not (piece := await response.content.readany()):
                                break
                            head += piece
                    finally:
                        response.close()
        except NotThere:
            return None
        return _first_file(bytes(head))

    # -- Logs --------------------------------------------------------------------------------

    @asynccontextmanager
    async def log(
        self, container: str, *, follow: bool = True, tail: int | None = None
    ) -> AsyncIterator[AsyncIterator[tuple[int, bytes]]]:
        """Open a container's log; it is closed with the block.

        What the iterator gives are pieces, not lines: which stream (1 is stdout, 2 stderr), and
        bytes. It ends when the container has ended, or when the engine says so; then inspect.

        Raises:
            NotThere: There is no such container.
            BackendUnavailable: The connection broke, also while it is read.
        """
        docker = self.docker
        params = {
            "stdout": "1",
            "stderr": "1",
            "follow": "1" if follow else "0",
            "tail": "all" if tail is None else str(tail),
        }
        with self.faults("The log of the container"):
            if docker.api_version == "auto":
                await docker._check_version()  # noqa: SLF001 - done by each of its own calls
            # Not `DockerContainer.log`: that ends a stream that broke as one that is complete, and
            # leaves its connection open where the reader goes away.
            async with asyncio.timeout(_OPEN_WITHIN):
                response = await docker.session.get(
                    f"{docker.docker_host}/{docker.api_version}/containers/{container}/logs",
                    params=params,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
                )
        try:
            if response.status in (404, 409):  # 409: it is just being removed
                raise NotThere(container)
            if response.status != 200:
                raise BackendUnavailable(
                    f"The log of a container cannot be read: the Docker engine answered"
                    f" {response.status}."
                )
            pieces = self._pieces(response.content)
            try:
                yield pieces
            finally:
                await pieces.aclose()
        finally:
            response.close()

    async def _pieces(
        self, content: aiohttp.StreamReader
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        buffer = bytearray()
        while True:
            with self.faults("The log of the container"):
                data = await content.readany()
            if not data:
                if buffer:
                    raise self._gone()  # cut off in the middle of a piece
                return
            buffer += data
            for piece in _take_pieces(buffer):
                yield piece

    # -- Images ------------------------------------------------------------------------------

    async def image(self, name: str) -> Inspected | None:
        """Return what the engine says of an image of its own, None if it has none of that name."""
        try:
            with self.faults("The image"):
                return _an_object(await self.docker.images.inspect(name))
        except NotThere:
            return None


def _an_object(said: Any) -> Inspected:
    if not isinstance(said, dict):
        raise TypeError(said)
    return said


def _take_pieces(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Take all complete frames out of `buffer`; neighbours of one stream become one piece."""
    pieces: list[tuple[int, bytearray]] = []
    position = 0
    while len(buffer) - position >= _HEADER_BYTES:
        stream = buffer[position]
        start = position + _HEADER_BYTES
        end = start + int.from_bytes(buffer[position + 4 : start], "big")
        if len(buffer) < end:
            break
        if not pieces or pieces[-1][0] != stream:
            pieces.append((stream, bytearray()))
        pieces[-1][1].extend(buffer[start:end])
        position = end
    del buffer[:position]
    return [(stream, bytes(data)) for stream, data in pieces]


def _first_file(archive: bytes) -> bytes | None:
    """Return what is in the regular file that an archive, cut off maybe, begins with."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as opened:
            member = opened.next()
            if member is None or not member.isreg() or member.size > len(archive):
                return None
            file = opened.extractfile(member)
            return file.read() if file is not None else None
    except tarfile.TarError:
        return None


def _archive(files: Mapping[str, bytes], folders: Iterable[str], owner: int, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in folders:
            archive.addfile(_member(path, tarfile.DIRTYPE, 0o755 if mode & 0o004 else 0o700, owner))
        for path, content in files.items():
            member = _member(path, tarfile.REGTYPE, mode, owner)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _member(path: str, kind: bytes, mode: int, owner: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path.lstrip("/"))
    member.type, member.mode, member.mtime = kind, mode, int(time.time())
    member.uid = member.gid = owner
    return member
