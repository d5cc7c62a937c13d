"""What an operator may count: hooks for metrics."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Is told of what ended. Gauges are not told: they are derived from the machine's state."""

    def build_ended(self, *, ok: bool, seconds: float, provider: str, repo_url: str) -> None:
        """A build ended after `seconds`."""

    def launch_ended(
        self, *, ok: bool, seconds: float, retries: int, provider: str, repo_url: str
    ) -> None:
        """A launch ended after `seconds` and so many tries beside the first."""


class Silent:
    """An observer that counts nothing."""

    def build_ended(self, *, ok: bool, seconds: float, provider: str, repo_url: str) -> None:
        """Do nothing."""

    def launch_ended(
        self, *, ok: bool, seconds: float, retries: int, provider: str, repo_url: str
    ) -> None:
        """Do nothing."""
