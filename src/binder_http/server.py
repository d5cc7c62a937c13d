"""Serves with hypercorn, and stops within seconds whoever is still watching.

Two things are ours beside hypercorn: a trigger that also drains the Binder, since an open event
stream never ends by itself (pgjones/hypercorn#308), and the listening socket, since a client that
does not read would keep its connection, and with it the server, for ever.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import quote

from hypercorn import Config as Hypercorn
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Sockets
from hypercorn.logging import Logger as HypercornLogger

from binder_core.engine import Binder
from binder_core.errors import ConfigError
from binder_core.plugin import Provider
from binder_http import assembly
from binder_http.accesslog import Logger
from binder_http.api import Api
from binder_http.app import EXTENSION, create_app, make_metrics
from binder_http.config import Config
from binder_http.handover import Handover

log = logging.getLogger("binder.http")

_HEAD_BYTES: Final = 256 * 1024
"""What hypercorn reads of a request before its end; our own caps are lower, and say so."""
_AFTER_CUT: Final = 2.0
_COLLECT_AFTER: Final = 20_000
_BACKLOG: Final = 1024
_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_REACHED_AT: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound to here


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    url: str
    """Where: ends in ``/``."""
    token: str = field(repr=False)
    """What each request needs; empty: nothing."""
    config: Config
    api: Api
    ended: asyncio.Task[None] = field(repr=False)
    """Done when nobody is served any more."""

    @property
    def binder(self) -> Binder:
        """Return what does the work."""
        return self.api.binder

    @property
    def link(self) -> str:
        """Return the URL with the token in it."""
        return f"{self.url}?token={quote(self.token, safe='')}" if self.token else self.url


async def serve(config: Config, *, started: Callable[[Running], None] | None = None) -> None:
    """Serve until a signal says stop.

    At SIGTERM no build is begun any more, streams end so that clients go on elsewhere or later,
    and builds go on where they can. SIGINT (Ctrl-C) and SIGHUP do the same and, where builds run
    as this user, end them first; a second one does not wait for that.

    Args:
        config: See `binder_http.config.load`.
        started: Called once the server answers; by default `announce`.

    Raises:
        BackendUnavailable: A plug-in cannot be made ready.
        ConfigError: The address cannot be listened on.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    with _signals() as signals:
        async with running(config) as server:
            (started or announce)(server)
            # What is there now lives as long as the server: the collector need not look at it. And
            # it looks less often: a request makes hundreds of objects, few of them are garbage that
            # only it can find.
            gc.freeze()
            gc.set_threshold(_COLLECT_AFTER, 20, 50)
            gc.enable()
            told = asyncio.create_task(signals.get())
            await asyncio.wait({told, server.ended}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                told.cancel()
                return  # leaving the context raises what broke
            log.info("%s: stopping", signal.Signals(told.result()).name)
            server.api.drain()
            if told.result() != signal.SIGTERM and config.local:
                await _stop_builds(server, signals)


@asynccontextmanager
async def running(
    config: Config, *, providers: Mapping[str, Provider] | None = None
) -> AsyncGenerator[Running]:
    """Serve while the context lasts.

    Args:
        config: See `binder_http.config.load`.
        providers: More providers than the configuration has, by prefix.

    Raises:
        BackendUnavailable: A plug-in cannot be made ready.
        ConfigError: The address cannot be listened on.
    """
    asker = assembly.make_asker(config)
    metrics = make_metrics(config, asker)
    opening = assembly.open_binder(config, observer=metrics, providers=providers, asker=asker)
    with _Listener.bound(config.server.host, config.server.port) as listener:
        async with opening as binder:
            handover = Handover(logged=config.server.access_log)
            app = create_app(config, binder=binder, metrics=metrics, handover=handover)
            api: Api = app.extensions[EXTENSION]
            stop = asyncio.Event()
            serving = asyncio.create_task(
                hypercorn_serve(app, _hypercorn(config, listener), shutdown_trigger=stop.wait)
            )
            url = f"{listener.url}{config.server.prefix}/"
            try:
                yield Running(url, assembly.access_token(config), config, api, serving)
            finally:
                api.drain()
                stop.set()
                await _end(serving, handover, listener, config.server.grace)


def announce(server: Running) -> None:
    """Say on standard error where the server is, and what is not harmless about it."""
    said = [f"Binder is at {server.link}"]
    if server.config.local:
        said.append(
            "It runs the code of whatever repository is asked for, as you"
            + (
                ": give this link to nobody else."
                if server.token
                else ", for whoever can reach it!"
            )
        )
    print(*said, sep="\n", file=sys.stderr, flush=True)  # noqa: T201 - that is what it is for


# -- Stopping ------------------------------------------------------------------------------------


@contextmanager
def _signals() -> Iterator[asyncio.Queue[int]]:
    """Return a queue of the signals that say stop, as they come."""
    loop, told = asyncio.get_running_loop(), asyncio.Queue[int]()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is under nohup
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, told.put_nowait, number)
    try:
        yield told
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _stop_builds(server: Running, signals: asyncio.Queue[int]) -> None:
    """End all builds, unless that takes too long or somebody is impatient."""
    tasks = {
        asyncio.create_task(server.binder.stop_builds()),
        asyncio.create_task(signals.get(), name="impatience"),
    }
    patience = server.config.limits.stop_grace
    await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.error("stopping the builds failed", exc_info=outcome)


async def _end(
    serving: asyncio.Task[None], handover: Handover, listener: _Listener, grace: float
) -> None:
    """Return when nobody is served any more; after `grace` seconds connections are cut."""
    streams = asyncio.create_task(handover.ended())
    _, late = await asyncio.wait({serving, streams}, timeout=grace)
    if late:
        log.warning("cutting the connections that are still open after %g s", grace)
        listener.cut()
        await asyncio.wait({serving, streams}, timeout=_AFTER_CUT)
    streams.cancel()
    if not serving.done():
        serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


class _Listener(socket.socket):
    """A listening socket that knows the connections it accepted.

    A client that is connected and does not read keeps its connection open for ever: closing it
    waits until all is sent. Only the socket itself can be cut off.
    """

    _accepted: weakref.WeakSet[socket.socket]

    @classmethod
    def bound(cls, host: str, port: int) -> Self:
        """Return one that listens.

        Raises:
            ConfigError: That is not possible there.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            made = cls(family, kind, protocol)
            made._accepted = weakref.WeakSet()
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(address)
                # Whoever connects from now on is served, if only in a moment.
                made.listen(_BACKLOG)
                made.setblocking(False)
            except OSError:
                made.close()
                raise
        except OSError as error:
            raise ConfigError(
                f"server.host, server.port: cannot listen on {host}:{port}: "
                f"{error.strerror or error}"
            ) from error
        return made

    @property
    def url(self) -> str:
        """Return where it listens, as a client on this machine sees it, without a last ``/``."""
        host, port = self.getsockname()[:2]
        reached = _REACHED_AT.get(host, host)
        return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and remember it."""
        connection, address = super().accept()
        self._accepted.add(connection)
        return connection, address

    def cut(self) -> None:
        """Cut all connections off."""
        for connection in list(self._accepted):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Hypercorn(Hypercorn):
    """Hypercorn's settings, with a socket that is there already."""

    listener: _Listener

    def create_sockets(self) -> Sockets:
        """Return the socket."""
        return Sockets([], [self.listener], [])


def _hypercorn(config: Config, listener: _Listener) -> _Hypercorn:
    made = _Hypercorn()
    made.listener = listener
    made.include_server_header = False
    # Our own caps are lower, and say what is wrong.
    made.h11_max_incomplete_size = made.h2_max_header_list_size = _HEAD_BYTES
    made.graceful_timeout = config.server.grace + _AFTER_CUT
    made.logger_class = Logger if config.server.access_log else HypercornLogger
    made.errorlog = logging.getLogger("binder.hypercorn")
    made.errorlog.setLevel(logging.WARNING)
    return made
