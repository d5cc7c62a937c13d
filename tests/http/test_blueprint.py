"""Somebody else's Quart app."""

from __future__ import annotations

import pytest
from quart import Quart
from serving import SPEC, STREAM, client_of, conf, events, only

from binder_core.engine import Binder
from binder_http.app import blueprint
from binder_http.assembly import open_binder
from binder_http.config import Server
from binder_http.security import Guard

pytestmark = pytest.mark.anyio


def embedder(binder: Binder, guard: Guard | None = None) -> Quart:
    app = Quart(__name__)

    @app.get("/")
    async def front() -> str:
        return "mine"

    mine = blueprint(binder, server=Server(linger=0.0), guard=guard)
    app.register_blueprint(mine, url_prefix="/binder")
    return app


async def test_it_stands_beside_other_routes() -> None:
    async with open_binder(conf()) as binder, client_of(embedder(binder)) as client:
        assert (await client.get("/")).text == "mine"
        # What guards our routes is no business of the others.
        other = await client.get("/", headers={"sec-fetch-site": "cross-site"})
        assert (other.status_code, "x-content-type-options" in other.headers) == (200, False)
        assert (await client.get("/binder/health")).status_code == 200
        assert (await client.get("/binder/versions")).json()["builder"] == ""
        assert (await client.get("/binder/metrics")).status_code == 404
        described = (await client.get("/binder/openapi.json")).json()
        assert described["servers"] == [{"url": "/binder/"}]


async def test_it_takes_no_build_token_it_cannot_check() -> None:
    async with open_binder(conf()) as binder, client_of(embedder(binder)) as client:
        answer = await client.get(f"/binder/build/{SPEC}?build_token=x", headers=STREAM)
        assert only(answer.text)["status_code"] == 403


async def test_its_guard() -> None:
    async with open_binder(conf()) as binder:
        guard = Guard(token="s3cret", hosts=frozenset({"binder.example"}))
        async with client_of(embedder(binder, guard)) as client:
            refused = await client.get("/binder/health?token=s3cret", headers={"host": "x.example"})
            assert refused.status_code == 403
            assert refused.json()["status"] == 403
            fine = await client.get(
                "/binder/health?token=s3cret", headers={"host": "binder.example:8000"}
            )
            assert fine.status_code == 200


async def test_two_in_one_app() -> None:
    async with open_binder(conf()) as one, open_binder(conf()) as two:
        app = Quart(__name__)
        app.register_blueprint(blueprint(one, name="one"), url_prefix="/one")
        app.register_blueprint(blueprint(two, name="two"), url_prefix="/two")
        async with client_of(app) as client:
            answer = await client.get("/two/health")
            assert answer.status_code == 200
            assert (one.builds, two.builds) == ([], [])


async def test_a_stream_of_the_blueprint() -> None:
    async with open_binder(conf()) as binder:
        app = Quart(__name__)
        app.register_blueprint(blueprint(binder, server=conf().server), url_prefix="/b")
        async with client_of(app) as client:
            answer = await client.get(f"/b/build/{SPEC}", headers=STREAM)
    last = events(answer.text)[-1]
    assert (last["phase"], last["binder_launch_host"]) == ("ready", "http://localhost/b/")
