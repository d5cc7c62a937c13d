"""One build at 100 lines a second, and 200 watchers: CPU share, and delay from line to client."""

from __future__ import annotations

import asyncio
import time

from benchmarks.clients import SETTLED, all_ended, closed, path_of, watch, wrong
from benchmarks.processes import Feeder, Server, bare, feeder, ours
from benchmarks.results import Results, median, percentile

RATE = 100


async def pace(
    server: Server, source: Feeder, serial: str, watchers: int, seconds: int
) -> tuple[float, list[float], int]:
    """Return the server's share of a core, the delays of all lines, and what went wrong."""
    lines = seconds * RATE
    clients = await watch(server, [path_of(serial, lines, RATE)] * watchers)
    await asyncio.sleep(SETTLED)
    before, began = server.cpu(), time.monotonic()
    source.go(serial)
    await all_ended(clients, seconds + 30)
    share = (server.cpu() - before) / (time.monotonic() - began)
    delays = [delay for client in clients for delay in client.delays()]
    bad = wrong(clients, lines)
    await closed(clients)
    return share, delays, bad


async def run(results: Results, *, quick: bool) -> None:
    """Measure in turn with the bare server, several times."""
    watchers, seconds, rounds = (50, 3, 1) if quick else (200, 8, 3)
    with (
        feeder() as source,
        bare("new", feed=source.path) as bare_server,
        ours(builder__kind="feed", builder__feed__socket=source.path) as server,
    ):
        bare_taken, taken = [], []
        for turn in range(rounds):
            bare_taken.append(await pace(bare_server, source, f"bare{turn}", watchers, seconds))
            taken.append(await pace(server, source, f"ours{turn}", watchers, seconds))
    bare_share = median([share for share, _, _ in bare_taken])
    share = median([share for share, _, _ in taken])
    bad = sum(was_bad for _, _, was_bad in taken)
    p99s = [percentile(delays, 0.99) * 1000 for _, delays, _ in taken]
    bare_p99s = [percentile(delays, 0.99) * 1000 for _, delays, _ in bare_taken]
    middle = median([percentile(delays, 0.5) * 1000 for _, delays, _ in taken])
    results.add(
        "paced",
        f"share of a core, {RATE} lines/s, {watchers} watchers",
        share * 100,
        25,
        unit="%",
        note=f"bare {bare_share * 100:.3g} %",
    )
    note = (
        f"median {middle:.3g} ms; p99 {min(p99s):.3g} to {max(p99s):.3g} ms; "
        f"bare p99 {median(bare_p99s):.3g} ms"
    )
    late = median(p99s)
    results.add("paced", "delay from line to client, p99", late, 100, unit="ms", note=note)
    results.add("paced", "lines lost, doubled, out of order", bad, 0, unit="")
