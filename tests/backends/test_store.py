"""The store on SQLite, and the same tests on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from binder_backends.store import SqlStore, StoreSettings, tables
from binder_core.plugin import (
    BackendUnavailable,
    BuildRecord,
    BuildStatus,
    DeploymentRecord,
    DeploymentStatus,
    Ending,
    KeyRecord,
    TemplateRecord,
)
from postgres import Cluster, binaries, cluster

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # SQLAlchemy knows no other


@pytest.fixture(scope="module")
def server(require: Callable[..., str]) -> Iterator[Cluster]:
    require("postgres", "apt-get install postgresql", there=binaries() is not None)
    with cluster() as made:
        yield made


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
async def settings(request: pytest.FixtureRequest) -> StoreSettings:
    if request.param == "sqlite":
        return StoreSettings()
    made: Cluster = request.getfixturevalue("server")
    return StoreSettings(url=await made.new_database("store"))


@pytest.fixture
async def store(settings: StoreSettings, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with SqlStore(settings, tmp_path) as made:
        yield made


def a_build(number: int = 1, name: str = "a-b", **given: object) -> BuildRecord:
    made = BuildRecord(
        id=f"id{number}",
        name=name,
        repository="https://github.com/a/b",
        source="gh:a/b",
        started=1000.5 + number,
        provider="gh",
        build_name="build-a-b",
        image="binder-a-b:1",
        repo_url="https://github.com/a/b",
        ref="1",
        content_provider="Git",
    )
    return replace(made, **given)  # type: ignore[arg-type] # whatever a test gives


def a_template(name: str = "a-b", ref: str = "1") -> TemplateRecord:
    return TemplateRecord(
        name=name,
        image=f"binder-a-b:{ref}",
        repository="https://github.com/a/b",
        source="gh:a/b",
        repo_url="https://github.com/a/b",
        ref=ref,
        registered=1003.25,
    )


def a_deployment(number: int = 1, template: str = "a-b") -> DeploymentRecord:
    return DeploymentRecord(
        id=f"dep{number}",
        template=template,
        image="binder-a-b:1",
        repo_url="https://github.com/a/b",
        ref="1",
        server=f"a-b-{number}",
        started=1000.0 + number,
        idle_timeout=60.0,
    )


def done(log: bytes = b"log", ended: float = 1002.0, **given: object) -> Ending:
    made = Ending(
        status=BuildStatus.COMPLETED, ended=ended, phase="built", log=log, template=a_template()
    )
    return replace(made, **given)  # type: ignore[arg-type] # whatever a test gives


# -- What every store does -------------------------------------------------------------------------


async def test_what_is_kept_comes_back_as_it_was(store: SqlStore) -> None:
    build = a_build(repository="https://github.com/ä/\U0001f427'; DROP TABLE builds; --")
    assert await store.add_build(build)
    assert await store.build("a-b") == build
    deployment = a_deployment()
    await store.add_deployment(deployment)
    assert await store.deployment("a-b", "dep1") == deployment
    key = KeyRecord(id="k", name="Jörg", digest=bytes(range(32)), created=5.5)
    await store.add_key(key)
    assert await store.key("k") == key
    assert await store.end_build("id1", done())
    assert await store.template("a-b") == a_template()


async def test_what_is_not_there_is_none(store: SqlStore) -> None:
    assert await store.key("x") is None
    assert await store.build("x") is None
    assert await store.log("x") is None
    assert await store.template("x") is None
    assert await store.deployment("x", "y") is None
    assert not await store.keys()
    assert not await store.builds()
    assert not await store.templates()
    assert not await store.revoke_key("x", 1.0)
    assert not await store.remove_template("x")
    assert not await store.end_build("x", done())
    assert await store.template("a-b") is None, "a build that is unknown makes no template"


async def test_everything_is_there_after_a_restart(settings: StoreSettings, tmp_path: Path) -> None:
    async with SqlStore(settings, tmp_path) as first:
        await first.add_build(a_build())
        await first.end_build("id1", done(b"all of it"))
    async with SqlStore(settings, tmp_path) as second:
        assert await second.log("a-b") == b"all of it"
        assert await second.templates() == [a_template()]


async def test_of_one_name_one_build_is_live(store: SqlStore) -> None:
    given = [store.add_build(a_build(number)) for number in range(8)]
    assert sorted(await asyncio.gather(*given)) == [False] * 7 + [True]
    assert await store.add_build(a_build(9, name="other"))


async def test_a_build_takes_the_place_of_another(store: SqlStore) -> None:
    await store.add_build(a_build(1))
    assert await store.add_build(a_build(2), replacing="id1")
    newest = await store.build("a-b")
    assert newest is not None
    assert newest.id == "id2"
    assert not await store.end_build("id1", done(b"of the first")), "it had ended"
    assert await store.template("a-b") is None
    assert await store.log("a-b", "id1") == b"of the first"
    assert await store.end_build("id2", done(b"of the second"))
    assert await store.log("a-b") == b"of the second"


async def test_a_build_is_kept_by_its_owner_alone(store: SqlStore) -> None:
    await store.add_build(a_build(owner="one", lease=10.0))
    going = a_build(status=BuildStatus.RUNNING, phase="fetching", run="r", owner="one", lease=20.0)
    assert await store.keep_build(going)
    assert await store.build("a-b") == going
    assert not await store.keep_build(replace(going, owner="two", phase="pushing"))
    assert await store.claim_builds("two", 15.0, 30.0) == [], "its lease is not over"
    taken = replace(going, owner="two", lease=50.0)
    assert await store.claim_builds("two", 25.0, 50.0) == [taken]
    assert not await store.keep_build(going), "another one follows it now"
    await store.end_build("id1", done())
    assert not await store.keep_build(taken), "it has ended"
    assert await store.claim_builds("three", 99.0, 100.0) == []


async def test_of_many_who_claim_one_gets_it(store: SqlStore) -> None:
    await store.add_build(a_build())
    claims = [store.claim_builds(f"s{number}", 5.0, 50.0) for number in range(6)]
    assert sorted(len(claimed) for claimed in await asyncio.gather(*claims)) == [0] * 5 + [1]


async def test_the_newest_of_each_name(store: SqlStore) -> None:
    for number, name in enumerate(["x", "y", "x", "z"]):
        await store.add_build(a_build(number, name=name))
        await store.end_build(f"id{number}", done(template=None))
    assert [build.id for build in await store.builds()] == ["id3", "id2", "id1"]


async def test_a_template_is_that_of_the_last_build(store: SqlStore) -> None:
    for number in (1, 2):
        await store.add_build(a_build(number))
        await store.end_build(f"id{number}", done(template=a_template(ref=str(number))))
    assert [template.ref for template in await store.templates()] == ["2"]
    assert await store.remove_template("a-b")
    assert not await store.remove_template("a-b")


async def test_deployments_until_they_end(store: SqlStore) -> None:
    for number, template in ((1, "a"), (2, "b"), (3, "a")):
        await store.add_deployment(a_deployment(number, template))
    ready = replace(a_deployment(1, "a"), status=DeploymentStatus.READY, url="http://x/")
    await store.change_deployment(ready)
    assert await store.deployments("a") == [ready, a_deployment(3, "a")]
    assert len(await store.deployments()) == 3
    ended = replace(ready, status=DeploymentStatus.ENDED, message="gone", ended=9.0)
    await store.change_deployment(ended)
    await store.change_deployment(ready)
    assert await store.deployment("a", "dep1") == ended, "what has ended stays so"
    assert await store.deployment("b", "dep1") is None, "it is another template's"
    claimed = await store.claim_deployments("me", 5.0, 50.0)
    assert {one.id for one in claimed} == {"dep2", "dep3"}
    assert await store.claim_deployments("you", 5.0, 50.0) == []


async def test_keys(store: SqlStore) -> None:
    one = KeyRecord(id="one", name="", digest=b"1", created=1.0)
    await store.add_key(one)
    await store.add_key(replace(one, id="two", created=2.0))
    with pytest.raises(BackendUnavailable):
        await store.add_key(one)
    assert await store.revoke_key("one", 3.0)
    assert not await store.revoke_key("one", 4.0)
    assert [(key.id, key.revoked) for key in await store.keys()] == [("one", 3.0), ("two", None)]


async def test_what_is_old_is_forgotten_and_what_is_live_is_not(store: SqlStore) -> None:
    for number in (1, 2, 3):
        await store.add_build(a_build(number, name=f"n{number}"))
        await store.add_deployment(a_deployment(number))
    await store.end_build("id1", done(ended=100.0))
    await store.end_build("id2", done(ended=200.0, template=None))
    await store.change_deployment(
        replace(a_deployment(1), status=DeploymentStatus.ENDED, ended=100.0)
    )
    await store.sweep(before=150.0, keep_bytes=1000)
    assert [build.name for build in await store.builds()] == ["n3", "n2"]
    assert await store.log("n1") is None
    assert await store.log("n2") == b"log"
    assert await store.deployment("a-b", "dep1") is None
    assert len(await store.deployments()) == 2
    assert await store.template("a-b") is not None, "a template outlives the record of its build"


async def test_the_oldest_logs_go_first(store: SqlStore) -> None:
    for number in range(5):
        await store.add_build(a_build(number, name=f"n{number}"))
        await store.end_build(f"id{number}", done(bytes(100), template=None))
    await store.sweep(before=0.0, keep_bytes=250)
    kept = [number for number in range(5) if await store.log(f"n{number}") is not None]
    assert kept == [3, 4]
    assert len(await store.builds()) == 5, "the builds themselves are kept"


async def test_who_is_cancelled_breaks_nothing(store: SqlStore) -> None:
    for number in range(20):
        task = asyncio.ensure_future(store.add_build(a_build(number, name=f"n{number}")))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    await store.check()
    assert await store.add_build(a_build(99))
    await store.end_build("id99", done())
    assert await store.log("a-b") == b"log"


async def test_two_servers_open_an_empty_database_at_once(
    settings: StoreSettings, tmp_path: Path
) -> None:
    stores = [SqlStore(settings, tmp_path) for _ in range(4)]
    await asyncio.gather(*(one.__aenter__() for one in stores))
    try:
        assert await stores[0].add_build(a_build())
        assert not await stores[3].add_build(a_build(2))
    finally:
        for one in stores:
            await one.__aexit__(None, None, None)


async def test_migrations_make_what_the_code_expects(store: SqlStore) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection)
        found: list[object] = compare_metadata(context, tables.metadata)
        return found

    async with store._engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_database_from_the_future_is_left_alone(
    settings: StoreSettings, tmp_path: Path
) -> None:
    async with SqlStore(settings, tmp_path) as store, store._engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BackendUnavailable, match="version 9999"):
        await SqlStore(settings, tmp_path).__aenter__()


# -- SQLite ----------------------------------------------------------------------------------------


async def test_the_file_is_this_users_alone(tmp_path: Path) -> None:
    async with SqlStore(StoreSettings(), tmp_path / "new"):
        file = tmp_path / "new" / "records.sqlite"
        assert file.stat().st_mode & 0o077 == 0
        assert file.parent.stat().st_mode & 0o077 == 0


async def test_a_file_elsewhere(tmp_path: Path) -> None:
    settings = StoreSettings(url=f"sqlite:///{tmp_path}/there.db")
    async with SqlStore(settings, tmp_path / "state") as store:
        await store.add_build(a_build())
    assert (tmp_path / "there.db").exists()
    assert not (tmp_path / "state").exists()


async def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "records.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(BackendUnavailable, match="database of records"):
        await SqlStore(StoreSettings(), tmp_path).__aenter__()


async def test_a_file_that_somebody_holds(tmp_path: Path) -> None:
    async with SqlStore(StoreSettings(timeout=0.2), tmp_path) as store:
        other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BackendUnavailable, match="cannot be written"):
                await store.add_build(a_build())
            assert await store.builds() == [], "who only reads does not wait"
            other.execute("ROLLBACK")
        finally:
            other.close()
        assert await store.add_build(a_build())


# -- A database that is not there ------------------------------------------------------------------


@pytest.mark.parametrize("url", ["oracle://x/y", "nonsense", "postgresql://u:hunter2@x:y/z"])
async def test_a_url_of_nothing_we_know(url: str, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable) as told:
        await SqlStore(StoreSettings(url=url), tmp_path).__aenter__()
    assert "hunter2" not in str(told.value)


async def test_nobody_listens(tmp_path: Path) -> None:
    url = "postgresql://user:hunter2@127.0.0.1:1/binder"
    with pytest.raises(BackendUnavailable, match="ConnectionRefusedError") as told:
        await SqlStore(StoreSettings(url=url), tmp_path).__aenter__()
    assert "hunter2" not in str(told.value)


async def test_somebody_listens_and_says_nothing(tmp_path: Path) -> None:
    held: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    url = f"postgresql://user@127.0.0.1:{port}/binder"
    try:
        with pytest.raises(BackendUnavailable):
            await SqlStore(StoreSettings(url=url, timeout=0.3), tmp_path).__aenter__()
    finally:
        silent.close()
        for writer in held:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.real
@pytest.mark.usefixtures("server")
async def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    with cluster() as first:
        url = await first.new_database("store")
        async with SqlStore(StoreSettings(url=url, timeout=2.0), tmp_path) as store:
            await store.add_build(a_build())
            first.stop()
            for _ in range(3):
                with pytest.raises(BackendUnavailable):
                    await store.builds()
            with cluster(first.port) as second:
                await second.new_database("store")
                # Another, empty one: what counts is that connections are made anew.
                with pytest.raises(BackendUnavailable, match="read"):
                    await store.builds()
                await store.check()
