"""What an operator asks of builds, and wants done with them, over HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec
from quart import Response, request

from binder_backends.runner.text import strip_userinfo
from binder_core.engine import Batch, Binder, BuildInfo
from binder_core.errors import BinderError, NoSuchBuild, Refused
from binder_core.registry import parse_image
from binder_core.resume import read_log_id
from binder_http import sse, stream
from binder_http.connection import EventStream
from binder_http.security import Guard

_MOST_REASON: Final = 300
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class BuildsApi:
    """Answers ``/api/builds`` and what is below it.

    Args:
        binder: Does the work.
        guard: Knows the operator.
        retry: Seconds after which EventSource shall reconnect.
        closing: Set when the server stops.
    """

    def __init__(
        self, binder: Binder, *, guard: Guard, retry: float, closing: asyncio.Event
    ) -> None:
        self._binder = binder
        self._guard = guard
        self._retry = retry
        self._closing = closing
        self.methods: dict[str, Callable[..., Awaitable[Response]]] = {
            "list_builds": self._answering(self._list),
            "build_log": self._answering(self._log),
            "stop_build": self._answering(self._stop),
        }
        """By the names of their routes; see `binder_http.app.OPERATOR_PATHS`."""

    def _answering(
        self, method: Callable[..., Awaitable[Response]]
    ) -> Callable[..., Awaitable[Response]]:
        async def answer(**parts: str) -> Response:
            try:
                self._check()
                return await method(**parts)
            except BinderError as error:
                return _json({"status": error.status, "message": str(error)}, error.status)

        return answer

    def _check(self) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        reason = self._guard.operator_refusal(headers, request.args.get("token", ""))
        if reason is not None:
            raise Refused(reason)

    async def _list(self) -> Response:
        """Answer ``GET /api/builds``."""
        found = await self._binder.operator.list()
        builds = [_shown(build) for build in found.builds]
        return _json({"builds": builds, "complete": found.complete, "message": found.message})

    async def _log(self, name: str) -> Response:
        """Answer ``GET /api/builds/<name>/log``: events for who asks for them, else plain text."""
        follow = _flag("follow")
        after = read_log_id(request.headers.get("last-event-id", ""))
        if after is not None and after.last:
            return Response("", status=204)
        batches = self._binder.operator.log(
            _build(name), follow=follow, after=after, image=_image(request.args.get("image", ""))
        )
        try:
            # Whether there is such a build shows with its first word.
            first = await anext(batches, ())
        except BaseException:
            await batches.aclose()
            raise
        told = _chained(first, batches)
        if sse.CONTENT_TYPE in request.headers.get("accept", ""):
            body = stream.chunks(told, retry=self._retry, linger=0.0, closing=self._closing)
            kind = sse.CONTENT_TYPE
        else:
            body, kind = _text(told), "text/plain; charset=utf-8"
        headers = {"content-type": kind, "cache-control": "no-cache", "x-accel-buffering": "no"}
        return EventStream(body, headers)

    async def _stop(self, name: str) -> Response:
        """Answer ``DELETE /api/builds/<name>``."""
        given = "".join(char for char in request.args.get("reason", "") if char.isprintable())
        reason = "The build was stopped by the operator"
        reason += f": {given.strip()[:_MOST_REASON]}" if given.strip() else "."
        if not await self._binder.operator.stop(name, reason):
            raise NoSuchBuild(f"There is no build {name[:80]!r} under way; see: binder builds")
        return _json({"name": name, "stopped": True})


async def _chained(first: Batch, batches: AsyncGenerator[Batch]) -> AsyncGenerator[Batch]:
    async with aclosing(batches):
        yield first
        async for batch in batches:
            yield batch


async def _text(batches: AsyncGenerator[Batch]) -> AsyncGenerator[bytes]:
    async with aclosing(batches):
        async for batch in batches:
            if batch:
                yield "".join(told.event.message for told in batch).encode()


def _shown(build: BuildInfo) -> dict[str, Any]:
    return {
        "name": build.name,
        "provider": build.provider,
        "repo_url": strip_userinfo(build.repo_url),
        "ref": build.ref,
        "image": build.image,
        "state": build.state.value,
        "phase": build.phase,
        "place": build.place,
        "age": build.age,
        "watchers": build.watchers,
        "run_id": build.run_id,
        "elsewhere": build.elsewhere,
    }


def _build(name: str) -> str:
    """Return the name of a build, if it can be one: backends name folders and containers so."""
    if not _NAME.fullmatch(name):
        raise NoSuchBuild(f"There is no build {name[:80]!r} under way; see: binder builds")
    return name


def _image(name: str) -> str:
    """Return the name of an image, if it is one."""
    try:
        if name:
            parse_image(name)
    except ValueError as error:
        raise BinderError(str(error)[:200], status=400) from error
    return name


def _flag(name: str) -> bool:
    given = request.args.get(name, "false").lower()
    if given not in {"true", "false", "1", "0"}:
        raise BinderError(f"{name} is true or false, not {given[:40]!r}", status=400)
    return given in {"true", "1"}


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status=status, content_type="application/json")
