"""10,000 watchers of a build that says nothing."""

from __future__ import annotations

import asyncio

from benchmarks.clients import closed, path_of, watch
from benchmarks.processes import Server, bare, feeder, ours
from benchmarks.results import Results

HEARTBEAT = 25.0
"""Seconds, the default."""


async def park(server: Server, watchers: int, heartbeat: float) -> tuple[float, float]:
    """Return bytes for a watcher, and seconds of CPU in the time of one heartbeat."""
    path = path_of("open", 1)
    await closed(await watch(server, [path] * 20))  # the first ones make what all share
    before = server.memory()
    clients = await watch(server, [path] * watchers)
    await asyncio.sleep(2.0)
    memory = (server.memory() - before) / watchers
    cpu = server.cpu()
    await asyncio.sleep(heartbeat)
    cpu = server.cpu() - cpu
    if any(client.ended.done() for client in clients):
        raise RuntimeError("a silent stream has ended")
    await closed(clients)
    return memory, cpu


async def run(results: Results, *, quick: bool) -> None:
    """Measure, the bare server beside it."""
    watchers, heartbeat = (500, 2.0) if quick else (10_000, HEARTBEAT)
    with feeder() as source, bare("new", feed=source.path, heartbeat=heartbeat) as server:
        bare_memory, bare_cpu = await park(server, watchers, heartbeat)
    with (
        feeder() as source,
        ours(
            builder__kind="feed",
            builder__feed__socket=source.path,
            limits__heartbeat=heartbeat,
        ) as server,
    ):
        memory, cpu = await park(server, watchers, heartbeat)
    note = f"ours {memory / 1024:.3g} KiB, bare {bare_memory / 1024:.3g} KiB"
    above = (memory - bare_memory) / 1024
    results.add(
        "silent", f"memory of a watcher, {watchers}, above bare", above, 8, unit="KiB", note=note
    )
    results.add(
        "silent",
        f"share of a core, {watchers} watchers, heartbeats",
        cpu / HEARTBEAT * 100 * (10_000 / watchers),
        2,
        unit="%",
        note=f"{cpu / watchers * 1e6:.3g} µs a beat, bare {bare_cpu / watchers * 1e6:.3g} µs",
    )
