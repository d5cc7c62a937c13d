"""A wire to a server that is cut, or answers itself, when a certain request comes along."""

from __future__ import annotations

import select
import socket
from typing import Literal

from engines.wire import Wire

Moment = Literal["asked", "answered", "telling"]


class Plug(Wire):
    """Forwards HTTP, until a request comes that it is waiting for.

    Args:
        to: Host and port of the server.
    """

    def __init__(self, to: str) -> None:
        super().__init__(to)
        self.refused = 0
        """How many connections were refused while it was cut."""
        self.cuts = 0
        self._cut_at: tuple[bytes, Moment] | None = None
        self._refusals = 0
        self._answers: list[tuple[bytes, bytes]] = []

    def cut_at(self, request: str, moment: Moment, *, refusals: int = 3) -> None:
        """Pull the plug once, at a request, and put it in after so many vain tries to connect.

        Args:
            request: What its first line begins with: ``POST /hub/api/users/x``.
            moment: "asked": it never arrives. "answered": it does, the answer is lost. "telling":
                the first piece of the answer arrives, the rest is lost.
            refusals: How many new connections are refused.
        """
        self._refusals = refusals
        self._cut_at = (request.encode(), moment)

    def answer(self, request: str, *answers: str) -> None:
        """Give these answers, one after the other, to such requests; later ones are forwarded."""
        head = request.encode()
        self._answers += [(head, answer.encode()) for answer in answers]

    def _serve(self, client: socket.socket) -> None:
        if not self._whole:
            self.refused += 1
            if self.refused >= self._refusals:
                self.mend()
            client.close()
            return
        super()._serve(client)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        last: Moment | None = None
        while True:
            for each in select.select([client, server], [], [])[0]:
                data = each.recv(64 * 1024)
                if not data:
                    return None
                if each is client:
                    if answer := self._own(data):
                        client.sendall(answer)
                        return None
                    last = last or self._moment(data)
                    if last == "asked":
                        return self._pull()
                    server.sendall(data)
                elif last == "answered":
                    return self._pull()
                else:
                    client.sendall(data)
                    # The head of a stream comes alone.
                    if last == "telling" and b"data:" in data:
                        return self._pull()

    def _moment(self, data: bytes) -> Moment | None:
        if self._cut_at is not None and data.startswith(self._cut_at[0]):
            moment = self._cut_at[1]
            self._cut_at = None
            return moment
        return None

    def _own(self, data: bytes) -> bytes | None:
        for each in self._answers:
            if data.startswith(each[0]):
                self._answers.remove(each)
                return each[1]
        return None

    def _pull(self) -> None:
        self.cuts += 1
        self.refused = 0
        self.cut()


def reply(status: str, body: str, *headers: str) -> str:
    """Return an HTTP answer after which the connection ends."""
    lines = [
        f"HTTP/1.1 {status}",
        *headers,
        "content-type: application/json",
        f"content-length: {len(body.encode())}",
        "connection: close",
    ]
    return "\r\n".join(lines) + "\r\n\r\n" + body
