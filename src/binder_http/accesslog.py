"""A line for each request, without what must not be in a log."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import parse_qsl

from hypercorn.logging import Logger as HypercornLogger

if TYPE_CHECKING:
    from hypercorn.typing import ResponseSummary, WWWScope

log = logging.getLogger("binder.access")

ELSEWHERE: Final = "binder.logged-elsewhere"
"""Among a scope's extensions: hypercorn does not know how this request ends."""

_SHOWN: Final = frozenset({"build_only"})
"""Query parameters whose values are shown; no other's is: tokens are among them."""

_MOST: Final = 300
# Somebody may put a password into the URL of a repository, escaped or not.
_CREDENTIALS: Final = re.compile(r"((?::|%3a)(?:/|%2f){2})[^/]*(?:@|%40)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """What will be logged of a request when it has ended."""

    text: str

    @classmethod
    def of(cls, request: WWWScope, status: int | None) -> Self:
        """Return the entry of a request.

        Args:
            request: Its scope.
            status: Of the answer; None: there was none.
        """
        client = request.get("client")
        asked = target(request["raw_path"], request["query_string"])
        return cls(
            f'{client[0] if client else "-"} "{request.get("method", "-")} {asked}" '
            f"{'-' if status is None else status}"
        )

    def log(self, seconds: float) -> None:
        """Log it.

        Args:
            seconds: How long the request took.
        """
        log.info("%s %.3fs", self.text, seconds)


class Logger(HypercornLogger):
    """Logs requests in our words, the rest as hypercorn does."""

    async def access(
        self, request: WWWScope, response: ResponseSummary | None, request_time: float
    ) -> None:
        """Log a request that was answered, or whose client left."""
        if log.isEnabledFor(logging.INFO) and ELSEWHERE not in request.get("extensions", {}):
            status = None if response is None else response["status"]
            Entry.of(request, status).log(request_time)


def target(raw_path: bytes, query: bytes) -> str:
    """Return path and query for a log: no secrets, no line breaks, not too long."""
    path = _CREDENTIALS.sub(r"\1***@", raw_path.decode("ascii", "backslashreplace"))
    given = parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True)
    shown = "&".join(f"{name}={text if name in _SHOWN else '***'}" for name, text in given)
    whole = f"{path}?{shown}" if shown else path
    whole = "".join(char if char.isprintable() else "�" for char in whole)
    return whole if len(whole) <= _MOST else f"{whole[:_MOST]}…"
