"""A Docker engine that only says so: its containers are entries of a table.

For what a real one does too seldom, or only after a long time.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

Container = dict[str, Any]
MEBIBYTE = bytes(2**20)


class PlayedEngine:
    """The engine.

    Args:
        socket: The path of its socket.
    """

    def __init__(self, socket: Path) -> None:
        self.host = f"unix://{socket}"
        self.containers: dict[str, Container] = {}
        """By name."""
        self.user = ""
        """Whom the image runs as, whichever it is."""
        self.passwd = passwd("jovyan:x:1000:100::/home/jovyan:/bin/sh\n")
        """The archive of ``/etc/passwd``, as whoever asks is sent it; empty: there is none."""
        self.huge = False
        """Whether that file goes on for a quarter of a gigabyte."""
        self.sent_bytes = 0
        """How much of the archive was sent."""
        self.given: list[tarfile.TarInfo] = []
        """What was brought into containers."""
        self.faults: list[tuple[str, int, str]] = []
        """Answers to be given once: what is asked begins with, status, message."""
        self.asked: list[str] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer."""
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.UnixSite(runner, self.host.removeprefix("unix://")).start()
        try:
            yield
        finally:
            await runner.cleanup()

    def add(self, name: str, config: dict[str, Any], *, began: str = "", state: str = "") -> None:
        """Add a container.

        Args:
            name: Its own.
            config: As it was asked for.
            began: When it was created and started.
            state: Empty: it was not started.
        """
        began = began or datetime.now(UTC).isoformat()
        host = config["HostConfig"]
        self.containers[name] = {
            "Id": f"id-of-{name}",
            "Name": f"/{name}",
            "Created": began,
            "Config": {**config, "User": self.user},
            "HostConfig": host,
            "NetworkSettings": {"Ports": host.get("PortBindings")},
            "State": {"Status": state or "created", "StartedAt": began},
        }

    async def _answer(self, asked: web.Request) -> web.StreamResponse:
        # Each question has the version before it that the engine gave as its own.
        path = re.sub(r"^/v1\.\d+/", "/", asked.path)
        question = f"{asked.method} {path}"
        self.asked.append(question)
        for fault in self.faults:
            if question.startswith(fault[0]):
                self.faults.remove(fault)
                return _said({"message": fault[2]}, fault[1])
        if path == "/version":
            return _said({"Version": "20.10.24", "ApiVersion": "1.41"})
        if path.startswith("/images/"):
            return _said({"Config": {"User": self.user}})
        if path == "/containers/json":
            return _said([_listed(each) for each in self.containers.values()])
        if path == "/containers/create":
            self.add(asked.query["name"], await asked.json())
            return _said({"Id": f"id-of-{asked.query['name']}"}, 201)
        name, _, action = path.removeprefix("/containers/").removeprefix("id-of-").partition("/")
        if name not in self.containers:
            return _said({"message": f"No such container: {name}"}, 404)
        return await self._act(asked, name, action)

    async def _act(self, asked: web.Request, name: str, action: str) -> web.StreamResponse:
        container = self.containers[name]
        match asked.method, action:
            case "GET", "json":
                return _said(container)
            case "GET", "archive":
                return await self._archive(asked)
            case "PUT", "archive":
                with tarfile.open(fileobj=io.BytesIO(await asked.read())) as archive:
                    self.given += archive.getmembers()
            case "POST", "start":
                container["State"]["Status"] = "running"
            case "POST", "update":
                container["HostConfig"] |= await asked.json()
            case "DELETE", "":
                del self.containers[name]
            case _:
                return _said({"message": "no such thing"}, 404)
        return _said({})

    async def _archive(self, asked: web.Request) -> web.StreamResponse:
        if not self.passwd:
            return _said({"message": "Could not find the file"}, 404)
        reply = web.StreamResponse(headers={"content-type": "application/x-tar"})
        await reply.prepare(asked)
        await reply.write(self.passwd)
        self.sent_bytes += len(self.passwd)
        try:
            for _ in range(256 if self.huge else 0):
                await reply.write(MEBIBYTE)
                self.sent_bytes += len(MEBIBYTE)
        except ConnectionError:
            return reply
        await reply.write_eof()
        return reply


def passwd(text: str) -> bytes:
    """Return an archive of a file with `text`."""
    member = tarfile.TarInfo("passwd")
    member.size = len(text)
    return archive(member, text.encode())


def archive(member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """Return an archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _listed(container: Container) -> dict[str, Any]:
    return {"Id": container["Id"], "State": container["State"]["Status"]}


def _said(said: object, status: int = 200) -> web.Response:
    return web.Response(status=status, text=json.dumps(said), content_type="application/json")
