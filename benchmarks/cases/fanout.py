"""One build that pours, and its watchers: what an event costs the server, and how fast it is."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from benchmarks.clients import SETTLED, all_ended, closed, path_of, watch, wrong
from benchmarks.processes import Feeder, Server, bare, feeder, ours
from benchmarks.results import Results, median

WATCHERS = (1, 50, 200)
LINES = 2000
MORE_EVENTS = 2
"""Of each watcher: ``built`` and ``ready``."""


@dataclass(slots=True)
class Taken:
    """What the builds of one server took."""

    cpu: list[float] = field(default_factory=list)
    """Seconds of CPU for an event delivered."""
    rate: list[float] = field(default_factory=list)
    """Events delivered a second."""
    wrong: int = 0


async def pour(server: Server, source: Feeder, serial: str, watchers: int, taken: Taken) -> None:
    """Let one build pour for so many watchers who are all there, and add what it took."""
    path = path_of(serial, LINES)
    clients = await watch(server, [path] * watchers)
    await asyncio.sleep(SETTLED)
    before = server.cpu()
    began = time.monotonic_ns()
    source.go(serial)
    await all_ended(clients, 60)
    wall = max(client.last_at for client in clients) - began
    cpu = server.cpu() - before
    events = watchers * (LINES + MORE_EVENTS)
    taken.cpu.append(cpu / events)
    taken.rate.append(events / wall * 1e9)
    taken.wrong += wrong(clients, LINES)
    await closed(clients)


async def run(results: Results, *, quick: bool) -> None:
    """Compare with the bare server, builds of the one and the other in turn."""
    counts = (1, 20) if quick else (1, 10, 50, 100, 200)
    all_wrong = 0
    with ExitStack() as stack:
        source = stack.enter_context(feeder())
        servers: dict[str, AbstractContextManager[Server]] = {
            "ours": ours(builder__kind="feed", builder__feed__socket=source.path),
            "each": bare("each", feed=source.path),
            "new": bare("new", feed=source.path),
        }
        up = {name: stack.enter_context(server) for name, server in servers.items()}
        for watchers in counts:
            taken = {name: Taken() for name in up}
            rounds = 3 if quick else max(5, min(15, 400 // watchers))
            for turn in range(rounds + 1):
                for name, server in up.items():
                    # The first one warms up.
                    into = taken[name] if turn else Taken()
                    await pour(server, source, f"{name}-{watchers}-{turn}", watchers, into)
            cpu = {name: median(one.cpu) for name, one in taken.items()}
            rate = {name: median(one.rate) for name, one in taken.items()}
            all_wrong += sum(one.wrong for one in taken.values())
            micros = {name: seconds * 1e6 for name, seconds in cpu.items()}
            results.point("fanout", watchers=watchers, **micros)
            if quick or watchers in WATCHERS:
                results.add(
                    "fanout",
                    f"CPU per event, {watchers} watchers, to coalescing",
                    cpu["ours"] / cpu["new"],
                    2.0,
                    note=", ".join(f"{name} {spent:.3g} µs" for name, spent in micros.items()),
                )
                results.add(
                    "fanout",
                    f"events per second, {watchers} watchers",
                    rate["ours"] / rate["new"],
                    0.8,
                    kind="at least",
                    note=", ".join(f"{name} {a_second:,.0f}/s" for name, a_second in rate.items()),
                )
    results.add("fanout", "lines lost, doubled, out of order", all_wrong, 0, unit="")
