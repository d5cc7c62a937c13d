"""URLs from a browser's address bar, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

MAX_URL = 4096

_SCP = re.compile(r"git@([\w.-]+):(?!//)(.+)")


@dataclass(frozen=True, slots=True)
class PastedUrl:
    """A URL that somebody pasted."""

    host: str
    """In lower case, without ``www.``, with the port if there is one."""
    steps: tuple[str, ...]
    """The path, unescaped, without empty steps."""
    query: dict[str, str]
    scheme: str


def clean(text: str) -> str:
    """Return what was pasted without the space around it; nothing if it can be no URL."""
    text = text.strip()
    return text if len(text) <= MAX_URL and text.isprintable() else ""


def take_apart(url: str) -> PastedUrl | None:
    """Return the parts of a URL, None if it is none. ``git@host:path`` is one, too."""
    url = clean(url)
    if scp := _SCP.fullmatch(url):
        url = f"ssh://{scp[1]}/{scp[2]}"
    elif "://" not in url:
        url = f"https://{url}"
    try:
        parts = urlsplit(url)
        # Reading the port checks it.
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    if not host or parts.scheme not in {"http", "https", "ssh", "git"}:
        return None
    host = host.removeprefix("www.") + (f":{port}" if port else "")
    steps = tuple(unquote(step) for step in parts.path.split("/") if step)
    query = dict(parse_qsl(parts.query, keep_blank_values=True)[:50])
    return PastedUrl(host, steps, query, parts.scheme)


def join(steps: tuple[str, ...]) -> str:
    """Return a path inside a repository."""
    return "/".join(steps)


def escaped_ref(ref: str) -> str:
    """Return a ref for a spec: it comes last, so its slashes may stay."""
    return quote(ref, safe="/")
