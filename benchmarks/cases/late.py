"""A late joiner to a build of 100,000 lines, against a file of the same bytes."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from benchmarks.clients import Watcher, all_ended, closed, path_of, watch, wrong
from benchmarks.processes import Server, bare, feeder, ours
from benchmarks.results import Results, median


async def catch_up(server: Server, path: str, ends: tuple[bytes, ...]) -> tuple[float, Watcher]:
    """Return the seconds from the request to the last byte, and who made it."""
    client = Watcher(path, ends)
    loop = asyncio.get_running_loop()
    began = time.monotonic_ns()
    await loop.create_connection(lambda: client, "127.0.0.1", server.port)
    await all_ended([client], 60)
    await closed([client])
    return (client.last_at - began) / 1e9, client


async def run(results: Results, *, quick: bool) -> None:
    """Compare, in turn."""
    lines, rounds = (10_000, 5) if quick else (100_000, 9)
    ends = (f"line {lines} at ".encode(),)
    ours_took: list[float] = []
    file_took: list[float] = []
    bad = 0
    with (
        tempfile.NamedTemporaryFile() as file,
        feeder() as source,
        bare("new") as file_server,
        ours(
            builder__kind="feed",
            builder__feed__socket=source.path,
            limits__log_cap_bytes=2**28,  # all of it is held
        ) as server,
    ):
        path = path_of("open", lines)
        (early,) = await watch(server, [path], ends=ends)
        await asyncio.sleep(lines * 2e-5)
        source.go("open")
        await all_ended([early], 60)
        await asyncio.sleep(0.2)
        Path(file.name).write_bytes(early.body())
        for turn in range(rounds):
            took, client = await catch_up(server, path, ends)
            file_path = f"/file/{quote(file.name, safe='')}"
            of_file, reader = await catch_up(file_server, file_path, ends)
            bad += wrong([client, reader], lines)
            if turn:
                ours_took.append(took)
                file_took.append(of_file)
        await closed([early])
    results.add(
        "late",
        f"to catch up with {lines:,} lines, to a file",
        median(ours_took) / median(file_took),
        3.0,
        note=f"{median(ours_took) * 1000:.3g} ms to {median(file_took) * 1000:.3g} ms",
    )
    results.add("late", "lines lost, doubled, out of order", bad, 0, unit="")
