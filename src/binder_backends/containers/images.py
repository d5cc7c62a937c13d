"""Names of images, as engines take them."""

from __future__ import annotations


def repository(image: str) -> tuple[str, str]:
    """Return the repository and the tag of an image's name: ``latest`` where it has none."""
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:  # the colon of a port
        return image, "latest"
    return name, tag
