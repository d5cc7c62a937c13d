"""A real image registry: Debian's ``docker-registry``, on a port of its own. Start: 0.1 s."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import bcrypt

from engines.processes import free_port, until
from engines.tokens import TokenServer
from engines.wire import Wire

SERVICE = "binderkit-tests"


class Registry:
    """A registry; a context that starts and stops it.

    Args:
        folder: Where it keeps what it has and what it prints.
        host: The address it listens on. Engines speak plain HTTP to loopback, and those of
            `engines.docker` to their own address as well.
        users: Passwords by user: it asks for them. Empty: it asks for nothing.
        tokens: Whether users ask a token server first (bearer), rather than tell the registry
            (basic).
        delay: Seconds that each piece of data takes on its way to it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        users: dict[str, str] | None = None,
        tokens: bool = False,
        delay: float = 0.0,
    ) -> None:
        self._folder = folder
        self._users = users or {}
        self._tokens = tokens
        self._delay = delay
        self._host = host
        self._listens = f"{host}:{free_port(host)}"
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.wire: Wire | None = None
        """What is between it and its clients, if there is a delay: can be made slower, or cut."""
        self.token_server: TokenServer | None = None
        """Where tokens are asked for, if that is how."""

    @property
    def address(self) -> str:
        """Return where clients reach it: the first part of an image's name."""
        return self.wire.address if self.wire else self._listens

    @property
    def url(self) -> str:
        """Return the same, for who speaks HTTP."""
        return f"http://{self.address}"

    @property
    def log(self) -> Path:
        """Return what it prints: requests too."""
        return self._folder / "registry.log"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            if self._tokens:
                self.token_server = stack.enter_context(
                    TokenServer(self._folder, service=SERVICE, users=self._users, host=self._host)
                )
            if self._delay:
                wire = Wire(self._listens, host=self._host, delay=self._delay)
                self.wire = stack.enter_context(wire)
            stack.callback(self.stop)
            self._configure()
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start it, again after `stop`: with the same address and content."""
        config = self._folder / "registry.json"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._up, "the registry does not answer", seconds=60)

    def stop(self) -> None:
        """End it: connections are refused."""
        if self._process is not None:
            self.resume()
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:  # it waits for who is connected
                self._process.kill()
                self._process.wait(timeout=30)
            self._process = None

    def pause(self) -> None:
        """Make it silent: connections are taken, and nothing is answered until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The signal is on its way: a thread that has not stopped yet may well answer once more.
        pid = self._process.pid
        until(lambda: _stopped(pid), "the registry goes on after SIGSTOP", seconds=10)

    def resume(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _configure(self) -> None:
        settings: dict[str, object] = {
            "version": "0.1",
            "log": {"accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self._folder / "content")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self._listens},
        }
        if self.token_server is not None:
            settings["auth"] = {
                "token": {
                    "realm": self.token_server.url,
                    "service": SERVICE,
                    "issuer": self.token_server.issuer,
                    "rootcertbundle": str(self.token_server.certificate),
                }
            }
        elif self._users:
            lines = [
                f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
                for user, password in self._users.items()
            ]
            passwords = self._folder / "htpasswd"
            passwords.write_text("".join(lines))
            settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(passwords)}}
        # JSON is YAML.
        (self._folder / "registry.json").write_text(json.dumps(settings))

    def _up(self) -> bool:
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"docker-registry ended with {status}:\n{self.log.read_text()}"
        host, _, port = self._listens.rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.")
        return False


def _stopped(pid: int) -> bool:
    """Return whether no thread of a process runs."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in threads)
