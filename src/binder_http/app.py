"""The Quart app, and the blueprint for somebody else's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Final

from quart import Blueprint, Quart
from quart.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from binder_core.engine import Binder
from binder_http import assembly
from binder_http.api import Api
from binder_http.config import Config, Server
from binder_http.connection import Connection
from binder_http.handover import Handover
from binder_http.late import LateAsker
from binder_http.late_protocol import PREFIXES, LateProtocol
from binder_http.metrics import Metrics
from binder_http.security import BuildTokens, Guard
from binder_http.security import guard as guard_of

EXTENSION: Final = "binder"
"""Where an app of `create_app` keeps its `Api`: ``app.extensions["binder"]``."""

PATHS: Final[Mapping[str, str]] = {
    "/build/<binder_rest:rest>": "build",
    "/health": "health",
    "/versions": "versions",
    "/_config": "config",
    "/api/repoproviders": "repoproviders",
    "/metrics": "metrics",
    "/events.schema.json": "events_schema",
    "/openapi.json": "openapi",
}
"""The routes: to each the method of `Api` that answers it."""

OPERATOR_PATHS: Final[Mapping[tuple[str, str], str]] = {
    ("GET", "/api/builds"): "list_builds",
    ("GET", "/api/builds/<name>/log"): "build_log",
    ("DELETE", "/api/builds/<name>"): "stop_build",
}
"""The routes for the operator alone: to each the method of `binder_http.builds_api.BuildsApi`."""

_ANY: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MOST_BODY_BYTES: Final = 65536
_GITHUB_API: Final = "api.github.com"


class _Rest(BaseConverter):
    """The rest of a path whatever it is: empty parts and all."""

    regex = r"[\s\S]*"
    part_isolating = False


def blueprint(
    binder: Binder,
    *,
    name: str = "binder",
    server: Server | None = None,
    guard: Guard | None = None,
    build_tokens: BuildTokens | None = None,
    metrics: Metrics | None = None,
    names: Mapping[str, str] | None = None,
) -> Blueprint:
    """Return the API for somebody else's Quart app, to be registered under any prefix.

    The app opens the binder (``async with``) before it serves, and calls its ``drain`` when it is
    told to stop, so that open streams do not keep it.

    Args:
        binder: Does the work.
        name: The blueprint's.
        server: How streams are treated; its addresses are not used.
        guard: Who may ask; by default everybody but other people's web pages.
        build_tokens: Checks ``build_token``; without it any is refused.
        metrics: The binder's observer, shown at ``/metrics``.
        names: What ``builder`` and ``launcher`` are called in ``/versions``.
    """
    api = Api(
        binder,
        server=server or Server(),
        guard=guard or Guard(),
        build_tokens=build_tokens,
        metrics=metrics,
        names=names or {},
    )
    return _blueprint(api, name)


def create_app(
    config: Config,
    *,
    binder: Binder | None = None,
    metrics: Metrics | None = None,
    handover: Handover | None = None,
) -> Quart:
    """Return the app, for any ASGI server that knows lifespans.

    Args:
        config: See `binder_http.config.load`.
        binder: An open one to use. By default the app makes one of the configuration, opens it
            before it serves and closes it at the end.
        metrics: That binder's observer.
        handover: Takes streams over from hypercorn, where whoever serves the app ends them: see
            `binder_http.server`.
    """
    app = Quart(__name__)
    app.asgi_http_class = partial(Connection, handover=handover)  # type: ignore[assignment] # makes one
    app.config["MAX_CONTENT_LENGTH"] = _MOST_BODY_BYTES
    if binder is None:
        asker = assembly.make_asker(config)
        metrics = make_metrics(config, asker)
        made = binder = assembly.make_binder(config, asker, observer=metrics)

        @app.while_serving
        async def serving() -> AsyncGenerator[None]:
            async with assembly.opened(made, asker):
                yield

    guard = guard_of(config, assembly.access_token(config))
    if config.protocol.enabled:
        _serve_protocol(app, config, binder, guard)
    names = {"builder": config.builder.kind}
    if config.launcher is not None:
        names["launcher"] = config.launcher.kind
    api = Api(
        binder,
        server=config.server,
        guard=guard,
        build_tokens=BuildTokens(
            assembly.signing_key(config), config.security.build_token_lifetime
        ),
        metrics=metrics,
        names=names,
    )
    app.extensions[EXTENSION] = api
    app.register_blueprint(_blueprint(api, "binder"), url_prefix=config.server.prefix or None)
    return app


def make_metrics(config: Config, asker: LateAsker) -> Metrics | None:
    """Return what counts, None where nothing shall be counted.

    Args:
        config: See `binder_http.config`.
        asker: Knows how often GitHub may still be asked.
    """
    if not config.metrics.enabled:
        return None

    def github() -> int | None:
        limit = asker.rate_limits.get(_GITHUB_API)
        return limit.remaining if limit else None

    return Metrics(repo_label=config.metrics.repo_label, rate_limit=github)


def _serve_protocol(app: Quart, config: Config, binder: Binder, guard: Guard) -> None:
    """Add the older Binder protocol."""
    late = LateProtocol(binder, config, guard)

    @app.while_serving
    async def serving() -> AsyncGenerator[None]:
        async with late.serving():
            yield

    base = config.server.prefix
    app.url_map.converters["binder_rest"] = _Rest
    app.add_url_rule(f"{base}/builds/<name>/log", "protocol_log", late.log, methods=["GET"])
    for prefix in PREFIXES:
        path = f"{base}/{prefix}"
        if f"/{prefix}" not in PATHS:
            app.add_url_rule(path, "protocol", late.answer, methods=_ANY)
        app.add_url_rule(f"{path}/<binder_rest:rest>", "protocol", late.answer, methods=_ANY)


def _blueprint(api: Api, name: str) -> Blueprint:
    made = Blueprint(name, __name__)

    @made.record_once
    def _(state: BlueprintSetupState) -> None:
        state.app.url_map.converters["binder_rest"] = _Rest

    made.before_request(api.before)
    made.after_request(api.after)
    for path, method in PATHS.items():
        made.add_url_rule(path, method, getattr(api, method), methods=["GET", "OPTIONS"])
    for (verb, path), method in OPERATOR_PATHS.items():
        made.add_url_rule(path, method, api.builds.methods[method], methods=[verb, "OPTIONS"])
    return made
