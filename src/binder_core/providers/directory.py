"""A folder of this machine, as it is on the disk: for the command line, never over HTTP.

Whoever may name any folder may read any file. So this provider has no entry point: only the command
line adds it, to a server that lives in the same process, for who has typed the command.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import msgspec

from binder_core.plugin import (
    Asks,
    Display,
    NoSettings,
    Pasted,
    Resolved,
    Spec,
)
from binder_core.providers import _text

PREFIX: Final = "dir"
"""What the command line serves it under."""

CONTENT_PROVIDER: Final = "Local"
"""Tells a builder that `Resolved.repo_url` is a folder's absolute path."""

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


class Directory:
    """A folder: ``<absolute path, escaped>/<fingerprint>``.

    The fingerprint, 64 hexadecimal digits, stands for what is in the folder: whoever makes the spec
    has looked. Another one is another state, which is built anew.
    """

    Settings: ClassVar[type[msgspec.Struct]] = NoSettings

    def __init__(self, prefix: str = PREFIX, settings: NoSettings | None = None) -> None:
        del settings  # there are none
        self.prefix = prefix
        self.display = Display(
            name="Folder",
            repo_label="A folder of this machine",
            repo_placeholder="example: ./my-notebooks",
            ref_enabled=False,
        )

    def parse(self, text: str) -> Spec:
        """Take ``<absolute path, escaped>/<fingerprint>`` apart.

        Raises:
            SpecError: It has another form.
        """
        whole = _text.whole(text)
        first, *rest = whole.split(1)
        path = _text.unescaped(first, "the path")
        if not path.startswith("/") or {".", ".."} & set(path.split("/")):
            raise first.error('The path of a folder is absolute: "%2Fhome%2Fme%2Fnotebooks".')
        if not rest or not _FINGERPRINT.fullmatch(str(rest[0])):
            part = rest[0] if rest else first
            raise part.error("Behind the path stands its fingerprint, 64 hexadecimal digits.")
        return Spec(self.prefix, path, str(rest[0]))

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return f"{_text.escape(spec.repo)}/{spec.ref}"

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Return the spec itself: the fingerprint pins it. Nobody is asked."""
        yield from ()
        return self.pinned(spec, spec.ref)

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return the folder in the state of the fingerprint `ref`."""
        escaped = _text.escape(spec.repo)
        return Resolved(
            provider=self.prefix,
            spec=f"{escaped}/{ref}",
            repo_url=spec.repo,
            ref=ref,
            ref_url=f"file://{escaped.replace('%2F', '/')}",
            slug=spec.repo,
            content_provider=CONTENT_PROVIDER,
        )

    def recognise(self, url: str) -> Pasted | None:  # noqa: ARG002 - the protocol's signature
        """Return None: a path that was typed is the command line's business."""
        return None


def spec_text(path: str, fingerprint: str) -> str:
    """Return the spec of a folder, with the prefix.

    Args:
        path: Absolute.
        fingerprint: See `Directory`.

    Raises:
        SpecError: The path holds what no spec may.
    """
    text = f"{_text.escape(path)}/{fingerprint}"
    Directory().parse(text)
    return f"{PREFIX}/{text}"
