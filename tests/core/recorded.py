"""Replies of services, from the files in tests/records."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from binder_core.plugin import HttpGet, HttpReply

RECORDS = Path(__file__).parent.parent / "records"


@functools.cache
def _all() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in RECORDS.glob("*.json"):
        found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def reply(url: str) -> HttpReply:
    """Return what the service answered when it was asked for `url`."""
    record = _all()[url]
    headers = {name.lower(): value for name, value in record["headers"].items()}
    return HttpReply(record["code"], record.get("url", url), headers, record["body"].encode())


def step(
    url: str, *, headers: dict[str, str] | None = None, hosts: tuple[str, ...] = ()
) -> tuple[HttpGet, HttpReply]:
    """Return a question of a dialogue and its recorded answer."""
    # Only where a DOI leads is of interest, not what is there.
    head = url.startswith("https://doi.org/")
    question = HttpGet(url, tuple((headers or {}).items()), redirect_hosts=hosts, head=head)
    return question, reply(url)
