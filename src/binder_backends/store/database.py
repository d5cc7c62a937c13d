"""A connection to the database: how it is opened, upgraded, and what its errors become."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from binder_backends.store import migrations, tables
from binder_core.plugin import BackendUnavailable

_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_MIGRATION_LOCK: Final = 0x62696E6465726B69
"""Of two servers that start on one PostgreSQL, one upgrades and the other waits."""


def database_url(given: str, default: Path) -> URL:
    """Return where the database is.

    Args:
        given: The operator's URL; empty: an SQLite file.
        default: That file.

    Raises:
        BackendUnavailable: It is the URL of nothing that we know.
    """
    if not given:
        return URL.create("sqlite+aiosqlite", database=str(default))
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        # Not even as its cause: the message may hold the password.
        raise BackendUnavailable(_NO_URL) from None
    kind = url.drivername.partition("+")[0]
    if kind not in _DRIVERS:
        raise BackendUnavailable(_NO_URL)
    return url.set(drivername=_DRIVERS[kind])


_NO_URL: Final = (
    "The records' url is none that is known here: it is postgresql://user:password@host/name or "
    "sqlite:///path/to/file."
)


def open_engine(url: URL, timeout: float) -> AsyncEngine:
    """Return an engine; nothing is connected yet.

    Args:
        url: See `database_url`.
        timeout: Seconds that connecting, waiting for a lock, or a statement may take.

    Raises:
        BackendUnavailable: The driver is not installed.
    """
    sqlite = url.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = (
        {"timeout": timeout} if sqlite else {"timeout": timeout, "command_timeout": timeout}
    )
    try:
        # Parameters may be digests and URLs of repositories: no business of a log's.
        engine = create_async_engine(
            url,
            connect_args=arguments,
            hide_parameters=True,
            pool_pre_ping=not sqlite,
            pool_timeout=timeout,
        )
    except ImportError as error:
        extra = "store" if sqlite else "postgres"
        raise BackendUnavailable(
            f"A library for this database is missing ({error}). "
            f"Try: pip install 'binderkit[{extra}]'"
        ) from error
    if sqlite:
        _as_sqlite(engine)
    return engine


def _as_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def _(connection: Any, _record: object) -> None:
        # Transactions begin where we say, for statements that make tables as well.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _(connection: Connection) -> None:
        # A transaction that reads first and then writes would be refused where another wrote
        # meanwhile: one that will write waits for its turn at once.
        write = connection.get_execution_options().get("binder_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@asynccontextmanager
async def told(what: str) -> AsyncGenerator[None]:
    """Turn the database's errors into ours: neither its URL nor any value is in them.

    Args:
        what: What cannot be done.

    Raises:
        BackendUnavailable: It was one.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        name = type(cause).__name__
        raise BackendUnavailable(f"The database of records cannot be {what} ({name}).") from error


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Return a connection in a transaction that writes nothing."""
    async with told("read"), engine.begin() as connection:
        yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Return a connection in a transaction: all of it is kept, or nothing."""
    async with told("written"), engine.connect() as connection:
        await connection.execution_options(binder_write=True)
        async with connection.begin():
            yield connection


async def upgrade(engine: AsyncEngine) -> tuple[str | None, str]:
    """Bring the tables up to date; return the version before and after.

    Raises:
        BackendUnavailable: The database does not answer, or is newer than this code.
    """
    async with writing(engine) as connection:
        return await connection.run_sync(_upgrade)


logging.getLogger("alembic").setLevel(logging.WARNING)


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    assert head is not None  # noqa: S101 - there is a first migration
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
    before = MigrationContext.configure(connection).get_current_revision()
    if before is not None and before not in {one.revision for one in script.walk_revisions()}:
        raise BackendUnavailable(
            f"The database of records has version {before}, which this binderkit does not know: "
            "install the newer one that made it."
        )
    if before != head:
        context = EnvironmentContext(
            config,
            script,
            fn=lambda rev, _: script._upgrade_revs(head, rev),  # noqa: SLF001 - as alembic.command.upgrade
        )
        with context:
            context.configure(
                connection=connection,
                target_metadata=tables.metadata,
                # Ours is under way: steps, and the note of them, are kept together or not at all.
                transactional_ddl=True,
            )
            context.run_migrations()
    return before, head
