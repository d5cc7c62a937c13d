"""The Docker engine as the runner reaches it: a socket, TCP, or TCP with TLS.

``python -m binder_backends.runner.engine`` returns once the engine answers. Where it is elsewhere
that is asked before anything else: what is wrong with the way to it is then told as just that. Its
last line is for the person who waits.

It needs nothing but Python's own library. Addresses and names of certificates are those of Docker's
own clients.

Source: https://docs.docker.com/engine/security/protect-access/
"""

from __future__ import annotations

import argparse
import http.client
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from binder_backends.runner.telling import tell_line

UNIX: Final = "unix://"
TCP: Final = "tcp://"
CERTIFICATES: Final = ("ca.pem", "cert.pem", "key.pem")

_CONNECT_WITHIN: Final = 15.0
_ANSWER_WITHIN: Final = 15.0
_FIRST_DELAY: Final = 1.0
_LAST_DELAY: Final = 8.0
_SHOWN: Final = 300
_API: Final = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")
# A machine that is gone says nothing, and a push may be silent for long: the kernel asks after it.
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}


class EngineRefused(Exception):
    """There is no use in trying again; the message is for the person who waits."""


class EngineAway(Exception):
    """The engine, or the way to it, is not there for now; says what happened."""


def main(arguments: list[str] | None = None) -> int:
    """Wait for the engine that the arguments name; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m binder_backends.runner.engine")
    add_arguments(parser)
    parser.add_argument("--retry-for", type=float, default=60.0, metavar="SECONDS")
    given = parser.parse_args(arguments)
    try:
        wait(lambda: ping(given.host, given.certs), given.retry_for)
    except EngineRefused as refused:
        tell_line("fetching", str(refused))
        return 1
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those that say where the engine is."""
    parser.add_argument("--host", required=True, help="the engine's, as DOCKER_HOST has it")
    parser.add_argument("--certs", default="", help="a folder as DOCKER_CERT_PATH names: TLS")


def wait(
    ask: Callable[[], object],
    retry_for: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once the engine answers.

    Args:
        ask: Asks it.
        retry_for: Seconds to try.
        clock: Returns the time.
        sleep: Waits.

    Raises:
        EngineRefused: It does not, or never will.
    """
    began, delay = clock(), _FIRST_DELAY
    while True:
        try:
            ask()
        except EngineAway as away:
            left = began + retry_for - clock()
            if left <= 0:
                raise EngineRefused(
                    f"The Docker engine for builds has not answered for {retry_for:g} s: {away}. Is"
                    " it running, is its address right (docker_host), and may build pods reach it?"
                ) from away
            pause = min(delay, left)
            tell_line(
                "fetching", f"The Docker engine does not answer ({away}); again in {pause:.0f} s"
            )
            sleep(pause)
            delay = min(2 * delay, _LAST_DELAY)
        else:
            return


def ping(host: str, certs: str = "") -> str:
    """Return the newest version of its API, ``1.41``, that the engine answers with.

    It is the one to ask in: each engine takes its own, and one from Docker 29 on none of 20.10's.

    Raises:
        EngineRefused: It never will.
        EngineAway: It does not now.
    """
    connection = connect(host, certs, answer_within=_ANSWER_WITHIN)
    try:
        with faults():
            connection.request("GET", "/_ping")
            reply = connection.getresponse()
            status, said = reply.status, reply.read(_SHOWN).decode(errors="replace")
    finally:
        connection.close()
    check_answer(status, said)
    if status >= http.client.INTERNAL_SERVER_ERROR:
        raise EngineAway(f"it answered {status}: {' '.join(said.split())}")
    api = reply.headers.get("Api-Version") or ""
    if status != http.client.OK or not _API.fullmatch(api):
        raise EngineRefused(
            "What answers where the Docker engine for builds should be is no Docker engine. Is its"
            " address right (docker_host, or engine_socket)?"
        )
    return api


def check_answer(status: int, said: str) -> None:
    """Return if this may be an engine's answer to who came the right way.

    Raises:
        EngineRefused: It speaks TLS, and was not spoken to so.
    """
    if status == http.client.BAD_REQUEST and "HTTP request to an HTTPS server" in said:
        raise EngineRefused(
            "The Docker engine for builds wants TLS: give builds its certificates"
            " (docker_certs_secret)."
        )


def connect(
    host: str, certs: str = "", *, answer_within: float | None = None
) -> http.client.HTTPConnection:
    """Return a connection to the engine; it is opened by the first request.

    Args:
        host: ``unix:///var/run/docker.sock``, ``tcp://engine.example:2376``.
        certs: A folder with `CERTIFICATES`: then it is TLS, and both sides say who they are.
        answer_within: Seconds that it may be silent; None: any time.

    Raises:
        EngineRefused: That is no address, or these are no certificates.
    """
    if host.startswith(UNIX):
        return _UnixConnection(host.removeprefix(UNIX), answer_within)
    try:
        parts = urlsplit(host)
        name, port = parts.hostname, parts.port
    except ValueError:
        name = port = None
    if not host.startswith(TCP) or not name or not port:
        raise EngineRefused(
            "The address of the Docker engine for builds is none: expected one such as"
            " tcp://engine.example:2376 (docker_host)."
        )
    return _Connection(name, port, answer_within, _context(certs) if certs else None)


@contextmanager
def faults() -> Iterator[None]:
    """Make the faults of calls inside ours.

    Raises:
        EngineRefused: The two sides will never come to terms.
        EngineAway: All else.
    """
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise EngineRefused(
            f"The Docker engine's certificate is not good: {error.verify_message.rstrip('.')}. Is"
            " ca.pem (docker_certs_secret) the authority that signed it, and is the name in"
            " docker_host one of those in it?"
        ) from error
    except ssl.SSLEOFError as error:
        raise EngineAway("the connection was closed") from error
    except ssl.SSLError as error:
        raise _no_tls(error) from error
    except TimeoutError as error:
        raise EngineAway("no answer in time") from error
    except (OSError, http.client.HTTPException) as error:
        raise EngineAway(getattr(error, "strerror", None) or type(error).__name__) from error


def _no_tls(error: ssl.SSLError) -> Exception:
    reason = (error.reason or "").lower().replace("_", " ")
    if "alert" in reason:
        return EngineRefused(
            f"The Docker engine does not take the certificate of builds ({reason}): are cert.pem"
            " and key.pem (docker_certs_secret) signed by the authority that the engine trusts?"
        )
    if "wrong version number" in reason or "http request" in reason or "packet length" in reason:
        return EngineRefused(
            "What answers where the Docker engine for builds should be speaks no TLS. Is the port"
            " right (docker_host), and should there be certificates (docker_certs_secret)?"
        )
    return EngineAway(f"no TLS: {reason}")


def _context(certs: str) -> ssl.SSLContext:
    folder = Path(certs)
    authority, certificate, key = (folder / name for name in CERTIFICATES)
    if missing := [name for name in CERTIFICATES if not (folder / name).is_file()]:
        raise EngineRefused(
            "The certificates for the Docker engine are not complete, there is no"
            f" {', no '.join(missing)}: is there such a secret (docker_certs_secret), with"
            f" {', '.join(CERTIFICATES)}?"
        )
    try:
        context = ssl.create_default_context(cafile=str(authority))
        # As Docker's clients: certificates made by hand lack what Python 3.13 asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        # Where it is encrypted nobody is asked: a callback that returns nothing.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise EngineRefused(
            "The certificates for the Docker engine cannot be used: do cert.pem and key.pem"
            " (docker_certs_secret) belong together, are all three PEM files, and has the key no"
            " password?"
        ) from error
    return context


class _Connection(http.client.HTTPConnection):
    """One that is opened within a time of its own, whatever an answer may take."""

    def __init__(
        self,
        host: str,
        port: int,
        answer_within: float | None,
        context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(host, port)
        self._answer_within = answer_within
        self._context = context

    def connect(self) -> None:
        sock = self._open()
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=self.host)
            sock.settimeout(self._answer_within)
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def send(self, data: Any) -> None:
        try:
            super().send(data)
        except OSError:
            # With TLS 1.3 the engine looks at our certificate when we may be sending already. What
            # it said of it, before it closed the connection, can still be read, and raises.
            if self._context is not None and self.sock is not None:
                self.sock.settimeout(_ANSWER_WITHIN)
                self.sock.recv(1)
            raise

    def _open(self) -> socket.socket:
        sock = socket.create_connection((self.host, self.port), _CONNECT_WITHIN)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if option := getattr(socket, name, None):  # not everywhere
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return sock


class _UnixConnection(_Connection):
    def __init__(self, path: str, answer_within: float | None) -> None:
        super().__init__("engine", 80, answer_within, None)
        self._path = path

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_CONNECT_WITHIN)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        return sock


if __name__ == "__main__":
    sys.exit(main())
