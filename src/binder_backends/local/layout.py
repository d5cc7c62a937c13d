"""Where things are in the cache folder.

::

    builds/<build name>/lock              held by the runner for as long as it lives
    builds/<build name>/current           which run is, or was, the last
    builds/<build name>/runs/<run>.log    the numbered log
    builds/<build name>/runs/<run>.json   what the run makes, and where
    builds/<build name>/runs/<run>.pid    which process it is
    images/<image>/built.json             says that the image exists, and in which folder
    images/<image>/<run>/repo             the repository
    images/<image>/<run>/env              its environment
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths in the cache folder `root`."""

    root: Path

    @property
    def builds(self) -> Path:
        """Return the folder of all builds."""
        return self.root / "builds"

    @property
    def images(self) -> Path:
        """Return the folder of all images."""
        return self.root / "images"

    def build(self, name: str) -> Path:
        """Return the folder of the build `name`."""
        return self.builds / checked_name(name)

    def image(self, image: str) -> Path:
        """Return the folder of an image: its name for people's eyes, a hash to be unique."""
        safe = re.sub(r"[^A-Za-z0-9.]+", "-", image).strip(".-")[:40]
        return self.images / f"{safe}-{hashlib.sha256(image.encode()).hexdigest()[:24]}"

    def built_file(self, image: str) -> Path:
        """Return the file that says that the image exists."""
        return self.image(image) / "built.json"


def checked_name(name: str) -> str:
    """Return `name` if it can be the name of a folder.

    Raises:
        ValueError: It is no DNS label: a fault of the caller.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a DNS-safe name of at most 63 characters, not {name!r}")
    return name
