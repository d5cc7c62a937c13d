"""500 builds at once of 200 lines, against one after another."""

from __future__ import annotations

import asyncio
import time

from benchmarks.clients import SETTLED, all_ended, closed, path_of, watch, wrong
from benchmarks.processes import Feeder, Server, feeder, ours
from benchmarks.results import Results, median


async def at_once(
    server: Server, source: Feeder, serial: str, builds: int, lines: int
) -> tuple[float, int]:
    """Return the seconds from the first line to the last event of all, and what went wrong."""
    clients = await watch(server, [path_of(serial, lines, which=n) for n in range(builds)])
    await asyncio.sleep(SETTLED + builds / 250)
    began = time.monotonic_ns()
    source.go(serial)
    await all_ended(clients, 120)
    wall = max(client.last_at for client in clients) - began
    bad = wrong(clients, lines)
    await closed(clients)
    return wall / 1e9, bad


async def run(results: Results, *, quick: bool) -> None:
    """Measure."""
    builds = 50 if quick else 500
    alone: list[float] = []
    walls: dict[int, float] = {}
    bad = 0
    with (
        feeder() as source,
        ours(builder__kind="feed", builder__feed__socket=source.path) as server,
    ):
        for n in range(11):
            wall, was_bad = await at_once(server, source, f"alone{n}", 1, 200)
            alone += [wall] if n else []
            bad += was_bad
        for lines in (100, 200, 400):
            wall, was_bad = await at_once(server, source, f"many{lines}", builds, lines)
            walls[lines] = wall
            bad += was_bad
            results.point("builds", lines=lines, seconds=wall)
    ideal = median(alone) * builds
    note = f"{walls[200]:.3g} s to {ideal:.3g} s"
    results.add(
        "builds", f"{builds} at once to one after another", walls[200] / ideal, 1.0, note=note
    )
    longer = (walls[400] - walls[200]) / 200 / ((walls[200] - walls[100]) / 100)
    note = ", ".join(f"{lines} lines {wall:.3g} s" for lines, wall in walls.items())
    results.add("builds", "a line of a longer build to one of a shorter", longer, 1.25, note=note)
    results.add("builds", "lines lost, doubled, out of order", bad, 0, unit="")
