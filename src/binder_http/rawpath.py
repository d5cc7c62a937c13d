"""The spec as it stood in the URL: ``%2F`` in it is not the ``/`` that parts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote


def raw_tail(scope: Mapping[str, Any], tail: str) -> tuple[str, str]:
    """Return the path of a request, undecoded: what stands before `tail`, and `tail` itself.

    Whatever the app is mounted under stands before it: how many slashes that has is known from the
    decoded path, and as many are counted off the undecoded one.

    Args:
        scope: Of the request (ASGI).
        tail: The decoded end of the path, as the route matched it.

    Raises:
        ValueError: The path has an escaped slash before the tail.
    """
    raw = scope.get("raw_path")
    if raw is None:  # optional in ASGI; then nobody knows which slashes were escaped
        path: str = scope["path"]
        return path.removesuffix(tail), quote(tail)
    text = raw.decode("ascii", "replace").partition("?")[0]
    slashes = unquote(text).removesuffix(tail).count("/")
    parts = text.split("/", slashes)
    if len(parts) <= slashes or unquote(parts[-1]) != tail:
        raise ValueError(text)
    return "/".join(parts[:-1]) + "/", parts[-1]
