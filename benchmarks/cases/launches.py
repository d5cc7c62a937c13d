"""Launches of an image that exists, 50 at a time, against a handler that answers three events."""

from __future__ import annotations

import asyncio
import time

from benchmarks.clients import COMMIT, Watcher
from benchmarks.processes import Server, bare_quart, ours
from benchmarks.results import Results, median

AT_ONCE = 50
_PHASES = (b'"phase":"built"', b'"phase":"launching"', b'"phase":"ready"')
_PATH = f"/build/git/https%3A%2F%2Fbench.example%2Fthere/{COMMIT}"


async def complete(server: Server, seconds: float) -> tuple[float, float, int]:
    """Return complete launches a second, CPU seconds for each, and how many were not right."""
    loop = asyncio.get_running_loop()
    end = time.monotonic() + seconds
    done = bad = 0

    async def one_after_another() -> None:
        nonlocal done, bad
        while time.monotonic() < end:
            client = Watcher(_PATH)
            await loop.create_connection(lambda: client, "127.0.0.1", server.port)  # noqa: B023
            await client.ended
            body = client.body()
            places = [body.find(phase) for phase in _PHASES]
            good = places == sorted(places) and min(places) >= 0
            bad += not good or any(body.count(phase) != 1 for phase in _PHASES)
            done += 1
            client.transport.abort()

    before, began = server.cpu(), time.monotonic()
    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    wall = time.monotonic() - began
    return done / wall, (server.cpu() - before) / done, bad


async def run(results: Results, *, quick: bool) -> None:
    """Compare, in turn."""
    seconds, rounds = (1.0, 2) if quick else (3.0, 4)
    rates: list[float] = []
    bare_rates: list[float] = []
    cpu = bare_cpu = 0.0
    wrong = 0
    with (
        bare_quart() as bare,
        ours(
            builder__fake__images='["*"]',
            launcher__fake__messages='["Server is starting"]',
        ) as server,
    ):
        for turn in range(rounds + 1):
            bare_rate, bare_cpu, _ = await complete(bare, seconds if turn else 0.5)
            rate, cpu, bad = await complete(server, seconds if turn else 0.5)
            wrong += bad
            if turn:
                rates.append(rate)
                bare_rates.append(bare_rate)
    results.add(
        "launches",
        f"launches a second, {AT_ONCE} at a time, to bare Quart",
        median(rates) / median(bare_rates),
        0.6,
        kind="at least",
        note=f"{median(rates):.0f}/s to {median(bare_rates):.0f}/s; "
        f"CPU {cpu * 1e6:.0f} µs to {bare_cpu * 1e6:.0f} µs",
    )
    results.add("launches", "launches without their three events", wrong, 0, unit="")
