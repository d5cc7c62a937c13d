"""500 builds at once of 200 lines, against one after another."""

from __future__ import annotations

import asyncio
import time

from benchmarks.clients import SETTLED, all_ended, closed, path_of, watch, wrong
from benchmarks.processes import Feeder, Server, feeder, ours
from benchmarks.results import Results, median


async def at_once(
    server: Server, source: Feeder, serial: str, builds: int, lines: int
) -> tuple[float, float, int]:
    """Return seconds from the first line to the last event of all, CPU's, and what went wrong."""
    clients = await watch(server, [path_of(serial, lines, which=n) for n in range(builds)])
    await asyncio.sleep(SETTLED + builds / 250)
    cpu, began = server.cpu(), time.monotonic_ns()
    source.go(serial)
    await all_ended(clients, 120)
    wall = max(client.last_at for client in clients) - began
    cpu = server.cpu() - cpu
    bad = wrong(clients, lines)
    await closed(clients)
    return wall / 1e9, cpu, bad


async def run(results: Results, *, quick: bool) -> None:
    """Measure all in turn, several times."""
    builds = 50 if quick else 500
    alone: list[float] = []
    walls: dict[int, list[float]] = {100: [], 200: [], 400: []}
    cpus: dict[int, list[float]] = {lines: [] for lines in walls}
    bad = 0
    with (
        feeder() as source,
        ours(builder__kind="feed", builder__feed__socket=source.path) as server,
    ):
        for turn in range(2 if quick else 4):
            for n in range(6):
                wall, _, was_bad = await at_once(server, source, f"alone{turn}-{n}", 1, 200)
                alone += [wall] if n else []
                bad += was_bad
            for lines, took in walls.items():
                wall, cpu, was_bad = await at_once(
                    server, source, f"many{turn}-{lines}", builds, lines
                )
                took.append(wall)
                cpus[lines].append(cpu)
                bad += was_bad
    wall_of = {lines: median(took) for lines, took in walls.items()}
    # The least of the turns: whatever else the machine did only added to it.
    cpu_of = {lines: min(took) for lines, took in cpus.items()}
    for lines in walls:
        results.point("builds", lines=lines, seconds=wall_of[lines], cpu=cpu_of[lines])
    ideal = median(alone) * builds
    note = f"{wall_of[200]:.3g} s to {ideal:.3g} s"
    results.add(
        "builds", f"{builds} at once to one after another", wall_of[200] / ideal, 1.0, note=note
    )
    # Of the wall's times a busy machine makes anything, even fewer seconds for more lines.
    longer = (cpu_of[400] - cpu_of[200]) / 200 / ((cpu_of[200] - cpu_of[100]) / 100)
    note = ", ".join(
        f"{lines} lines {cpu_of[lines]:.3g} s of CPU, {wall_of[lines]:.3g} s" for lines in walls
    )
    results.add(
        "builds", "CPU of a line of a longer build to of a shorter", longer, 1.25, note=note
    )
    results.add("builds", "lines lost, doubled, out of order", bad, 0, unit="")
