from __future__ import annotations

import jsonschema
import pytest
from hypercorn.middleware import DispatcherMiddleware
from serving import COMMIT, KEY, REPO, SPEC, STREAM, asking, client_of, conf, events, ids, only

from binder_core import resume
from binder_http.app import create_app
from binder_http.assembly import open_binder
from binder_http.security import BuildTokens

pytestmark = pytest.mark.anyio

BUILD = f"/build/{SPEC}"


async def test_a_request_is_followed_to_the_end() -> None:
    async with asking() as (client, _):
        answer = await client.get(BUILD, headers=STREAM)
    told = events(answer.text)
    phases = list(dict.fromkeys(event["phase"] for event in told))
    assert phases == ["waiting", "fetching", "building", "built", "launching", "ready"]
    ready = told[-1]
    assert ready["repo_url"] == "https://example.org/a/repo"
    assert ready["binder_launch_host"] == "http://localhost/"
    assert ready["binder_request"] == f"v2/{SPEC}"
    assert ready["url"]
    assert ready["token"]


async def test_the_headers_of_a_stream() -> None:
    async with asking() as (client, _):
        answer = await client.get(BUILD, headers=STREAM)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers


async def test_events_are_as_the_schema_says() -> None:
    async with asking({"builder.fake.layers": {"a": 10, "b": 20}}) as (client, _):
        schema = (await client.get("/events.schema.json")).json()
        told = events((await client.get(BUILD, headers=STREAM)).text)
    assert {"pushing", "ready"} <= {event["phase"] for event in told}
    checker = jsonschema.Draft202012Validator(schema)
    for event in told:
        checker.validate(event)
    with pytest.raises(jsonschema.ValidationError):
        checker.validate({"phase": "ready"})


@pytest.mark.parametrize(
    ("path", "request_told"),
    [
        (f"/build/{SPEC}", SPEC),
        (f"/build/{SPEC}/", SPEC),
        (f"/build/git/{REPO}%2F/{COMMIT}", f"git/{REPO}%2F/{COMMIT}"),
    ],
)
async def test_the_spec_is_the_raw_path(path: str, request_told: str) -> None:
    async with asking({"server.build_only": True}) as (client, _):
        last = events((await client.get(path, headers=STREAM)).text)[-1]
        assert last["binder_request"] == f"v2/{request_told}"


async def test_one_trailing_slash_is_dropped_and_no_more() -> None:
    async with asking() as (client, _):
        event = only((await client.get(f"/build/gh/{COMMIT}//", headers=STREAM)).text)
    assert event["status_code"] == 400
    assert f"{COMMIT}/" in event["message"]


async def test_no_redirect_merges_slashes() -> None:
    async with asking() as (client, _):
        answer = await client.get(f"/build/git/https://example.org/a/repo/{COMMIT}", headers=STREAM)
    assert answer.status_code == 200
    assert only(answer.text)["status_code"] == 400


# -- Accept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept",
    [
        "text/event-stream",
        "text/event-stream, */*;q=0.5",
        "*/*;q=0.1,Text/Event-Stream;q=0.2",
        "application/json, text/event-stream;charset=utf-8",
    ],
)
async def test_an_event_stream_is_asked_for(accept: str) -> None:
    async with asking() as (client, _):
        answer = await client.get(BUILD, headers={"accept": accept})
    assert events(answer.text)[-1]["phase"] == "ready"


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/*", "text/html", "text/event-stream;q=0", "text/event-streams"]
)
async def test_no_event_stream_is_asked_for(accept: str) -> None:
    async with asking() as (client, binder):
        answer = await client.get(BUILD, headers={"accept": accept})
        assert binder.builds == []
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    event = only(answer.text)
    assert (event["phase"], event["status_code"]) == ("failed", 400)
    assert "Missing Accept header" in event["message"]


async def test_several_accept_headers_count_together() -> None:
    headers = [("accept", "text/html"), ("accept", "text/event-stream")]
    async with asking() as (client, _):
        answer = await client.get(BUILD, headers=headers)
    assert events(answer.text)[-1]["phase"] == "ready"


# -- What is refused ------------------------------------------------------------------------------


async def test_build_only_has_to_be_allowed() -> None:
    async with asking() as (client, binder):
        answer = await client.get(f"{BUILD}?build_only=true", headers=STREAM)
        assert binder.builds == []
    assert only(answer.text)["status_code"] == 400


async def test_build_only_where_it_is_allowed() -> None:
    async with asking({"server.build_only": True}) as (client, _):
        last = events((await client.get(f"{BUILD}?build_only=true", headers=STREAM)).text)[-1]
    assert last["phase"] == "ready"
    assert last["imageName"]
    assert "url" not in last


async def test_build_only_is_true_or_false() -> None:
    async with asking() as (client, _):
        event = only((await client.get(f"{BUILD}?build_only=maybe", headers=STREAM)).text)
        assert (event["status_code"], "maybe" in event["message"]) == (400, True)
        fine = await client.get(f"{BUILD}?build_only=false", headers=STREAM)
    assert events(fine.text)[-1]["url"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/build/", 404),
        ("/build/gh", 400),
        ("/build/nobody/a/b/c", 404),
        ("/build/gh/a", 400),
        ("/build/gh/a/b", 400),
        ("/build/gh//b/c", 400),
        ("/build/gh/-a/b/c", 400),
        ("/build/gh/a/b/%0A", 400),
        ("/build/gh/a/b/%00", 400),
        ("/build/git/ftp%3A%2F%2Fa%2Fb/HEAD", 400),
        ("/build/git/%FF%FE/HEAD", 400),
        ("/build/gh/a/b/" + "c" * 10_000, 414),
        ("/build/" + "%2F" * 3_000, 414),
    ],
)
async def test_bad_input_gets_one_failed_event(path: str, status: int) -> None:
    async with asking() as (client, binder):
        answer = await client.get(path, headers=STREAM)
        assert binder.builds == []
    assert answer.status_code == 200
    event = only(answer.text)
    assert (event["phase"], event["status_code"]) == ("failed", status)
    assert len(event["message"]) < 1000
    assert ids(answer.text) == [resume.END]


async def test_too_long_headers() -> None:
    async with asking({"server.max_headers_bytes": 500}) as (client, _):
        answer = await client.get(BUILD, headers=STREAM | {"x-much": "x" * 500})
    assert only(answer.text)["status_code"] == 431


async def test_only_get() -> None:
    async with asking() as (client, binder):
        assert (await client.post(BUILD, headers=STREAM)).status_code == 405
        head = await client.head(BUILD, headers=STREAM)
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
        assert binder.builds == []


# -- Resume ---------------------------------------------------------------------------------------


async def test_after_the_last_event_there_is_nothing_to_say() -> None:
    async with asking() as (client, _):
        told = ids((await client.get(BUILD, headers=STREAM)).text)
        for last in (told[-1], resume.END):
            again = await client.get(BUILD, headers=STREAM | {"last-event-id": last})
            assert (again.status_code, again.content) == (204, b"")


async def test_a_reconnect_goes_on_where_it_was() -> None:
    async with asking() as (client, _):
        whole = await client.get(BUILD, headers=STREAM)
        seen = ids(whole.text)[3]
        rest = await client.get(BUILD, headers=STREAM | {"last-event-id": seen})
    # The build's lines; from `built` on it is another launch: nobody had seen one.
    assert ids(rest.text)[:6] == ids(whole.text)[4:10]
    assert events(rest.text)[:7] == events(whole.text)[5:12]
    assert ids(rest.text)[6] != ids(whole.text)[10]


async def test_a_refused_client_that_comes_back_is_told_to_stay_away() -> None:
    async with asking({"security.auth": "token"}) as (client, _):
        refused = await client.get(BUILD, headers=STREAM)
        assert only(refused.text)["status_code"] == 403
        (last,) = ids(refused.text)
        again = await client.get(BUILD, headers=STREAM | {"last-event-id": last})
    assert again.status_code == 204


# -- Build tokens ---------------------------------------------------------------------------------


# Good for longer than all tests take: those below are made when they are collected.
TOKENS = BuildTokens(KEY.encode(), lifetime=86400.0)


@pytest.mark.parametrize(
    ("origin", "headers"),
    [("localhost", {}), ("page.example", {"origin": "https://page.example"})],
)
async def test_a_good_build_token(origin: str, headers: dict[str, str]) -> None:
    token = TOKENS.issue(SPEC, origin)
    async with asking({"security.origins": "https://page.example"}) as (client, _):
        answer = await client.get(f"{BUILD}?build_token={token}", headers=STREAM | headers)
    assert events(answer.text)[-1]["phase"] == "ready"


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "é",
        TOKENS.issue(SPEC, "elsewhere"),
        TOKENS.issue(SPEC + "/", "localhost"),
        BuildTokens(b"another key that is long enough").issue(SPEC, "localhost"),
        BuildTokens(KEY.encode(), now=lambda: 0.0).issue(SPEC, "localhost"),
    ],
)
async def test_a_bad_build_token(token: str) -> None:
    async with asking() as (client, binder):
        answer = await client.get(f"{BUILD}?build_token={token}", headers=STREAM)
        assert binder.builds == []
    event = only(answer.text)
    assert (event["phase"], event["status_code"]) == ("failed", 403)


# -- Under a path ---------------------------------------------------------------------------------


async def test_base_url() -> None:
    async with asking({"server.base_url": "/some/where/"}, base="/some/where") as (client, _):
        last = events((await client.get(BUILD, headers=STREAM)).text)[-1]
        assert last["binder_launch_host"] == "http://localhost/some/where/"
        assert last["binder_request"] == f"v2/{SPEC}"
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("http://localhost/health")).status_code == 404
        described = (await client.get("/openapi.json")).json()
        assert described["servers"] == [{"url": "/some/where/"}]


async def test_public_url() -> None:
    async with asking({"server.public_url": "https://binder.example/x"}) as (client, _):
        last = events((await client.get(BUILD, headers=STREAM)).text)[-1]
    assert last["binder_launch_host"] == "https://binder.example/x/"


async def test_mounted_in_another_asgi_app() -> None:
    config = conf()
    async with open_binder(config) as binder:
        app = create_app(config, binder=binder)
        async with client_of(DispatcherMiddleware({"/mount": app}), "/mount") as client:
            last = events((await client.get(BUILD, headers=STREAM)).text)[-1]
    assert last["binder_request"] == f"v2/{SPEC}"
    assert last["binder_launch_host"] == "http://localhost/mount/"


async def test_the_app_opens_the_binder_itself() -> None:
    app = create_app(conf())
    async with app.test_app() as served:
        client = served.test_client()
        assert (await client.get("/health")).status_code == 200


# -- Beside it ------------------------------------------------------------------------------------


async def test_health() -> None:
    async with asking() as (client, _):
        answer = await client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "ok": True,
        "checks": [
            {"service": "builder", "ok": True, "message": ""},
            {"service": "launcher", "ok": True, "message": ""},
        ],
    }


async def test_health_when_something_is_wrong() -> None:
    async with asking({"builder.fake.down": "the engine is off"}) as (client, _):
        answer = await client.get("/health")
    assert answer.status_code == 503
    said = answer.json()
    assert said["ok"] is False
    assert said["checks"][0] == {
        "service": "builder",
        "ok": False,
        "message": "the engine is off",
    }


async def test_versions() -> None:
    async with asking({"launcher.kind": "none"}) as (client, _):
        said = (await client.get("/versions")).json()
    assert said["builder"] == "fake"
    assert said["builder_info"] == {"fake": "1"}
    assert said["launcher"] == ""
    assert said["binderhub"]


async def test_labels_of_the_form() -> None:
    async with asking({"providers.lab": {"kind": "gl", "host": "lab.example"}}) as (client, _):
        said = (await client.get("/_config")).json()
    assert {"gh", "git", "gl", "lab"} <= set(said)
    assert set(said["gh"]) == {"text", "tag_text", "ref_prop_disabled", "label_prop_disabled"}
    assert "lab.example" in said["lab"]["text"]


async def test_providers() -> None:
    async with asking({"providers.git": {"enabled": False}}) as (client, _):
        said = (await client.get("/api/repoproviders")).json()
    by_id = {one["id"]: one for one in said}
    assert {"gh", "gl"} <= set(by_id)
    assert "git" not in by_id
    github = by_id["gh"]
    assert github["displayName"] == "GitHub"
    assert github["repo"]["label"]
    assert github["ref"] == {
        "enabled": True,
        "default": "HEAD",
        "label": "Git ref (branch, tag, or commit)",
        "placeholder": "HEAD",
    }
    assert github["spec"]["validateRegex"]
    assert github["detect"]["regex"]


async def test_no_metrics() -> None:
    async with asking({"metrics.enabled": False}) as (client, _):
        assert (await client.get("/metrics")).status_code == 404


# -- Pages of other sites -------------------------------------------------------------------------


async def test_preflight() -> None:
    flags = {"security.origins": "https://page.example", "security.auth": "token"}
    asked = {
        "origin": "https://page.example",
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization",
        "sec-fetch-site": "cross-site",
    }
    async with asking(flags) as (client, _):
        answer = await client.options(BUILD, headers=asked)
        other = await client.options(BUILD, headers=asked | {"origin": "https://other.example"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert answer.headers["vary"] == "Origin"
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"cache-control", "authorization", "last-event-id"} <= set(allowed)
    assert other.status_code == 204
    assert "access-control-allow-origin" not in other.headers


async def test_everybodys_pages() -> None:
    async with asking({"security.origins": "*"}) as (client, _):
        asked = STREAM | {"origin": "https://page.example", "sec-fetch-site": "cross-site"}
        answer = await client.get(BUILD, headers=asked)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert events(answer.text)[-1]["phase"] == "ready"


CROSS = {"origin": "https://page.example", "sec-fetch-site": "cross-site"}


async def test_other_peoples_pages_build_nothing() -> None:
    async with asking() as (client, binder):
        answer = await client.get(BUILD, headers=STREAM | CROSS)
        assert binder.builds == []
        assert (await client.get("/versions", headers=CROSS)).status_code == 403
    assert only(answer.text)["status_code"] == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/health", "/versions", "/metrics", "/_config", "/openapi.json"])
async def test_the_token_is_needed_everywhere(path: str) -> None:
    async with asking({"security.auth": "token", "security.token": "s3cret"}) as (client, _):
        assert (await client.get(path)).status_code == 403
        assert (await client.get(f"{path}?token=wrong")).status_code == 403
        for good in (
            {"headers": {"authorization": "Bearer s3cret"}},
            {"headers": {"authorization": "token s3cret"}},
            {"params": {"token": "s3cret"}},
        ):
            assert (await client.get(path, **good)).status_code == 200  # type: ignore[arg-type] # a choice of arguments


async def test_a_stream_needs_the_token() -> None:
    async with asking({"security.auth": "token", "security.token": "s3cret"}) as (client, _):
        refused = only((await client.get(BUILD, headers=STREAM)).text)
        assert refused["status_code"] == 403
        assert "s3cret" not in refused["message"]
        fine = await client.get(f"{BUILD}?token=s3cret", headers=STREAM)
    assert events(fine.text)[-1]["phase"] == "ready"
