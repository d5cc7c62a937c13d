"""API keys of the older protocol: ``<id>.<secret>``, of which only a digest is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from binder_core.plugin import KeyRecord, Store

_KEY = re.compile(r"([a-z0-9]{1,64})\.[A-Za-z0-9_-]{20,200}")
_NOBODYS = bytes(32)


def make(name: str, now: float) -> tuple[str, KeyRecord]:
    """Return a new key, told only here, and what is kept of it.

    Args:
        name: For people: whose it is.
        now: Seconds since the epoch.
    """
    key_id = secrets.token_hex(6)
    key = f"{key_id}.{secrets.token_urlsafe(32)}"
    return key, KeyRecord(id=key_id, name=name, digest=_digest(key), created=now)


async def is_good(store: Store, given: str) -> bool:
    """Return whether an ``Authorization`` header, all of it, is a key that is not revoked.

    Raises:
        BackendUnavailable: Nobody knows.
    """
    found = _KEY.fullmatch(given)
    kept = await store.key(found[1]) if found else None
    # As long for a wrong key as for a right one, and compared in constant time.
    same = hmac.compare_digest(_digest(given), kept.digest if kept else _NOBODYS)
    return same and kept is not None and kept.revoked is None


def _digest(key: str) -> bytes:
    # The key is 256 random bits: nothing is gained by a slow digest.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
