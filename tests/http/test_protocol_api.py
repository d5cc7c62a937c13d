from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from protocol_world import REPOSITORY, TEMPLATE, error, new_key, world
from serving import SPEC, STREAM, events, until

from binder_core.engine import Binder
from binder_core.protocol import BINDER
from binder_http.assembly import make_store
from binder_http.late_protocol import PREFIXES

pytestmark = pytest.mark.anyio

SLOW = {"builder.fake.rate": 2.0, "builder.fake.lines": 1000}
"""A build that does not end while a test runs."""
NOBODYS = "0123456789ab.0123456789012345678901234567890123456789012"


# -- The whole way -----------------------------------------------------------------------------


async def test_from_a_repository_to_a_location(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        assert (await it.start()).json() == {"name": TEMPLATE}
        build = await it.until(f"/builds/{TEMPLATE}", lambda told: told["status"] == "completed")
        assert build["phase"] == "built"
        assert build["repository"] == REPOSITORY
        assert datetime.fromisoformat(build["start-time"]).tzinfo is not None
        assert set(build) == {"name", "start-time", "status", "phase", "repository"}
        template = (await it.ask("GET", f"/templates/{TEMPLATE}")).json()
        assert template["name"] == TEMPLATE
        assert template["port"] == 8888
        assert template["image-source"].endswith(":" + "a" * 40)
        assert template["image-name"] == template["image-source"].partition(":")[0]
        assert template["limits"] == {"memory": None, "cpu": None}
        assert template["services"] == []
        assert (await it.ask("GET", "/templates/")).json() == [template]
        assert (await it.ask("POST", f"/preload/{TEMPLATE}")).status_code == 200
        assert it.launcher.engine.preloaded == [template["image-source"]]
        preloaded = (await it.ask("GET", f"/preload/{TEMPLATE}")).json()
        assert preloaded == {"name": TEMPLATE, "status": "completed"}
        ident, location = await it.deployed(cull_timeout=600)
        (server,) = it.launcher.engine.servers.values()
        assert server.request.image == template["image-source"]
        assert server.request.idle_timeout == 600.0
        assert parse_qs(urlsplit(location).query) == {"token": [server.request.token]}
        listed = (await it.ask("GET", f"/applications/{TEMPLATE}")).json()
        assert listed == [{"id": ident, "location": location}]
        assert (await it.ask("GET", "/applications/")).json() == listed
        assert (await it.ask("GET", "/applications/other")).json() == []
        assert (await it.ask("GET", "/builds/")).json() == [build]


async def test_under_a_path_of_its_own(tmp_path: Path) -> None:
    async with world(tmp_path, {"server.base_url": "/a/b/"}) as it:
        await it.build()
        await it.deployed()


async def test_the_log_can_be_had_later_as_plain_text(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.build()
    async with world(tmp_path) as it:
        answer = await it.ask("GET", f"/builds/{TEMPLATE}/log")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        lines = answer.text.splitlines()
        assert [line for line in lines if line.startswith("Step")][-1] == "Step 10 of 10"
        assert lines[-1].startswith("Built image")
        assert error(await it.ask("GET", "/builds/other/log")) == (500, "noBuildInfo")
        assert error(await it.ask("GET", f"/builds/{TEMPLATE}/log", key="")) == (
            403,
            "unauthorized",
        )


async def test_a_build_that_fails(tmp_path: Path) -> None:
    async with world(tmp_path, {"builder.fake.fails": "pip fell over"}) as it:
        await it.build(status="failed")
        assert "pip fell over" in (await it.ask("GET", f"/builds/{TEMPLATE}/log")).text
        fetched = await it.ask("GET", f"/templates/{TEMPLATE}")
        assert error(fetched) == (404, "doesNotExist")
        it.builder.engine.scripts["*"] = it.builder.settings.__class__()
        await it.build()


async def test_it_is_the_same_build_as_that_of_the_event_stream(tmp_path: Path) -> None:
    async with world(tmp_path, {"builder.fake.silent": 0.1}) as it:
        repo = REPOSITORY.partition("github.com/")[2]
        streamed = asyncio.create_task(
            it.client.get(f"/build/gh/{repo}/HEAD", headers=STREAM, timeout=10)
        )
        await it.build()
        assert events((await streamed).text)[-1]["phase"] == "ready"
        assert it.builder.engine.runs_started.total() == 1


# -- Starting ------------------------------------------------------------------------------------


async def test_a_second_start_while_building(tmp_path: Path) -> None:
    async with world(tmp_path, SLOW) as it:
        await it.start()
        assert error(await it.start()) == (500, "alreadyBuilding")
        assert error(await it.start(force=False)) == (500, "alreadyBuilding")
        assert error(await it.start(force=None)) == (500, "alreadyBuilding")


async def test_force_ends_the_build_under_way_and_builds_anew(tmp_path: Path) -> None:
    async with world(tmp_path, SLOW) as it:
        await it.build(status="running")
        before = (await it.ask("GET", f"/builds/{TEMPLATE}")).json()
        assert (await it.start(force=True)).json() == {"name": TEMPLATE}
        engine = it.builder.engine
        async with asyncio.timeout(10):
            await engine.until(lambda: engine.runs_started.total() == 2)
        first, second = engine.runs
        assert first.stopped is not None
        assert not second.ended(engine.clock())
        after = await it.until(f"/builds/{TEMPLATE}", lambda told: told["status"] == "running")
        assert after["start-time"] > before["start-time"]
        assert len((await it.ask("GET", "/builds/")).json()) == 1


async def test_many_start_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, SLOW) as it:
        answers = await asyncio.gather(*(it.start() for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [200] + [500] * 9
        assert it.builder.engine.runs_started.total() <= 1


@pytest.mark.parametrize(
    "repository",
    [
        "https://example.org/a/b",
        "a/b",
        "",
        "https://www.github.com/only-one",
        "https://www.github.com/a/missing",
        "https://www.github.com/a/..",
        "file:///etc/passwd",
        "/etc",
        "-oProxyCommand=x",
        "http://[::1",
        "x" * 5000,
    ],
)
async def test_a_repository_that_we_cannot_build(tmp_path: Path, repository: str) -> None:
    async with world(tmp_path) as it:
        assert error(await it.start(repository)) == (500, "badRepoSource")
        assert (await it.ask("GET", "/builds/")).json() == []


async def test_two_repositories_whose_names_come_to_the_same(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        first = await it.build("https://github.com/a-b/c")
        it.github.commit = "b" * 40
        second = await it.build("https://github.com/a/b-c")
        assert first == "a-b-c"
        assert second.startswith("a-b-c-")
        assert await it.build("https://github.com/A/b-C/tree/main") != first
        sources = {
            one["name"]: one["image-source"] for one in (await it.ask("GET", "/templates/")).json()
        }
        assert sources[first] != sources[second]
        assert await it.build("https://www.github.com/a-b/c.git") == first


async def test_a_password_in_an_address_is_told_to_nobody(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.build("https://ada:hunter2@github.com/a/b")
        assert "hunter2" not in (await it.ask("GET", "/builds/a-b", key="")).text
    assert b"hunter2" not in all_of(tmp_path)


def empty_repository(repo: Path) -> Path:
    repo.mkdir(parents=True)
    for command in ("init -q", "-c user.name=A -c user.email=a@x commit -q --allow-empty -m x"):
        subprocess.run(["git", *command.split()], cwd=repo, check=True)
    return repo


async def test_a_repository_of_any_git_server(tmp_path: Path) -> None:
    flags = {"asker.allow_file_urls": True, "providers.git.schemes": ("file",)}
    repo = empty_repository(tmp_path / "owner" / "a repo.git")
    async with world(tmp_path / "state", flags) as it:
        assert await it.build(repo.as_uri()) == "owner-a-repo"


# -- What is asked wrongly -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"repository": null}',
        b'{"repository": 1}',
        b'{"repository": ["x"]}',
        b'{"repository": "x", "force": 1}',
        b'{"repository": "x", "force": "perhaps"}',
        b'{"repository": "x", "more": 1}',
        b'{"repository": "\\u0000"}',
        b'{"repository": "\xff"}',
        b'{"repository": "' + b"x" * 100_000 + b'"}',
    ],
)
async def test_a_malformed_body(tmp_path: Path, body: bytes) -> None:
    async with world(tmp_path) as it:
        headers = {"authorization": it.key, "content-type": "application/json"}
        answer = await it.client.post("/builds/", content=body, headers=headers)
        assert error(answer) == (422, "malformedRequest")


@pytest.mark.parametrize("idle", [0, -1, "x", True, 1e300, [1]])
async def test_a_cull_timeout_that_is_none(tmp_path: Path, idle: object) -> None:
    async with world(tmp_path) as it:
        await it.build()
        body = {"template-name": TEMPLATE, "cull-timeout": idle}
        assert error(await it.ask("POST", "/applications/", body)) == (422, "malformedRequest")
        assert not it.launcher.engine.servers


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/builds/x/y", (422, "malformedRequest")),
        ("/builds/x%2Fy", (500, "noBuildInfo")),
        ("/builds/%2e%2e", (422, "malformedRequest")),
        ("/builds/%ff", (422, "malformedRequest")),
        ("/builds/%00", (422, "malformedRequest")),
        ("/builds/x?y=1", (422, "malformedRequest")),
        ("/builds/%20", (500, "noBuildInfo")),
        ("/builds/" + "x" * 5000, (500, "noBuildInfo")),
        ("/templates/x%2F..%2Fy", (404, "doesNotExist")),
        ("/templates/%2e%2e", (422, "malformedRequest")),
        ("/applications/x/y", (500, "noRecord")),
        ("/applications/x/%2e%2e", (422, "malformedRequest")),
        ("/applications/x/y/z", (422, "malformedRequest")),
    ],
)
async def test_names_that_are_none(tmp_path: Path, path: str, expected: tuple[int, str]) -> None:
    async with world(tmp_path) as it:
        assert error(await it.ask("GET", path)) == expected


async def test_other_methods(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        answer = await it.ask("DELETE", "/builds/")
        assert error(answer) == (405, "malformedRequest")
        assert answer.headers["allow"] == "GET, POST"
        assert (await it.ask("OPTIONS", "/builds/")).status_code == 204
        assert (await it.ask("HEAD", "/builds/")).status_code == 200
        assert (await it.ask("GET", "/builds")).json() == []


async def test_templates_that_are_not_there(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.build()
        async with make_store(it.config) as store:
            await store.remove_template(TEMPLATE)
        body = {"template-name": TEMPLATE}
        assert error(await it.ask("GET", f"/templates/{TEMPLATE}")) == (404, "doesNotExist")
        assert error(await it.ask("POST", "/applications/", body)) == (500, "registryError")
        assert error(await it.ask("POST", f"/preload/{TEMPLATE}")) == (500, "registryError")
        assert not it.launcher.engine.servers


async def test_only_what_was_built_here_is_launched(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        for name in ("busybox:latest", "docker.io/x/y", "../x"):
            answer = await it.ask("POST", "/applications/", {"template-name": name})
            assert error(answer) == (500, "registryError")
        assert not it.launcher.engine.servers


@pytest.mark.parametrize("image", ["ubuntu:latest", "evil.example/old-x-abc123:aa", "old-x:aa"])
async def test_a_record_does_not_make_an_image_ours(tmp_path: Path, image: str) -> None:
    flags = {"builder.image_prefix": "old-"}
    async with world(tmp_path, flags) as it:
        await it.build()
    with closing(sqlite3.connect(tmp_path / "records.sqlite")) as records, records:
        records.execute("UPDATE templates SET image = ?", (image,))
    async with world(tmp_path, flags) as it:
        body = {"template-name": TEMPLATE}
        for path, sent in (("/applications/", body), (f"/preload/{TEMPLATE}", None)):
            answer = await it.ask("POST", path, sent)
            assert error(answer)[1] == "registryError"
            assert image in answer.json()["error"]
            assert "old-<repository>-" in answer.json()["error"]
            assert "limits.allow_images" in answer.json()["error"]
        assert not it.launcher.engine.servers
        assert it.launcher.engine.preloaded == []


async def test_images_of_another_prefix_are_launched_where_they_are_allowed(tmp_path: Path) -> None:
    async with world(tmp_path, {"builder.image_prefix": "old-"}) as it:
        await it.build()
    changed = {"builder.image_prefix": "new-"}
    async with world(tmp_path, changed) as it:
        refused = await it.ask("POST", "/applications/", {"template-name": TEMPLATE})
        assert error(refused)[1] == "registryError"
    async with world(tmp_path, changed | {"limits.allow_images": ["old-*"]}) as it:
        await it.deployed()


async def test_an_image_that_is_gone_cannot_be_preloaded(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.build()
        image = (await it.ask("GET", f"/templates/{TEMPLATE}")).json()["image-source"]
        it.builder.engine.remove_image(image)
        assert error(await it.ask("POST", f"/preload/{TEMPLATE}")) == (500, "registryError")
        assert (await it.ask("GET", f"/preload/{TEMPLATE}")).json()["status"] == "failed"


# -- Deployments -----------------------------------------------------------------------------------


async def test_the_location_is_null_until_the_server_answers(tmp_path: Path) -> None:
    async with world(tmp_path, {"launcher.fake.ends": False}) as it:
        await it.build()
        answer = await it.ask("POST", "/applications/", {"template-name": TEMPLATE})
        ident = answer.json()["id"]
        told = (await it.ask("GET", f"/applications/{TEMPLATE}/{ident}", key="")).json()
        assert told == {"id": ident, "location": None}


async def test_a_launch_that_fails(tmp_path: Path) -> None:
    async with world(tmp_path, {"launcher.fake.fails": "no room left"}) as it:
        await it.build()
        answer = await it.ask("POST", "/applications/", {"template-name": TEMPLATE})
        path = f"/applications/{TEMPLATE}/{answer.json()['id']}"
        await it.until("/applications/", lambda told: told == [])
        answer = await it.ask("GET", path)
        assert error(answer) == (500, "noRecord")
        assert "no room left" in answer.json()["error"]


async def test_a_deployment_that_ended(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.build()
        ident, _ = await it.deployed()
        other, location = await it.deployed()
        for name, server in list(it.launcher.engine.servers.items()):
            if server.request.token not in location:
                await it.launcher.stop(server.request)
                assert name not in it.launcher.engine.servers
        answer = await it.ask("GET", f"/applications/{TEMPLATE}/{ident}")
        assert error(answer) == (500, "noRecord")
        listed = (await it.ask("GET", "/applications/")).json()
        assert [one["id"] for one in listed] == [other]


async def test_the_id_alone_is_not_enough(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.build()
        ident, _ = await it.deployed()
        assert error(await it.ask("GET", f"/applications/other/{ident}")) == (500, "noRecord")


async def test_a_server_that_launches_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, {"launcher.kind": "none"}) as it:
        await it.build()
        answer = await it.ask("POST", "/applications/", {"template-name": TEMPLATE})
        assert error(answer) == (500, "registryError")


# -- Keys ------------------------------------------------------------------------------------------


def paths(*, authorized: bool) -> list[tuple[str, str]]:
    """Return method and path of all endpoints that need a key, or of all others."""
    return [
        (endpoint.request.method, endpoint.path.format_map(_Any()))
        for _, endpoint in BINDER
        if endpoint.request.authorized == authorized
    ]


class _Any(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "x"


async def test_wrong_keys(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        other = it.key[:-1] + ("A" if it.key[-1] != "A" else "B")
        wrong = ["", NOBODYS, other, f"Bearer {it.key}", it.key + "x", it.key.partition(".")[0]]
        wrong += [it.key.upper(), "." + it.key.partition(".")[2], "ä", "x" * 5000]
        for method, path in paths(authorized=True):
            for key in wrong:
                headers = {b"authorization": key.encode()} if key else {}
                answer = await it.client.request(method, path, headers=headers)
                assert error(answer) == (403, "unauthorized"), (method, path, key)
            assert (await it.ask(method, path)).status_code != 403
        for method, path in paths(authorized=False):
            assert (await it.ask(method, path, key="")).status_code != 403


async def test_a_key_that_is_revoked(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        assert (await it.ask("GET", "/builds/")).status_code == 200
        async with make_store(it.config) as store:
            again = await new_key(store)
            await store.revoke_key(it.key.partition(".")[0], 1.0)
        assert error(await it.ask("GET", "/builds/")) == (403, "unauthorized")
        assert (await it.ask("GET", "/builds/", key=again)).status_code == 200


def all_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_a_key_is_kept_nowhere(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.build()
        await it.deployed()
        secret = it.key.partition(".")[2].encode()
        token = next(iter(it.launcher.engine.servers.values())).request.token.encode()
    kept = all_of(tmp_path)
    assert TEMPLATE.encode() in kept
    assert secret not in kept
    assert token not in kept


async def test_where_the_server_needs_its_token_the_open_endpoints_do(tmp_path: Path) -> None:
    flags = {"security.auth": "token", "security.token": "sesame"}
    async with world(tmp_path, flags) as it:
        await it.build()
        body = {"template-name": TEMPLATE}
        for key in ("", "Bearer wrong", NOBODYS):
            answer = await it.ask("POST", "/applications/", body, key=key)
            assert error(answer) == (403, "unauthorized")
        assert not it.launcher.engine.servers
        for good, path in ((it.key, ""), ("Bearer sesame", ""), ("", "?token=sesame")):
            answer = await it.ask("POST", f"/applications/{path}", body, key=good)
            assert answer.status_code == 200
        answer = await it.ask("GET", "/builds/", key="Bearer sesame")
        assert error(answer) == (403, "unauthorized"), "a token is no key"


async def test_pages_of_other_sites_may_not_ask(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.build()
        headers = {"origin": "https://evil.example"}
        body = {"template-name": TEMPLATE}
        answer = await it.client.post("/applications/", json=body, headers=headers)
        assert error(answer) == (403, "unauthorized")
        assert not it.launcher.engine.servers


# -- Health, and what is not there -----------------------------------------------------------------


async def test_health(tmp_path: Path) -> None:
    async with world(tmp_path, {"launcher.fake.down": "no room"}) as it:
        told = (await it.ask("GET", "/health/")).json()
        assert [(one["name"], one["status"]) for one in told] == [
            ("database", "running"),
            ("builder", "running"),
            ("launcher", "down: no room"),
        ]
        assert "checks" in (await it.ask("GET", "/health")).json(), "that is BinderHub's"


async def test_a_database_that_is_away_disturbs_nobody_else(tmp_path: Path) -> None:
    flags = {"records.sql.url": "postgresql://me:hunter2@127.0.0.1:1/x"}
    declared = {"noDatabase", "badDatabase", "badQuery"}
    async with world(tmp_path, flags, with_key=False) as it:
        for _, endpoint in BINDER:
            path = endpoint.path.format_map(_Any())
            body = dict.fromkeys(endpoint.request.body[:1], "x")
            answer = await it.ask(endpoint.request.method, path, body or None, key=NOBODYS)
            status, kind = error(answer)
            assert status == 500
            assert kind in declared & {one.name for one in endpoint.response.errors}
            assert "hunter2" not in answer.text
        answer = await it.client.get(f"/build/{SPEC}", headers=STREAM)
        assert events(answer.text)[-1]["phase"] == "ready"
        assert (await it.client.get("/health")).json()["ok"]


async def test_a_database_that_is_away_for_a_while(tmp_path: Path) -> None:
    flags = {"records.sql.timeout": 0.1, "records.lease": 0.3, "builder.fake.silent": 0.3}
    async with world(tmp_path, flags) as it:
        await it.build("https://github.com/a/before")
        assert (await it.start()).status_code == 200
        with closing(sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)) as held:
            held.execute("BEGIN IMMEDIATE")
            assert error(await it.start("https://github.com/a/c")) == (500, "badQuery")
            body = {"template-name": "a-before"}
            assert error(await it.ask("POST", "/applications/", body)) == (500, "badDatabase")
            engine = it.builder.engine
            await until(lambda: len(engine.runs) == 2 and engine.runs[1].ended(engine.clock()))
            status = (await it.ask("GET", f"/builds/{TEMPLATE}")).json()["status"]
            assert status in {"pending", "running"}
            held.execute("ROLLBACK")
        await it.until(f"/builds/{TEMPLATE}", lambda told: told["status"] == "completed")
        assert "Step 10" in (await it.ask("GET", f"/builds/{TEMPLATE}/log")).text
        assert engine.runs_started.total() == 2, "what could not be recorded was not begun"
        assert not it.launcher.engine.servers


async def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with world(tmp_path / "file" / "x", with_key=False) as it:
        answer = await it.ask("GET", "/builds/", key=NOBODYS)
        assert error(answer) == (500, "badQuery")


async def test_it_can_be_left_out(tmp_path: Path) -> None:
    async with world(tmp_path, {"protocol.enabled": False}, with_key=False) as it:
        assert (await it.client.get("/builds/")).status_code == 404
        assert (await it.client.get("/health")).status_code == 200
    assert not (tmp_path / "records.sqlite").exists()


def test_a_server_starts_without_the_libraries_of_records() -> None:
    code = "import sys, binder_http.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    late = {"sqlalchemy", "alembic", "aiosqlite", "binder_core.protocol"}
    assert not late & set(done.stdout.split())


def test_all_paths_of_the_declaration_are_served() -> None:
    assert set(PREFIXES) == {endpoint.path.split("/")[1] for _, endpoint in BINDER}


# -- Servers that end ------------------------------------------------------------------------------


async def test_another_server_goes_on_where_one_let_go(tmp_path: Path) -> None:
    async with world(tmp_path, {"builder.fake.rate": 100.0, "builder.fake.lines": 40}) as it:
        await it.build(status="running")
        engine = it.builder.engine
    async with world(tmp_path, {"records.lease": 0.2}) as it:
        # The fake's engine is what Docker is for others: it goes on.
        it.builder.engine = it.launcher.engine = engine
        await it.until(f"/builds/{TEMPLATE}", lambda told: told["status"] == "completed")
        log = (await it.ask("GET", f"/builds/{TEMPLATE}/log")).text
        assert [line for line in log.splitlines() if line.startswith("Step")] == [
            f"Step {n} of 40" for n in range(3, 41)
        ]
        assert engine.runs_started.total() == 1
        await it.deployed()


async def test_a_launch_goes_on_on_another_server(tmp_path: Path) -> None:
    async with world(tmp_path, {"launcher.fake.delay": 0.5}) as it:
        await it.build()
        answer = await it.ask("POST", "/applications/", {"template-name": TEMPLATE})
        ident = answer.json()["id"]
        await it.launcher.engine.until(lambda: bool(it.launcher.engine.servers))
        engine = it.launcher.engine
    async with world(tmp_path, {"records.lease": 0.2}) as it:
        it.builder.engine = it.launcher.engine = engine
        path = f"/applications/{TEMPLATE}/{ident}"
        await it.until(path, lambda told: told["location"])
        assert engine.servers_started.total() == 1


async def test_force_on_another_server(tmp_path: Path) -> None:
    async with world(tmp_path, SLOW) as one, world(tmp_path, SLOW) as two:
        engine = two.builder.engine = two.launcher.engine = one.builder.engine
        await one.build(status="running")
        assert error(await two.start()) == (500, "alreadyBuilding")
        assert (await two.start(force=True)).status_code == 200
        async with asyncio.timeout(10):
            await engine.until(lambda: engine.runs_started.total() == 2)
        first, second = engine.runs
        assert first.stopped is not None
        assert not second.ended(engine.clock())
        for it in (one, two):
            await it.until(f"/builds/{TEMPLATE}", lambda told: told["status"] == "running")


async def test_draining_begins_nothing_that_is_lost(tmp_path: Path) -> None:
    async with world(tmp_path, SLOW) as it:
        binder: Binder = it.binder
        binder.drain()
        assert (await it.start()).status_code == 200
    async with world(tmp_path, {"records.lease": 0.2}) as it:
        await it.until(f"/builds/{TEMPLATE}", lambda told: told["status"] == "completed")
