"""A server on a real socket, made from a declaration; a test says what it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import msgspec

from binder_core.protocol import Endpoint, Failure, Protocol, Value, failure, match, parse


@dataclass
class Got:
    """A request as the handler of its endpoint gets it."""

    endpoint: Endpoint
    values: dict[str, Value]
    key: str | None


Handler: TypeAlias = Callable[[Got], Any]
"""Returns the result, or raises a declared error."""


@dataclass
class Declared:
    """A running server. Protocol and handler can be changed at any time."""

    protocol: Protocol
    handler: Handler
    port: int = 0
    got: list[Got] = field(default_factory=list)


def _answer(server: Declared, method: str, target: str, key: str | None, body: bytes) -> Any:
    """Return the status and the body of an answer."""
    path, _, query = target.partition("?")
    found = match(server.protocol, method, path)
    if found is None:
        return 404, b"nothing here"
    try:
        if found.endpoint.request.authorized and not key:
            raise failure(server.protocol, found.endpoint, "unauthorized")
        values = parse(server.protocol, found, query=query, body=body)
        got = Got(found.endpoint, values, key)
        server.got.append(got)
        result = server.handler(got)
    except Failure as error:
        return error.status, msgspec.json.encode(error.body())
    return found.endpoint.response.success.status, msgspec.json.encode(result)


@contextmanager
def serving_declared(protocol: Protocol, handler: Handler) -> Iterator[Declared]:
    """Run a server until the block ends."""
    running = Declared(protocol, handler)

    class Asked(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            key = self.headers.get("authorization")
            status, told = _answer(running, self.command, self.path, key, body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - called by name

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        server.daemon_threads = True
        running.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join(5)
