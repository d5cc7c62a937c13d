"""The store on SQLite, and the same tests on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from binder_backends.store import SqlStore, StoreSettings, tables
from binder_core.plugin import BackendUnavailable
from binder_core.testing import StoreSuite
from binder_core.testing.stores import a_build, done
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


class TestSqlite(StoreSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._folder = tmp_path

    def open_store(self) -> SqlStore:
        return SqlStore(StoreSettings(), self._folder)


@pytest.mark.real
class TestPostgres(StoreSuite):
    @pytest.fixture(autouse=True)
    async def database(self, server: Cluster, tmp_path: Path) -> None:
        self._folder, self._url = tmp_path, await server.new_database("suite")

    def open_store(self) -> SqlStore:
        return SqlStore(StoreSettings(url=self._url), self._folder)


@pytest.fixture
async def store(settings: StoreSettings, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with SqlStore(settings, tmp_path) as made:
        yield made


# -- Beyond the suite ---


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
