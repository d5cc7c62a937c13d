"""One build at 100 lines a second, and 200 watchers: CPU share, and delay from line to client."""

from __future__ import annotations

import asyncio
import time

from benchmarks.clients import SETTLED, all_ended, closed, path_of, watch, wrong
from benchmarks.processes import Feeder, Server, bare, feeder, ours
from benchmarks.results import Results, percentile

RATE = 100


async def pace(
    server: Server, source: Feeder, watchers: int, seconds: int
) -> tuple[float, list[float], int]:
    """Return the server's share of a core, the delays of all lines, and what went wrong."""
    lines = seconds * RATE
    clients = await watch(server, [path_of("paced", lines, RATE)] * watchers)
    await asyncio.sleep(SETTLED)
    before, began = server.cpu(), time.monotonic()
    source.go("paced")
    await all_ended(clients, seconds + 30)
    share = (server.cpu() - before) / (time.monotonic() - began)
    delays = [delay for client in clients for delay in client.delays()]
    bad = wrong(clients, lines)
    await closed(clients)
    return share, delays, bad


async def run(results: Results, *, quick: bool) -> None:
    """Measure, the bare server beside it."""
    watchers, seconds = (50, 3) if quick else (200, 10)
    with feeder() as source, bare("new", feed=source.path) as server:
        bare_share, bare_delays, _ = await pace(server, source, watchers, seconds)
    with (
        feeder() as source,
        ours(builder__kind="feed", builder__feed__socket=source.path) as server,
    ):
        share, delays, bad = await pace(server, source, watchers, seconds)
    results.add(
        "paced",
        f"share of a core, {RATE} lines/s, {watchers} watchers",
        share * 100,
        25,
        unit="%",
        note=f"bare {bare_share * 100:.3g} %",
    )
    late = percentile(delays, 0.99) * 1000
    bare_late = percentile(bare_delays, 0.99) * 1000
    note = f"median {percentile(delays, 0.5) * 1000:.3g} ms; bare p99 {bare_late:.3g} ms"
    results.add("paced", "delay from line to client, p99", late, 100, unit="ms", note=note)
    results.add("paced", "lines lost, doubled, out of order", bad, 0, unit="")
