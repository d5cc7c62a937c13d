"""The store on SQLAlchemy: see `binder_core.plugin.Store` for what each method does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, ClassVar, Concatenate, Final, ParamSpec, Self, TypeVar

import msgspec
from msgspec import Meta
from sqlalchemy import Row, Select, Table, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from binder_backends.store.database import (
    database_url,
    open_engine,
    reading,
    upgrade,
    writing,
)
from binder_backends.store.tables import builds, deployments, keys, logs, templates
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

_FILE: Final = "records.sqlite"
_LIVE: Final = tuple(status.value for status in BuildStatus if status.live)
_PENDING: Final = DeploymentStatus.PENDING.value
_ENDED: Final = DeploymentStatus.ENDED.value
_STATUSES: Final[dict[type, type[BuildStatus | DeploymentStatus]]] = {
    BuildRecord: BuildStatus,
    DeploymentRecord: DeploymentStatus,
}
_REPLACED: Final = "The build was stopped: it was asked for anew."

_P = ParamSpec("_P")
_T = TypeVar("_T")
_R = TypeVar("_R", BuildRecord, TemplateRecord, DeploymentRecord, KeyRecord)


def _whole(
    method: Callable[Concatenate[SqlStore, _P], Awaitable[_T]],
) -> Callable[Concatenate[SqlStore, _P], Coroutine[Any, Any, _T]]:
    """Make a method go on to its end, although whoever called it is cancelled.

    A client that leaves would break a statement off, and with it the connection: what is under way
    is bounded by the timeout instead.
    """

    @wraps(method)
    async def call(self: SqlStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        task = asyncio.ensure_future(method(self, *args, **kwargs))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return await asyncio.shield(task)

    return call


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which database."""

    url: Annotated[str, Meta(extra={"secret": True})] = ""
    """``postgresql://user:password@host/name`` or ``sqlite:///path``; empty: an SQLite file in the
    server's state folder."""
    timeout: Annotated[float, Meta(gt=0)] = 10.0
    """Seconds that connecting, waiting for a lock, or a statement may take."""


class SqlStore:
    """Keeps records in an SQLite file or on PostgreSQL.

    Args:
        settings: Which database.
        state_dir: Where the SQLite file is if there is no other.
    """

    Settings: ClassVar[type[msgspec.Struct]] = StoreSettings

    def __init__(self, settings: StoreSettings, state_dir: Path) -> None:
        self._settings = settings
        self._file = state_dir / _FILE
        self._engine: AsyncEngine
        self.under_way: set[asyncio.Future[Any]] = set()
        """Statements that somebody waits for, or did."""

    async def __aenter__(self) -> Self:
        """Open the database, and bring its tables up to date."""
        url = database_url(self._settings.url, self._file)
        if not self._settings.url:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file.touch(mode=0o600)
            except OSError as error:
                raise BackendUnavailable(
                    "The database of records cannot be made in the state folder "
                    f"(server.state_dir): {error.strerror}."
                ) from error
        self._engine = open_engine(url, self._settings.timeout)
        try:
            self.upgraded = await upgrade(self._engine)
        except BaseException:
            await self._engine.dispose()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections, once nothing is under way."""
        if self.under_way:
            await asyncio.wait(self.under_way)
        await self._engine.dispose()

    @_whole
    async def check(self) -> None:
        """Return if the database answers."""
        async with reading(self._engine) as connection:
            await connection.execute(select(1))

    # -- API keys ---------------------------------------------------------------------------------

    @_whole
    async def add_key(self, key: KeyRecord) -> None:
        """Keep a key."""
        async with writing(self._engine) as connection:
            await connection.execute(insert(keys).values(**_values(key)))

    @_whole
    async def key(self, key_id: str) -> KeyRecord | None:
        """Return a key."""
        return await self._one(KeyRecord, select(keys).where(keys.c.id == key_id))

    @_whole
    async def keys(self) -> list[KeyRecord]:
        """Return all keys, oldest first."""
        return await self._all(KeyRecord, select(keys).order_by(keys.c.created, keys.c.id))

    @_whole
    async def revoke_key(self, key_id: str, now: float) -> bool:
        """Make a key good for nothing."""
        async with writing(self._engine) as connection:
            done = await connection.execute(
                update(keys)
                .where(keys.c.id == key_id, keys.c.revoked.is_(None))
                .values(revoked=now)
            )
            return done.rowcount > 0

    # -- Builds -----------------------------------------------------------------------------------

    @_whole
    async def add_build(self, build: BuildRecord, *, replacing: str | None = None) -> bool:
        """Keep a new, live build."""
        try:
            async with writing(self._engine) as connection:
                if replacing is not None:
                    await connection.execute(
                        update(builds)
                        .where(builds.c.id == replacing, builds.c.status.in_(_LIVE))
                        .values(
                            status=BuildStatus.FAILED.value, message=_REPLACED, ended=build.started
                        )
                    )
                await connection.execute(insert(builds).values(**_values(build)))
        except BackendUnavailable as error:
            if isinstance(error.__cause__, IntegrityError):
                return False
            raise
        return True

    @_whole
    async def build(self, name: str) -> BuildRecord | None:
        """Return the newest build of a name."""
        newest = select(builds).where(builds.c.name == name).order_by(builds.c.number.desc())
        return await self._one(BuildRecord, newest.limit(1))

    @_whole
    async def builds(self) -> list[BuildRecord]:
        """Return the newest build of each name, newest first."""
        newest = select(func.max(builds.c.number)).group_by(builds.c.name)
        return await self._all(
            BuildRecord,
            select(builds).where(builds.c.number.in_(newest)).order_by(builds.c.number.desc()),
        )

    @_whole
    async def keep_build(self, build: BuildRecord) -> bool:
        """Note how a live build goes on."""
        async with writing(self._engine) as connection:
            done = await connection.execute(
                update(builds)
                .where(
                    builds.c.id == build.id,
                    builds.c.owner == build.owner,
                    builds.c.status.in_(_LIVE),
                )
                .values(
                    status=build.status.value,
                    phase=build.phase,
                    run=build.run,
                    lease=build.lease,
                )
            )
            return done.rowcount > 0

    @_whole
    async def end_build(self, build_id: str, ending: Ending) -> bool:
        """Keep a build's end, log and template."""
        async with writing(self._engine) as connection:
            done = await connection.execute(
                update(builds)
                .where(builds.c.id == build_id, builds.c.status.in_(_LIVE))
                .values(
                    status=ending.status.value,
                    phase=ending.phase,
                    message=ending.message,
                    ended=ending.ended,
                )
            )
            first = done.rowcount > 0
            await _keep_log(connection, build_id, ending.log)
            if first and ending.template is not None:
                made = _values(ending.template)
                await connection.execute(delete(templates).where(templates.c.name == made["name"]))
                await connection.execute(insert(templates).values(**made))
            return first

    @_whole
    async def log(self, name: str, build_id: str | None = None) -> bytes | None:
        """Return the log of a build."""
        found = (
            select(logs.c.data)
            .join(builds, builds.c.id == logs.c.build_id)
            .where(builds.c.name == name)
            .order_by(builds.c.number.desc())
            .limit(1)
        )
        if build_id is not None:
            found = found.where(builds.c.id == build_id)
        async with reading(self._engine) as connection:
            data: bytes | None = (await connection.execute(found)).scalar()
            return data

    @_whole
    async def claim_builds(self, owner: str, now: float, lease: float) -> list[BuildRecord]:
        """Make all live builds `owner`'s whose lease is over."""
        stale = builds.c.status.in_(_LIVE) & (builds.c.lease < now)
        return await self._claim(BuildRecord, builds, stale, owner, lease)

    # -- Templates --------------------------------------------------------------------------------

    @_whole
    async def template(self, name: str) -> TemplateRecord | None:
        """Return a template."""
        return await self._one(TemplateRecord, select(templates).where(templates.c.name == name))

    @_whole
    async def templates(self) -> list[TemplateRecord]:
        """Return all templates, by name."""
        return await self._all(TemplateRecord, select(templates).order_by(templates.c.name))

    @_whole
    async def remove_template(self, name: str) -> bool:
        """Forget a template."""
        async with writing(self._engine) as connection:
            done = await connection.execute(delete(templates).where(templates.c.name == name))
            return done.rowcount > 0

    # -- Deployments ------------------------------------------------------------------------------

    @_whole
    async def add_deployment(self, deployment: DeploymentRecord) -> None:
        """Keep a new deployment."""
        async with writing(self._engine) as connection:
            await connection.execute(insert(deployments).values(**_values(deployment)))

    @_whole
    async def deployment(self, template: str, deployment_id: str) -> DeploymentRecord | None:
        """Return a deployment."""
        return await self._one(
            DeploymentRecord,
            select(deployments).where(
                deployments.c.id == deployment_id, deployments.c.template == template
            ),
        )

    @_whole
    async def deployments(self, template: str | None = None) -> list[DeploymentRecord]:
        """Return those that have not ended, oldest first."""
        found = select(deployments).where(deployments.c.status != _ENDED)
        if template is not None:
            found = found.where(deployments.c.template == template)
        return await self._all(
            DeploymentRecord, found.order_by(deployments.c.started, deployments.c.id)
        )

    @_whole
    async def change_deployment(self, deployment: DeploymentRecord) -> None:
        """Note what changed of one that has not ended."""
        async with writing(self._engine) as connection:
            await connection.execute(
                update(deployments)
                .where(deployments.c.id == deployment.id, deployments.c.status != _ENDED)
                .values(
                    status=deployment.status.value,
                    url=deployment.url,
                    message=deployment.message,
                    ended=deployment.ended,
                    lease=deployment.lease,
                )
            )

    @_whole
    async def claim_deployments(
        self, owner: str, now: float, lease: float
    ) -> list[DeploymentRecord]:
        """Make all pending deployments `owner`'s whose lease is over."""
        stale = (deployments.c.status == _PENDING) & (deployments.c.lease < now)
        return await self._claim(DeploymentRecord, deployments, stale, owner, lease)

    # -- Retention --------------------------------------------------------------------------------

    @_whole
    async def sweep(self, *, before: float, keep_bytes: int) -> None:
        """Forget what is old, and the oldest logs beyond so many bytes."""
        newer = (
            select(
                logs.c.build_id,
                func.sum(logs.c.size).over(order_by=builds.c.number.desc()).label("total"),
            )
            .join(builds, builds.c.id == logs.c.build_id)
            .subquery()
        )
        beyond = select(newer.c.build_id).where(newer.c.total > keep_bytes)
        async with writing(self._engine) as connection:
            await connection.execute(delete(builds).where(builds.c.ended < before))
            await connection.execute(delete(deployments).where(deployments.c.ended < before))
            await connection.execute(delete(logs).where(logs.c.build_id.in_(beyond)))

    # -- What they have in common -----------------------------------------------------------------

    async def _one(self, kind: type[_R], found: Select[Any]) -> _R | None:
        rows = await self._all(kind, found)
        return rows[0] if rows else None

    async def _all(self, kind: type[_R], found: Select[Any]) -> list[_R]:
        async with reading(self._engine) as connection:
            return [_record(kind, row) for row in await connection.execute(found)]

    async def _claim(
        self, kind: type[_R], table: Table, stale: Any, owner: str, lease: float
    ) -> list[_R]:
        async with writing(self._engine) as connection:
            rows = await connection.execute(
                update(table).where(stale).values(owner=owner, lease=lease).returning(*table.c)
            )
            return [_record(kind, row) for row in rows]


async def _keep_log(connection: AsyncConnection, build_id: str, data: bytes) -> None:
    there = await connection.execute(
        select(builds.c.id, logs.c.build_id)
        .outerjoin(logs, logs.c.build_id == builds.c.id)
        .where(builds.c.id == build_id)
    )
    row = there.first()
    # The build may have been forgotten meanwhile; of two servers that followed it one was first.
    if data and row is not None and row[1] is None:
        await connection.execute(insert(logs).values(build_id=build_id, size=len(data), data=data))


def _values(record: Any) -> dict[str, Any]:
    values = asdict(record)
    if "status" in values:
        values["status"] = values["status"].value
    return values


def _record(kind: type[_R], row: Row[Any]) -> _R:
    values: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 - its public name
    values.pop("number", None)
    if (statuses := _STATUSES.get(kind)) is not None:
        values["status"] = statuses(values["status"])
    return kind(**values)
