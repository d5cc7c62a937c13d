"""The API, described for tools: OpenAPI 3.1."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from apispec import APISpec

from binder_core import events
from binder_http import sse

_REFS: Final = "#/components/schemas/{name}"

_STREAM: Final = """\
Builds what is not built yet and launches it, told as events. Each `data:` field is one event as
JSON. The last one is `ready` or `failed`. Close the stream then: a reconnect with its id is
answered 204. Errors are `failed` events with a `status_code`, since EventSource cannot read the
status of an answer. A comment, `:heartbeat`, comes at least every 30 seconds."""


def description(*, version: str, base_url: str) -> dict[str, Any]:
    """Return the description.

    Args:
        version: Of this package.
        base_url: Where the paths begin.
    """
    spec = APISpec(
        title="Binder",
        version=version,
        openapi_version="3.1.0",
        info={"description": "From a link to a repository to a running notebook."},
        servers=[{"url": base_url}],
        # Each alone is enough, and so is none where the server asks for none.
        security=[{"bearer": []}, {"query": []}, {}],
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme("query", {"type": "apiKey", "in": "query", "name": "token"})
    (union,), parts = msgspec.json.schema_components([events.Event], ref_template=_REFS)
    for name, schema in parts.items():
        spec.components.schema(name, schema)
    spec.components.schema("Event", union)
    spec.components.schema("Error", _object(status={"type": "integer"}, message=_STRING))
    spec.components.schema("Health", _HEALTH)
    spec.components.schema("Versions", _VERSIONS)
    spec.components.schema("Labels", _LABELS)
    spec.components.schema("RepoProvider", _REPO_PROVIDER)
    spec.path("/build/{provider}/{spec}", operations={"get": _BUILD})
    for path, summary, content_type, schema, others in _PAGES:
        responses = {"200": _answer(summary, content_type, schema), "403": _REFUSED, **others}
        operation = {"summary": summary, "responses": responses}
        spec.path(path, operations={"get": operation})
    spec.components.schema("Builds", _BUILDS)
    spec.path("/api/builds", operations={"get": _LIST_BUILDS})
    spec.path("/api/builds/{name}/log", operations={"get": _BUILD_LOG})
    spec.path("/api/builds/{name}", operations={"delete": _STOP_BUILD})
    made: dict[str, Any] = spec.to_dict()
    return made


def _answer(summary: str, content_type: str, schema: Any) -> dict[str, Any]:
    return {"description": summary, "content": {content_type: {"schema": schema}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFS.format(name=name)}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _parameter(name: str, where: str, schema: Any, text: str) -> dict[str, Any]:
    made = {"name": name, "in": where, "schema": schema, "description": text}
    return made | {"required": True} if where == "path" else made


_STRING: Final = {"type": "string"}
_BOOLEAN: Final = {"type": "boolean"}
_TEXTS: Final = {"type": "object", "additionalProperties": _STRING}

_REFUSED: Final = _answer("The token is missing or wrong.", "application/json", _ref("Error"))

_LAST_EVENT_ID: Final = _parameter(
    "Last-Event-ID", "header", _STRING, "The id of the last event seen, to go on behind it."
)
_SEEN: Final = {"description": "The client has seen the last event: there is nothing to say."}

_BUILD: Final = {
    "summary": "Build and launch",
    "description": _STREAM,
    "parameters": [
        _parameter("provider", "path", _STRING, "The prefix of a provider: `gh`."),
        _parameter(
            "spec",
            "path",
            _STRING,
            "What the provider takes, with its own slashes and escapes: `user/repo/HEAD`.",
        ),
        _parameter(
            "build_only",
            "query",
            _BOOLEAN,
            "Build, but launch nothing; where the server allows it.",
        ),
        _parameter("build_token", "query", _STRING, "A proof that a launch page issued."),
        _LAST_EVENT_ID,
    ],
    "responses": {
        # OpenAPI 3.1 has no word for the items of a stream; each is an Event.
        "200": _answer("The events.", sse.CONTENT_TYPE, _ref("Event")),
        "204": _SEEN,
    },
}

_HEALTH: Final = _object(
    ok=_BOOLEAN,
    checks={"type": "array", "items": _object(service=_STRING, ok=_BOOLEAN, message=_STRING)},
)
_VERSIONS: Final = _object(
    binderhub=_STRING,
    builder=_STRING,
    builder_info=_TEXTS,
    launcher=_STRING,
    launcher_info=_TEXTS,
)
_LABELS: Final = _object(
    text=_STRING, tag_text=_STRING, ref_prop_disabled=_BOOLEAN, label_prop_disabled=_BOOLEAN
)
_REPO_PROVIDER: Final = {
    "type": "object",
    "properties": {
        "id": {**_STRING, "description": "The prefix."},
        "displayName": _STRING,
        "repo": _object(label=_STRING, placeholder=_STRING),
        "ref": {
            "type": "object",
            "properties": {
                "enabled": _BOOLEAN,
                "default": _STRING,
                "label": _STRING,
                "placeholder": _STRING,
            },
            "required": ["enabled"],
        },
        "spec": _object(validateRegex=_STRING),
        "detect": _object(regex=_STRING),
    },
    "required": ["id", "displayName", "repo", "ref"],
}

_PAGES: Final[tuple[tuple[str, str, str, Any, dict[str, Any]], ...]] = (
    (
        "/health",
        "Whether all parts work",
        "application/json",
        _ref("Health"),
        {"503": _answer("One does not.", "application/json", _ref("Health"))},
    ),
    ("/versions", "What runs here", "application/json", _ref("Versions"), {}),
    (
        "/_config",
        "Labels of the form, by provider",
        "application/json",
        {"type": "object", "additionalProperties": _ref("Labels")},
        {},
    ),
    (
        "/api/repoproviders",
        "The providers, and all that a form shows of them",
        "application/json",
        {"type": "array", "items": _ref("RepoProvider")},
        {},
    ),
    (
        "/metrics",
        "Counts, for Prometheus",
        "text/plain",
        _STRING,
        {"404": _answer("The operator wants none.", "application/json", _ref("Error"))},
    ),
    (
        "/events.schema.json",
        "What an event looks like, as JSON Schema",
        "application/schema+json",
        {"type": "object"},
        {},
    ),
    ("/openapi.json", "This description", "application/json", {"type": "object"}, {}),
)


# -- For the operator ----------------------------------------------------------------------------


def _or_null(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


def _refusals(**others: dict[str, Any]) -> dict[str, Any]:
    refused = _answer("Only the operator may.", "application/json", _ref("Error"))
    away = _answer("The engine does not answer.", "application/json", _ref("Error"))
    return {"403": refused, "503": away, **{name.strip("_"): one for name, one in others.items()}}


_NAME: Final = _parameter("name", "path", _STRING, "The build's.")
_NO_BUILD: Final = _answer("There is none under way.", "application/json", _ref("Error"))

_BUILDS: Final = _object(
    builds={
        "type": "array",
        "items": _object(
            name=_STRING,
            provider={**_STRING, "description": "The prefix it was first asked for with."},
            repo_url=_STRING,
            ref=_STRING,
            image=_STRING,
            state={**_STRING, "enum": ["queued", "running", "stopping", "built", "failed"]},
            phase={**_or_null("string"), "description": "Null: this server does not read it."},
            place={**_or_null("integer"), "description": "In the queue, from 1."},
            age={**_or_null("number"), "description": "Seconds."},
            watchers={"type": "integer", "description": "On this server."},
            run_id=_or_null("string"),
            elsewhere={**_BOOLEAN, "description": "Started by another server, not followed here."},
        ),
    },
    complete={**_BOOLEAN, "description": "Whether what other servers started is among them."},
    message={**_STRING, "description": "Why it is not."},
)

_LIST_BUILDS: Final = {
    "summary": "The builds that are known, oldest first; ended ones for a while",
    "description": "Those that wait in the queue of another server are known to that server only.",
    "responses": {
        "200": _answer("The builds.", "application/json", _ref("Builds")),
        **_refusals(),
    },
}
_BUILD_LOG: Final = {
    "summary": "The log of a build",
    "parameters": [
        _NAME,
        _parameter("follow", "query", _BOOLEAN, "Go on until the build ends."),
        _parameter(
            "image",
            "query",
            _STRING,
            "What the build makes. With it the run of `Last-Event-ID` is found though it has ended "
            "and another server followed it.",
        ),
        _LAST_EVENT_ID,
    ],
    "responses": {
        "200": {
            "description": "The log; as events where the request accepts `text/event-stream`.",
            "content": {
                "text/plain": {"schema": _STRING},
                sse.CONTENT_TYPE: {"schema": _ref("Event")},
            },
        },
        "204": _SEEN,
        **_refusals(_404=_NO_BUILD),
    },
}
_STOP_BUILD: Final = {
    "summary": "End a build, whichever server started it",
    "description": "It is answered when the build has ended.",
    "parameters": [
        _NAME,
        _parameter("reason", "query", _STRING, "Told to all who watch."),
    ],
    "responses": {
        "200": _answer(
            "It has ended.", "application/json", _object(name=_STRING, stopped=_BOOLEAN)
        ),
        **_refusals(_404=_NO_BUILD),
    },
}
