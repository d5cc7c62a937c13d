"""Which node a build prefers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def rendezvous(key: str, nodes: Iterable[str]) -> str:
    """Return the node that `key` belongs to, by rendezvous hashing.

    Every server comes to the same one, and when a node comes or goes only the keys that belong to
    it move.

    Raises:
        ValueError: There is no node.

    Source: Thaler, Ravishankar: A Name-Based Mapping Scheme for Rendezvous (1996).
    """
    return max(nodes, key=lambda node: hashlib.sha256(f"{node}\n{key}".encode()).digest())
