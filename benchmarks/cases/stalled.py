"""Readers that stop reading, among others that read."""

from __future__ import annotations

import asyncio
import socket

from benchmarks.clients import SETTLED, Watcher, all_ended, closed, path_of, watch, wrong
from benchmarks.processes import Feeder, Server, feeder, ours
from benchmarks.results import Results, percentile

RATE = 500
_MEGA = 2**20


async def beside(
    server: Server, source: Feeder, serial: str, path: str, *, readers: int, stall: bool
) -> tuple[list[float], float, list[Watcher]]:
    """Return the delays of those who read, what memory grew in the second half, and them."""
    clients = await watch(server, [path] * readers)
    others = await watch(server, [path] * readers)
    if stall:
        for other in others:
            made: socket.socket = other.transport.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            assert isinstance(other.transport, asyncio.ReadTransport)
            other.transport.pause_reading()
    await asyncio.sleep(SETTLED)
    source.go(serial)
    half = int(path.split("%2F")[4]) / RATE / 2
    await asyncio.sleep(half)
    memory = server.memory()
    await asyncio.sleep(half * 0.9)
    grown = (server.memory() - memory) / _MEGA
    await all_ended(clients, 60)
    delays = [delay for client in clients for delay in client.delays()]
    await closed(others)
    return delays, grown, clients


async def run(results: Results, *, quick: bool) -> None:
    """Measure with all reading, then with half of them stopped."""
    readers, seconds = (20, 3) if quick else (100, 8)
    lines = seconds * RATE
    with (
        feeder() as source,
        ours(builder__kind="feed", builder__feed__socket=source.path) as server,
    ):
        p99: dict[bool, float] = {}
        grown: dict[bool, float] = {}
        bad = 0
        for stall in (False, True):
            serial = f"stall{stall:d}"
            path = path_of(serial, lines, RATE)
            delays, grown[stall], clients = await beside(
                server, source, serial, path, readers=readers, stall=stall
            )
            p99[stall] = percentile(delays, 0.99)
            bad += wrong(clients, lines)
            await closed(clients)
    note = f"p99 {p99[True] * 1000:.3g} ms to {p99[False] * 1000:.3g} ms"
    results.add(
        "stalled",
        f"delay of {readers} beside {readers} stopped, to all reading",
        p99[True] / p99[False],
        1.1,
        note=note,
    )
    results.add(
        "stalled",
        "memory grown, beyond that of all reading",
        grown[True] - grown[False],
        1.0,
        unit="MiB",
        note=f"{grown[True]:.3g} MiB to {grown[False]:.3g} MiB, the journal's",
    )
    results.add("stalled", "lines lost, doubled, out of order", bad, 0, unit="")
