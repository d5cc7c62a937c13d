"""Names of images, builds and users.

Image names come out as BinderHub's, so that an operator who moves here keeps the image cache.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

MAX_IMAGE_NAME: Final = 255
MAX_DNS_LABEL: Final = 63

_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


_UNSAFE: Final = re.compile(r"[^a-z0-9]+")
_OWN: Final = re.compile(r"[a-z0-9-]*-[0-9a-f]{6}:[^/:@\s]+")
"""What `image_name` makes of repository and ref."""


def escape(text: str) -> str:
    """Return `text` with each UTF-8 byte outside ``A-Za-z0-9`` as ``-`` and two hex digits."""
    return "".join(chr(byte) if byte in _SAFE else f"-{byte:02x}" for byte in text.encode())


def image_name(prefix: str, slug: str, ref: str) -> str:
    """Return the full name of the image of a repository at `ref`.

    Args:
        prefix: The operator's, e.g. ``registry.example/binder-``.
        slug: The repository, see `binder_core.specs.Resolved`.
        ref: The commit or version.
    """
    digest = hashlib.sha256(slug.encode()).hexdigest()[:6]
    # "cut it to 255 - len(prefix) - 7": room for the dash and the digest.
    cut = escape(slug)[: MAX_IMAGE_NAME - len(prefix) - 7].lower()
    return f"{prefix}{cut}-{digest}:{ref}".replace("_", "-").lower()


def is_image_name(prefix: str, image: str) -> bool:
    """Return whether `image` is a name that `image_name` can make with this prefix."""
    head = prefix.replace("_", "-").lower()
    return image.startswith(head) and _OWN.fullmatch(image, len(head)) is not None


def build_name(image: str, repo_url: str, ref: str) -> str:
    """Return the name of a build: DNS-safe, and as good as unique.

    BinderHub's own carries three characters of the ref and a two-digit hash, and collides.
    """
    digest = hashlib.sha256(f"{image}\0{repo_url}\0{ref}".encode()).hexdigest()[:24]
    return _label("build", image.partition(":")[0].rpartition("/")[2], digest)


def user_name(slug: str, unique: str) -> str:
    """Return the name of a launch's user and server: DNS-safe.

    Args:
        slug: The repository, for people's eyes.
        unique: Letters and digits that no other launch has.
    """
    return _label("", slug, unique)


def _label(head: str, middle: str, tail: str) -> str:
    room = MAX_DNS_LABEL - len(head) - len(tail) - 2
    words = _UNSAFE.sub("-", middle.lower()).strip("-")[:room].strip("-")
    return "-".join(part for part in (head, words or "x", tail) if part)
