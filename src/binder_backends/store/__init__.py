"""Records in a database: an SQLite file, or PostgreSQL."""

from binder_backends.store.store import SqlStore, StoreSettings

__all__ = ["SqlStore", "StoreSettings"]
