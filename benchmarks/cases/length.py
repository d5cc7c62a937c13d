"""What a line costs as a build gets longer, and what is held of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from benchmarks.clients import SETTLED, all_ended, closed, path_of, watch
from benchmarks.processes import feeder, ours
from benchmarks.results import Results

_MEGA = 2**20


async def run(results: Results, *, quick: bool) -> None:
    """Measure builds of rising length, each with one watcher."""
    lengths = (1_000, 10_000, 30_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
    cost: dict[int, float] = {}
    held: dict[int, float] = {}
    bad = 0
    with (
        feeder() as source,
        ours(
            builder__kind="feed", builder__feed__socket=source.path, limits__keep_ended=0.5
        ) as server,
    ):
        for turn, lines in enumerate((1_000, *lengths)):  # the first one warms up
            serial = f"length{turn}"
            memory = server.memory()
            (client,) = await watch(server, [path_of(serial, lines)])
            await asyncio.sleep(SETTLED + 5e-6 * min(lines, 100_000) * 2)
            before = server.cpu()
            source.go(serial)
            await all_ended([client], 120)
            cost[lines] = (server.cpu() - before) / lines
            held[lines] = (server.memory() - memory) / _MEGA
            came = client.lines()
            in_order = all(a < b for a, b in pairwise(came))
            bad += abs(lines - len(came) - client.left_out()) + (not in_order)
            await closed([client])
            await asyncio.sleep(1.0)  # what has ended is forgotten
            results.point("length", lines=lines, cpu=cost[lines] * 1e6, held=held[lines])
    longest, short = lengths[-1], lengths[1]
    note = ", ".join(f"{lines:,}: {cost[lines] * 1e6:.3g} µs" for lines in lengths)
    results.add(
        "length",
        f"CPU of a line, of {longest:,} to of {short:,}",
        cost[longest] / cost[short],
        1.15,
        note=note,
    )
    note = ", ".join(f"{lines:,}: {held[lines]:.3g} MiB" for lines in lengths)
    results.add("length", "memory grown by the longest", held[longest], 40, unit="MiB", note=note)
    results.add("length", "lines neither told nor said left out", bad, 0, unit="")
