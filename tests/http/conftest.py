"""Quart runs on asyncio."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run on what Quart and hypercorn run on."""
    return "asyncio"
