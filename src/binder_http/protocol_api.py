"""The routes of the older Binder protocol, made from its declaration.

What a request means and what errors there are, the declaration says; here is what is done about
it. Everything is done by the same engine as ``/build``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

import msgspec
from quart import Response, request
from werkzeug.exceptions import HTTPException

from binder_backends.runner.text import strip_userinfo
from binder_core.engine import Request as Asked
from binder_core.errors import (
    BackendUnavailable,
    BinderError,
    LaunchFailed,
    ProviderUnavailable,
    RefNotFound,
    Refused,
    SpecError,
    UnknownProvider,
)
from binder_core.plugin import (
    BuildRecord,
    DeploymentRecord,
    DeploymentStatus,
    Store,
    TemplateRecord,
)
from binder_core.protocol import (
    BINDER,
    Endpoint,
    Failure,
    Value,
    failure,
    methods,
    parse,
)
from binder_core.protocol import match as matched
from binder_core.providers import recognise
from binder_http import buildlog, keys
from binder_http.config import Older
from binder_http.rawpath import raw_tail
from binder_http.recording import Recorder
from binder_http.security import Guard

log = logging.getLogger("binder.http")

Values: TypeAlias = Mapping[str, Value]

_CHECK_TIMEOUT: Final = 15.0
_NAME_LENGTH: Final = 100
_NOT_OPEN: Final = ("noDatabase", "badDatabase", "badQuery")
_NO_ANSWER: Final = ("badQuery", "badDatabase", "noDatabase")
_SAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_IDLE: Final = 10 * 365 * 86400.0


class ProtocolApi:
    """Answers the older protocol.

    Args:
        recorder: Does the work and keeps the records.
        settings: What templates say.
        guard: Who may ask at all. Its token stands for a key where an endpoint needs none.
    """

    def __init__(self, recorder: Recorder, settings: Older, guard: Guard) -> None:
        self.recorder = recorder
        self._binder = recorder.binder
        self._settings = settings
        self._guard = guard
        self._open_guard = replace(guard, token="")
        self._preloads: dict[str, str] = {}
        self._handlers: dict[str, Callable[[Store, Endpoint, Any], Awaitable[Any]]] = {
            "build.start": self._build_start,
            "build.status": self._build_status,
            "build.statusAll": self._build_status_all,
            "registry.fetch": self._fetch,
            "registry.fetchAll": self._fetch_all,
            "deploy.deploy": self._deploy,
            "deploy.status": self._deploy_status,
            "deploy.statusAll": self._deploy_status_all,
            "deploy._preload": self._preload,
            "deploy._preloadStatus": self._preload_status,
            "health.status": self._health,
        }

    # -- From a request to a handler --------------------------------------------------------------

    async def answer(self, rest: str = "") -> Response:
        """Answer any request of the protocol."""
        if request.method == "OPTIONS":
            return Response(status=204)
        endpoint: Endpoint | None = None
        try:
            path = _path(rest)
            method = "GET" if request.method == "HEAD" else request.method
            asked = matched(BINDER, method, path)
            if asked is None:
                return self._nothing_there(path)
            endpoint = asked.endpoint
            store = await self._let_in(endpoint)
            values = parse(BINDER, asked, query=_query(), body=await _body(endpoint))
            store = store or await self._opened(endpoint)
            result = await self._handlers[BINDER.full_name(endpoint)](store, endpoint, values)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
            return _told(endpoint, error)
        return _json(result, endpoint.response.success.status)

    async def log(self, name: str) -> Response:
        """Answer ``/builds/<name>/log``: the log of the newest build that has ended."""
        endpoint = BINDER.endpoint("build.status")
        try:
            store = await self._keyed(endpoint)
            data = await store.log(name, request.args.get("build"))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
            return _told(endpoint, error)
        if data is None:
            why = "it has not ended, or its log is not kept"
            return _told(endpoint, _failure(endpoint, "noBuildInfo", {}, why))
        text = await asyncio.to_thread(buildlog.plain, data)
        return Response(text, content_type="text/plain; charset=utf-8")

    def _nothing_there(self, path: str) -> Response:
        allowed = methods(BINDER, path)
        if not allowed:
            message = "There is nothing at this path; a / in a name is written %2F."
            return _json(failure(BINDER, None, "malformedRequest", message=message).body(), 422)
        message = f"This path takes {' and '.join(allowed)}, not {request.method}."
        response = _json(failure(BINDER, None, "malformedRequest", message=message).body(), 405)
        response.headers["allow"] = ", ".join(allowed)
        return response

    async def _let_in(self, endpoint: Endpoint) -> Store | None:
        """Return if the request may pass; the store, where a key was looked up in it."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        if (reason := self._open_guard.refusal(headers)) is not None:
            raise failure(BINDER, endpoint, "unauthorized", message=reason)
        if endpoint.request.authorized:
            return await self._keyed(endpoint)
        # What launches other people's code as this user is for nobody else, whatever the protocol
        # leaves open.
        token = request.args.get("token", "")
        if self._guard.token and self._guard.refusal(headers, token) is not None:
            return await self._keyed(endpoint)
        return None

    async def _keyed(self, endpoint: Endpoint) -> Store:
        store = await self._opened(endpoint)
        if not await keys.is_good(store, request.headers.get("authorization", "")):
            raise failure(BINDER, endpoint, "unauthorized")
        return store

    async def _opened(self, endpoint: Endpoint) -> Store:
        try:
            return await self.recorder.store()
        except BackendUnavailable as error:
            raise _first(endpoint, _NOT_OPEN, error.message) from error

    # -- build ------------------------------------------------------------------------------------

    async def _build_start(self, store: Store, endpoint: Endpoint, values: Values) -> Any:
        repository, force = str(values["repository"]), bool(values.get("force", False))
        found = recognise(repository, self._binder.providers.values())
        if found is None:
            raise _failure(endpoint, "badRepoSource", values)
        provider, pasted = found
        try:
            source = f"{provider.prefix}:{provider.parse(pasted.spec).repo}".casefold()
            plan = await self._binder.steps.plan(Asked(provider=provider.prefix, spec=pasted.spec))
        except (SpecError, RefNotFound, UnknownProvider, ProviderUnavailable) as error:
            raise _failure(endpoint, "badRepoSource", values, error.message) from error
        name = await _free_name(store, plan.resolved.slug, source)
        before = await store.build(name)
        under_way = before if before and before.status.live else None
        owner, lease = self.recorder.held()
        build = BuildRecord(
            id=secrets.token_hex(12),
            name=name,
            # Whoever knows the name may ask for it.
            repository=strip_userinfo(repository),
            source=source,
            started=self.recorder.now(),
            provider=provider.prefix,
            build_name=plan.build.name,
            image=plan.build.image,
            repo_url=plan.build.repo_url,
            ref=plan.build.ref,
            content_provider=plan.build.content_provider,
            owner=owner,
            lease=lease,
        )
        begun = False
        if force or under_way is None:
            begun = await self.recorder.start_build(build, instead=under_way)
        if not begun:
            raise _failure(endpoint, "alreadyBuilding", values)
        return {"name": name}

    async def _build_status(self, store: Store, endpoint: Endpoint, values: Values) -> Any:
        build = await store.build(str(values["image-name"]))
        if build is None:
            raise _failure(endpoint, "noBuildInfo", values)
        return _build(build)

    async def _build_status_all(self, store: Store, _endpoint: Endpoint, _values: Values) -> Any:
        return [_build(build) for build in await store.builds()]

    # -- registry ---------------------------------------------------------------------------------

    async def _fetch(self, store: Store, endpoint: Endpoint, values: Values) -> Any:
        return self._template(await _template(store, endpoint, values, "doesNotExist"))

    async def _fetch_all(self, store: Store, _endpoint: Endpoint, _values: Values) -> Any:
        return [self._template(template) for template in await store.templates()]

    def _template(self, template: TemplateRecord) -> dict[str, Any]:
        settings = self._settings
        return {
            "name": template.name,
            "image-name": template.image.rpartition("/")[2].partition(":")[0],
            "image-source": template.image,
            "port": settings.template_port,
            "limits": {
                "memory": settings.template_memory or None,
                "cpu": settings.template_cpu or None,
            },
            "services": [],
        }

    # -- deploy -----------------------------------------------------------------------------------

    async def _deploy(self, store: Store, endpoint: Endpoint, values: Values) -> Any:
        template = await _template(store, endpoint, values, "registryError")
        idle = values.get("cull-timeout")
        if idle is not None and not 0 < float(idle) <= _MOST_IDLE:
            raise _malformed(endpoint, "cull-timeout is more than 0, and at most 10 years")
        if self._binder.launcher is None:
            message = "This server builds images and launches nothing."
            raise failure(BINDER, endpoint, "registryError", message=message)
        self._check_image(endpoint, template)
        owner, lease = self.recorder.held()
        deployment = DeploymentRecord(
            id=secrets.token_hex(16),
            template=template.name,
            image=template.image,
            repo_url=template.repo_url,
            ref=template.ref,
            server=self._binder.steps.new_server_name(template.name),
            started=self.recorder.now(),
            idle_timeout=None if idle is None else float(idle),
            owner=owner,
            lease=lease,
        )
        await self.recorder.start_deployment(deployment)
        return {"id": deployment.id}

    async def _deploy_status(self, store: Store, endpoint: Endpoint, values: Values) -> Any:
        named = str(values["template-name"]), str(values["id"])
        deployment = await store.deployment(*named)
        if deployment is not None:
            deployment = await self.recorder.still(deployment)
        if deployment is None or deployment.status is DeploymentStatus.ENDED:
            why = deployment.message if deployment else ""
            raise _failure(endpoint, "noRecord", values, why)
        return self._deployment(deployment)

    async def _deploy_status_all(self, store: Store, _endpoint: Endpoint, values: Values) -> Any:
        template = values.get("template-name")
        found = await store.deployments(None if template is None else str(template))
        now = [await self.recorder.still(deployment) for deployment in found]
        return [self._deployment(one) for one in now if one.status is not DeploymentStatus.ENDED]

    def _deployment(self, deployment: DeploymentRecord) -> dict[str, Any]:
        location = None
        if deployment.status is DeploymentStatus.READY:
            # Who knows the id may use the server, so the location lets in whoever opens it.
            token = self.recorder.server_of(deployment).token
            location = f"{deployment.url}?token={quote(token, safe='')}"
        return {"id": deployment.id, "location": location}

    async def _preload(self, store: Store, endpoint: Endpoint, values: Values) -> Any:
        template = await _template(store, endpoint, values, "registryError")
        self._check_image(endpoint, template)
        name, image = template.name, template.image
        self._preloads[name] = "running"
        try:
            if not await self._binder.steps.exists(image):
                why = "its image is gone: build it anew"
                raise _failure(endpoint, "registryError", values, why)
            await self._binder.steps.preload(image)
        except BackendUnavailable as error:
            raise _failure(endpoint, "badKubeRequest", values, error.message) from error
        except LaunchFailed as error:
            raise _failure(endpoint, "unknownFailure", values, error.message) from error
        else:
            self._preloads[name] = "completed"
        finally:
            if self._preloads[name] != "completed":
                self._preloads[name] = "failed"
        return {"name": name, "status": "completed"}

    def _check_image(self, endpoint: Endpoint, template: TemplateRecord) -> None:
        """Return if a template's image may be launched: records are no proof that it is ours."""
        try:
            self._binder.steps.check_image(template.image)
        except Refused as error:
            raise failure(BINDER, endpoint, "registryError", message=error.message) from error

    async def _preload_status(self, store: Store, _endpoint: Endpoint, values: Values) -> Any:
        await store.check()
        name = str(values["template-name"])
        return {"name": name, "status": self._preloads.get(name, "none")}

    # -- health -----------------------------------------------------------------------------------

    async def _health(self, store: Store, _endpoint: Endpoint, _values: Values) -> Any:
        await store.check()
        told = {"database": "running"}
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                for check in await self._binder.check():
                    told[check.service] = "running" if check.ok else f"down: {check.message}"
        except TimeoutError:
            told["checks"] = f"down: no answer within {_CHECK_TIMEOUT:g} s"
        now = _time(self.recorder.now())
        return [{"name": name, "timestamp": now, "status": told[name]} for name in told]


async def _free_name(store: Store, slug: str, source: str) -> str:
    """Return the name of a repository's template.

    Of two repositories whose names come to the same (``a/b-c`` and ``a-b/c``) the second one gets
    a name of its own.
    """
    if "://" in slug:  # of any git server: only the provider of one host knows owners
        slug = "-".join(unquote(slug).partition("://")[2].split("/")[1:][-2:]).removesuffix(".git")
    plain = _SAFE.sub("-", slug).strip("-.")[:_NAME_LENGTH] or "template"
    own = f"{plain}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    holders = await store.template(plain), await store.build(plain)
    return plain if all(one is None or one.source == source for one in holders) else own


async def _template(
    store: Store, endpoint: Endpoint, values: Values, missing: str
) -> TemplateRecord:
    name = str(values["template-name"])
    template = await store.template(name)
    if template is None:
        raise _failure(endpoint, missing, values)
    return template


def _build(build: BuildRecord) -> dict[str, Any]:
    return {
        "name": build.name,
        "start-time": _time(build.started),
        "status": build.status.value,
        "phase": build.phase,
        "repository": build.repository,
    }


def _time(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _shown(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def _path(rest: str) -> str:
    """Return the path as it came, without what the app is mounted under."""
    if not rest and not request.path.endswith("/"):
        return f"/{request.path.rpartition('/')[2]}/"
    try:
        before, tail = raw_tail(request.scope, rest)
    except ValueError:
        message = "Before its names the path must not hold escapes."
        raise failure(BINDER, None, "malformedRequest", message=message) from None
    prefix = unquote(before).rstrip("/").rpartition("/")[2]
    return f"/{prefix}/{tail}"


def _query() -> str:
    """Return the query without what is the server's own wherever it needs a token."""
    parts = request.query_string.decode("ascii", "replace").split("&")
    return "&".join(part for part in parts if not part.startswith("token="))


async def _body(endpoint: Endpoint) -> bytes:
    try:
        body = await request.get_data(as_text=False)
    except HTTPException as error:
        raise _malformed(endpoint, error.description or "the body is too long") from None
    return body if isinstance(body, bytes) else body.encode()


def _told(endpoint: Endpoint | None, error: Exception) -> Response:
    """Return the declared error that tells what happened."""
    match error:
        case Failure():
            told = error
        case BackendUnavailable():
            log.warning("%s", error)
            told = _first(endpoint, _NO_ANSWER, error.message)
        case BinderError():
            told = failure(BINDER, endpoint, "generic", message=error.message)
        case _:
            log.error("internal error", exc_info=error)
            message = "Internal error: the operator of this server finds it in the log."
            told = failure(BINDER, endpoint, "generic", message=message)
    return _json(told.body(), told.status)


def _first(endpoint: Endpoint | None, names: tuple[str, ...], detail: str) -> Failure:
    """Return the first of these errors that an endpoint declares."""
    own = [name for name in names if endpoint is not None and endpoint.error(name)]
    if not own:
        return failure(BINDER, endpoint, "generic", message=detail)
    return failure(BINDER, endpoint, own[0], detail=detail)


def _malformed(endpoint: Endpoint, detail: str) -> Failure:
    return failure(BINDER, endpoint, "malformedRequest", detail=detail)


def _failure(endpoint: Endpoint, name: str, values: Values, detail: str = "") -> Failure:
    short = {
        key: _shown(value) if isinstance(value, str) else value for key, value in values.items()
    }
    return failure(BINDER, endpoint, name, short, detail=detail)


def _json(content: Any, status: int) -> Response:
    return Response(msgspec.json.encode(content), status=status, content_type="application/json")
