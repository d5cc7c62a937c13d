"""What watchers cost, in batches and never in seconds."""

from __future__ import annotations

import anyio
import pytest
from world import World

from binder_backends.fake import BuilderSettings
from binder_core.engine import Batch, Binder, Limits, Request

pytestmark = pytest.mark.anyio

LINES = 2_000
ENOUGH = 500
"""So many lines wait for no others: what they cost is more than a write."""
MORE = 3
"""``waiting``, ``built`` and ``ready``."""


async def batches(binder: Binder) -> list[Batch]:
    """Return all batches of a stream, each as it was made."""
    asked = Request(provider="w", spec="repo/main", build_only=True)
    return [batch async for batch in binder.stream(asked)]


async def of_many(watchers: int, world: World) -> list[list[Batch]]:
    came: list[list[Batch]] = []

    async def watch(binder: Binder) -> None:
        came.append(await batches(binder))

    async with world.binder() as binder, anyio.create_task_group() as watching:
        for _ in range(watchers):
            watching.start_soon(watch, binder)
    assert len(came) == watchers
    return came


@pytest.mark.parametrize("watchers", [1, 40])
async def test_a_build_that_pours_is_told_in_few_writes(watchers: int) -> None:
    async with anyio.create_task_group() as tasks:
        # As if all came within the time that a line may wait, and behind the last who joins: on a
        # slow machine too.
        limits = Limits(batch=30.0)
        world = World(tasks, builder=BuilderSettings(lines=LINES, delay=0.3), limits=limits)
        came = await of_many(watchers, world)
    for stream in came:
        assert sum(map(len, stream)) == LINES + MORE
        assert all(stream), "no heartbeat, nothing was silent"
        assert len(stream) <= 4 + LINES // ENOUGH
    # A batch is made once, not once for each who reads it; `ready` is each one's own.
    of_build = {id(batch) for stream in came for batch in stream[:-1]}
    # Trio wakes those of a round in any order, the builder with its next lines among them.
    assert len(of_build) <= 2 * (6 + LINES // ENOUGH)


async def test_a_heartbeat_is_one_write_to_each() -> None:
    async with anyio.create_task_group() as tasks:
        settings = BuilderSettings(lines=1, silent=0.3)
        world = World(tasks, builder=settings, limits=Limits(heartbeat=0.1))
        came = await of_many(5, world)
    for stream in came:
        silent = [batch for batch in stream if not batch]
        assert 1 <= len(silent) <= 10
        assert sum(map(len, stream)) == 1 + MORE


def test_lines_wait_longer_while_the_server_is_behind() -> None:
    limits = Limits(batch=0.1)
    waits = [limits.patience(took) for took in (0.0, 0.001, 0.005, 0.02, 0.025, 1.0)]
    assert waits == pytest.approx([0.0, 0.025, 0.05, 0.1, 0.125, 0.15])
