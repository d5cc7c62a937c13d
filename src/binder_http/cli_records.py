"""``binder keys`` and ``binder db``: who may use the older protocol, and where that is recorded."""

# ruff: noqa: PLC0415 - `binder --help` has to come at once
from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from binder_core.errors import BinderError
from binder_core.plugin import KeyRecord, Store
from binder_http.config import Config


def run(config: Config, work: Callable[[Store], Awaitable[str]]) -> str:
    """Return what `work` returns, done on the store of this configuration.

    Raises:
        BackendUnavailable: The store cannot be opened or does not answer.
    """
    import asyncio

    async def on_store() -> str:
        async with _opened(config) as store:
            return await work(store)

    return asyncio.run(on_store())


async def create_key(store: Store, name: str) -> str:
    """Return a new key: it is told here and never again."""
    from binder_http import keys

    key, kept = keys.make(name, time.time())
    await store.add_key(kept)
    return key


async def list_keys(store: Store) -> str:
    """Return all keys as a table, without their secrets."""
    rows = [("ID", "NAME", "CREATED", "STATE"), *map(_row, await store.keys())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(f"{row[n]:{width}}" for n, width in enumerate(widths)), row[3]])
        for row in rows
    )


async def revoke_key(store: Store, key_id: str) -> str:
    """Make a key good for nothing.

    Args:
        store: Where it is.
        key_id: Its id; the whole key will do.

    Raises:
        BinderError: There is no such key, or it was revoked before.
    """
    key_id = key_id.partition(".")[0]
    if not await store.revoke_key(key_id, time.time()):
        raise BinderError(f"There is no key {key_id!r} that is good; see: binder keys list")
    return f"{key_id} is revoked."


async def upgraded(store: Store) -> str:
    """Return that the tables are up to date: opening the store has seen to it."""
    await store.check()
    return "The database of records is up to date."


async def remove_template(store: Store, name: str) -> str:
    """Forget a template; nothing can be launched from it any more.

    Raises:
        BinderError: There is none of that name.
    """
    if not await store.remove_template(name):
        raise BinderError(f"There is no template {name!r}; see: binder registry fetch-all")
    return f"{name} is removed."


@asynccontextmanager
async def _opened(config: Config) -> AsyncGenerator[Store]:
    from binder_http.assembly import make_store

    store: Any = make_store(config)
    async with store as opened:
        yield opened


def _row(key: KeyRecord) -> tuple[str, str, str, str]:
    created = time.strftime("%Y-%m-%d %H:%M", time.gmtime(key.created))
    return key.id, key.name, created, "good" if key.revoked is None else "revoked"
