"""The API: each request becomes one call, and what comes back becomes bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import msgspec
from quart import Request, Response, request
from werkzeug.datastructures import Headers, MIMEAccept
from werkzeug.http import parse_accept_header

from binder_core import events, resume
from binder_core.engine import Batch, Binder
from binder_core.engine import Request as Asked
from binder_core.errors import BinderError, Refused
from binder_core.events import Failed
from binder_core.journal import Told
from binder_http import sse, stream
from binder_http.builds_api import BuildsApi
from binder_http.config import Server
from binder_http.connection import EventStream
from binder_http.metrics import Metrics
from binder_http.rawpath import raw_tail
from binder_http.security import BuildTokens, Guard, origin_of

_CHECK_TIMEOUT: Final = 15.0
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"", "false", "0", "no", "off"})

_STREAM_HEADERS: Final = {
    "content-type": sse.CONTENT_TYPE,
    "cache-control": "no-cache",
    # Proxies shall pass on each event as it comes.
    "x-accel-buffering": "no",
}


class Api:
    """What the routes do.

    Args:
        binder: Does the work.
        server: How streams are treated.
        guard: Who may ask.
        build_tokens: Checks ``build_token``; None: any is refused.
        metrics: What is shown; None: there is no such page.
        names: What builder and launcher are called in ``/versions``.
    """

    def __init__(
        self,
        binder: Binder,
        *,
        server: Server,
        guard: Guard,
        build_tokens: BuildTokens | None,
        metrics: Metrics | None,
        names: Mapping[str, str],
    ) -> None:
        self.binder = binder
        self.closing = asyncio.Event()
        self.builds = BuildsApi(binder, guard=guard, retry=server.retry, closing=self.closing)
        self._server = server
        self._guard = guard
        self._build_tokens = build_tokens
        self._metrics = metrics
        self._names = names
        if metrics is not None:
            metrics.watch(binder)

    def drain(self) -> None:
        """Begin nothing new, and let every stream end soon, so that clients go on elsewhere."""
        self.binder.drain()
        self.closing.set()

    # -- The event stream -------------------------------------------------------------------------

    async def build(self, rest: str = "") -> Response:
        """Answer ``/build/<provider>/<spec>``."""
        if request.method == "HEAD":
            return Response(headers=_STREAM_HEADERS)
        try:
            asked = self._asked(rest)
        except _NotAsked as error:
            # Nobody who reads events sent this, so nobody has to close first.
            return self._stream(_failed(error), linger=0.0)
        except BinderError as error:
            return self._stream(_failed(error), linger=self._server.linger)
        if asked is None:
            return Response(status=204)
        if self.closing.is_set():
            return self._stream(_nothing(), linger=0.0)
        return self._stream(self.binder.stream(asked), linger=self._server.linger)

    def _asked(self, rest: str) -> Asked | None:
        """Return what the request asks for, None if the client has seen the end of it.

        Raises:
            BinderError: It cannot be asked for.
        """
        length = sum(len(name) + len(value) for name, value in request.scope["headers"])
        if length > self._server.max_headers_bytes:
            most = self._server.max_headers_bytes
            raise _NotAsked(f"The headers have {length} bytes; at most {most} are taken.", 431)
        try:
            before, raw = raw_tail(request.scope, rest)
        except ValueError:
            raise _NotAsked("Before the spec the path must not hold escapes.", 400) from None
        raw = raw.removesuffix("/")
        provider, _, spec = raw.partition("/")
        if len(raw) > self._server.max_spec_bytes:
            most = self._server.max_spec_bytes
            raise _NotAsked(f"The spec has {len(raw)} bytes; at most {most} are taken.", 414)
        if not _accepts_events(request.headers):
            raise _NotAsked(
                "Missing Accept header: this is an event stream, ask for it with "
                f"'Accept: {sse.CONTENT_TYPE}'.",
                400,
            )
        asked = Asked(
            provider=provider,
            spec=spec,
            build_only=_flag("build_only"),
            last_event_id=request.headers.get("last-event-id", ""),
            launch_host=self._launch_host(before.removesuffix("build/")),
        )
        # Before anything is refused: EventSource comes back until it hears this.
        if self.binder.had_ended(asked):
            return None
        self.check()
        if asked.build_only and not self._server.build_only:
            raise Refused(
                "This server does not build without launching (build_only). The operator can "
                "allow it by the setting server.build_only.",
                status=400,
            )
        if token := request.args.get("build_token", ""):
            if self._build_tokens is None:
                raise Refused("This server knows no build tokens.")
            self._build_tokens.check(token, asked.text, origin_of(_headers()))
        return asked

    def _launch_host(self, base: str) -> str:
        if self._server.public_url:
            return self._server.public_url.rstrip("/") + "/"
        return f"{request.scheme}://{request.headers.get('host', '')}{base}"

    def _stream(self, batches: AsyncGenerator[Batch], *, linger: float) -> Response:
        body = stream.chunks(batches, retry=self._server.retry, linger=linger, closing=self.closing)
        return EventStream(body, _STREAM_HEADERS)

    # -- Beside it --------------------------------------------------------------------------------

    def check(self) -> None:
        """Return if the request may pass.

        Raises:
            Refused: It may not.
        """
        reason = self._guard.refusal(_headers(), request.args.get("token", ""))
        if reason is not None:
            raise Refused(reason)

    async def health(self) -> Response:
        """Answer ``/health``."""
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                checks = [
                    {"service": check.service, "ok": check.ok, "message": check.message}
                    for check in await self.binder.check()
                ]
        except TimeoutError:
            message = f"The checks took longer than {_CHECK_TIMEOUT:g} s."
            checks = [{"service": "checks", "ok": False, "message": message}]
        well = all(check["ok"] for check in checks)
        return _json({"ok": well, "checks": checks}, status=200 if well else 503)

    async def versions(self) -> Response:
        """Answer ``/versions``."""
        launcher = self.binder.launcher
        return _json(
            {
                "binderhub": version(),
                "builder": self._names.get("builder", ""),
                "builder_info": dict(self.binder.builder.versions()),
                "launcher": self._names.get("launcher", ""),
                "launcher_info": dict(launcher.versions()) if launcher else {},
            }
        )

    async def config(self) -> Response:
        """Answer ``/_config``: the labels of the form, by provider."""
        return _json(
            {
                prefix: {
                    "text": provider.display.repo_label,
                    "tag_text": provider.display.ref_label,
                    "ref_prop_disabled": not provider.display.ref_enabled,
                    "label_prop_disabled": not provider.display.ref_enabled,
                }
                for prefix, provider in self.binder.providers.items()
            }
        )

    async def repoproviders(self) -> Response:
        """Answer ``/api/repoproviders``: all that a form shows, by provider."""
        return _json([_form(prefix, one) for prefix, one in self.binder.providers.items()])

    async def metrics(self) -> Response:
        """Answer ``/metrics``."""
        if self._metrics is None:
            return _json({"status": 404, "message": "There are no metrics here."}, status=404)
        page, content_type = self._metrics.page(request.headers.get("accept", ""))
        return Response(page, content_type=content_type)

    async def events_schema(self) -> Response:
        """Answer ``/events.schema.json``: what an event looks like."""
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **events.json_schema()}
        return _json(schema, content_type="application/schema+json")

    async def openapi(self) -> Response:
        """Answer ``/openapi.json``."""
        from binder_http.openapi import description  # noqa: PLC0415 - rarely asked for

        base = request.path.removesuffix("openapi.json")
        return _json(description(version=version(), base_url=request.root_path + base))

    # -- Around all of it -------------------------------------------------------------------------

    async def before(self) -> Response | None:
        """Check a request before its route does anything."""
        # A preflight does nothing and brings nothing. `build` checks in its own order.
        if request.method == "OPTIONS":
            return Response(status=204)
        if (request.endpoint or "").rpartition(".")[2] == "build":
            return None
        try:
            self.check()
        except Refused as error:
            return _json({"status": error.status, "message": str(error)}, status=error.status)
        return None

    async def after(self, response: Response) -> Response:
        """Add what every answer carries."""
        response.headers["x-content-type-options"] = "nosniff"
        response.headers.extend(cross_origin(self._guard, request))
        return response


def cross_origin(guard: Guard, asked: Request) -> dict[str, str]:
    """Return the headers that let pages of allowed sites read the answer."""
    origin = asked.headers.get("origin", "")
    everybody = guard.allows("*")
    if not everybody and not (origin and guard.allows(origin)):
        return {} if not guard.origins else {"vary": "Origin"}
    allowed = {
        "access-control-allow-origin": "*" if everybody else origin,
        "access-control-allow-headers": "cache-control, authorization, last-event-id, x-xsrftoken",
        "access-control-allow-methods": "GET, HEAD, OPTIONS",
    }
    return allowed if everybody else allowed | {"vary": "Origin"}


def version() -> str:
    """Return the version of this package."""
    from importlib.metadata import version as installed  # noqa: PLC0415 - slow

    return installed("binderkit")


class _NotAsked(BinderError):
    """Not a request for events at all."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status=status)


async def _failed(error: BinderError) -> AsyncGenerator[Batch]:
    yield [Told.of(Failed(message=str(error), status_code=error.status), resume.END)]


async def _nothing() -> AsyncGenerator[Batch]:
    nothing: tuple[Batch, ...] = ()
    for batch in nothing:
        yield batch


def _headers() -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def _accepts_events(headers: Headers) -> bool:
    """Return whether an event stream is named, not merely covered by ``*/*``."""
    accept = parse_accept_header(",".join(headers.getlist("accept")), MIMEAccept)
    kinds = (kind.partition(";")[0].strip() for kind, quality in accept if quality > 0)
    return any(kind.lower() == sse.CONTENT_TYPE for kind in kinds)


def _flag(name: str) -> bool:
    given = request.args.get(name, "").lower()
    if given in _FALSE:
        return False
    if given in _TRUE:
        return True
    raise BinderError(f"{name} is true or false, not {given[:40]!r}", status=400)


def _form(prefix: str, provider: Any) -> dict[str, Any]:
    display = provider.display
    form: dict[str, Any] = {
        "displayName": display.name,
        "id": prefix,
        "repo": {"label": display.repo_label, "placeholder": display.repo_placeholder},
        "ref": {"enabled": display.ref_enabled},
    }
    if display.ref_enabled:
        form["ref"] |= {
            "default": display.ref_placeholder,
            "label": display.ref_label,
            "placeholder": display.ref_placeholder,
        }
    if display.spec_regex:
        form["spec"] = {"validateRegex": display.spec_regex}
    if display.url_regexes:
        form["detect"] = {"regex": "|".join(f"(?:{one})" for one in display.url_regexes)}
    return form


def _json(content: Any, *, status: int = 200, content_type: str = "application/json") -> Response:
    return Response(msgspec.json.encode(content), status=status, content_type=content_type)
