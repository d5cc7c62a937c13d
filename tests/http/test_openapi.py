from __future__ import annotations

import re

import jsonschema
import msgspec
import pytest
from openapi_spec_validator import validate
from serving import asking, conf

from binder_core.events import EVENTS
from binder_http.app import OPERATOR_PATHS, PATHS, create_app
from binder_http.openapi import description

DESCRIBED = description(version="1.2.3", base_url="/binder/")


def test_it_is_valid() -> None:
    validate(DESCRIBED)


def test_each_route_is_described_and_nothing_else() -> None:
    routes = {re.sub(r"<binder_rest:rest>", "{provider}/{spec}", path) for path in PATHS}
    routes |= {path.replace("<name>", "{name}") for _, path in OPERATOR_PATHS}
    assert set(DESCRIBED["paths"]) == routes


def test_each_described_path_is_a_route_of_the_app() -> None:
    app = create_app(conf())
    adapter = app.url_map.bind("localhost")
    for path, operations in DESCRIBED["paths"].items():
        for method in operations:
            asked = path.format(provider="gh", spec="a/b/c", name="build-x")
            endpoint, _ = adapter.match(asked, method=method.upper())
            assert endpoint.startswith("binder.")


def test_each_event_is_described() -> None:
    schemas = DESCRIBED["components"]["schemas"]
    assert {event.__name__ for event in EVENTS} <= set(schemas)
    union = {one["$ref"].rpartition("/")[2] for one in schemas["Event"]["anyOf"]}
    assert union == {event.__name__ for event in EVENTS}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "path", ["/health", "/versions", "/_config", "/api/repoproviders", "/metrics", "/openapi.json"]
)
async def test_answers_are_as_described(path: str) -> None:
    async with asking() as (client, _):
        answer = await client.get(path)
    ((content_type, content),) = DESCRIBED["paths"][path]["get"]["responses"]["200"][
        "content"
    ].items()
    assert answer.headers["content-type"].partition(";")[0] == content_type
    if content_type == "application/json":
        schema = content["schema"] | {"components": DESCRIBED["components"]}
        jsonschema.Draft202012Validator(schema).validate(msgspec.json.decode(answer.content))


@pytest.mark.anyio
async def test_a_refusal_is_as_described() -> None:
    async with asking({"security.auth": "token"}) as (client, _):
        answer = await client.get("/versions")
    schema = {"$ref": "#/components/schemas/Error", "components": DESCRIBED["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer.json())
