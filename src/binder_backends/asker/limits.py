"""Rate limits, as services tell them in their answers.

Sources: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api,
https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/#response-headers,
https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from binder_core.plugin import HttpReply, ProviderUnavailable

log = logging.getLogger("binder.asker")

_DEFAULT_WAIT: Final = 60.0
"""Seconds to stay away for, where a service does not say how long."""
_LONGEST_WAIT: Final = 24 * 3600.0
_EPOCH_FROM: Final = 10**8
"""A reset below this is a number of seconds, not a date."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a service said of how often it may be asked."""

    limit: int
    remaining: int
    reset: float
    """When `remaining` is `limit` again, in seconds since the epoch."""


def rate_limit(headers: Mapping[str, str], now: float) -> RateLimit | None:
    """Return the limit that an answer tells, None if it tells none."""
    for prefix in ("x-ratelimit-", "ratelimit-"):
        try:
            limit, remaining, reset = (
                int(headers[prefix + name]) for name in ("limit", "remaining", "reset")
            )
        except (KeyError, ValueError):
            continue
        if limit > 0:
            return RateLimit(
                limit, remaining, float(reset if reset >= _EPOCH_FROM else now + reset)
            )
    return None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return for how many seconds a service asks to be left alone, None if it does not."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_WAIT)
    try:
        wait = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait, 0.0), _LONGEST_WAIT)


class Limits:
    """What is known of the limits of every host."""

    def __init__(self) -> None:
        self.known: dict[str, RateLimit] = {}
        """By host."""
        self._closed_until: dict[str, float] = {}

    def check(self, host: str, now: float) -> None:
        """Return if `host` may be asked.

        Raises:
            ProviderUnavailable: It said not to before a time that is not over.
        """
        until = self._closed_until.get(host, 0.0)
        if until > now:
            raise self._closed(host, until - now)
        self._closed_until.pop(host, None)

    def learn(self, host: str, reply: HttpReply, now: float) -> None:
        """Read an answer.

        Raises:
            ProviderUnavailable: It says that the host has been asked too often.
        """
        told = rate_limit(reply.headers, now)
        if told is not None:
            self.known[host] = told
            _log(host, told, now)
        wait = retry_after(reply.headers, now)
        used_up = told is not None and told.remaining <= 0
        if reply.status == 429 or (reply.status == 403 and (used_up or wait is not None)):
            if wait is None:
                wait = told.reset - now if told is not None and used_up else _DEFAULT_WAIT
            wait = min(max(wait, 1.0), _LONGEST_WAIT)
            self._closed_until[host] = now + wait
            raise self._closed(host, wait)

    def _closed(self, host: str, wait: float) -> ProviderUnavailable:
        minutes = int(wait // 60) + 1
        when = f"{minutes} minutes" if minutes > 1 else "a minute"
        return ProviderUnavailable(
            f"{host} has been asked too often from here and answers no more for now "
            f"(rate limit). Try again in {when}.",
            retry_after=wait,
        )


def _log(host: str, told: RateLimit, now: float) -> None:
    # Louder as it falls.
    if told.remaining <= 0:
        level = logging.ERROR
    elif told.remaining < told.limit / 5:
        level = logging.WARNING
    elif told.remaining < told.limit / 2:
        level = logging.INFO
    else:
        level = logging.DEBUG
    log.log(
        level,
        "%s: %d of %d questions left, all again in %.0f s",
        host,
        told.remaining,
        told.limit,
        max(told.reset - now, 0.0),
    )
