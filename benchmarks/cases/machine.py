"""The dedup machine alone: facts a second, against the number of builds and of watchers."""

from __future__ import annotations

import time

from benchmarks.results import Results
from binder_core.builds import BuildLimits, Builds, Joined, Left, Spoke, Started, Succeeded
from binder_core.plugin import BuildRequest


def facts_a_second(builds: int, watchers: int, facts: int) -> float:
    """Return how many facts are handled a second while so many builds run, so much watched."""
    machine = Builds(BuildLimits(max_age=3600.0))
    requests = [BuildRequest(f"b{n}", f"i{n}", "https://x", "r") for n in range(builds)]
    ids = []
    for request in requests:
        for _ in range(watchers):
            machine.handle(Joined(request, 0.0), 0.0)
        live = machine.live(request.name)
        assert live is not None
        machine.handle(Started(live.id, f"run{live.id.attempt}"), 0.0)
        ids.append(live.id)
    handled = 0
    began = time.perf_counter()
    while handled < facts:
        for request, build_id in zip(requests, ids, strict=True):
            machine.handle(Joined(request, 1.0), 1.0)
            machine.handle(Spoke(build_id), 1.0)
            machine.handle(Spoke(build_id), 1.0)
            machine.handle(Left(build_id), 1.0)
        handled += 4 * builds
    rate = handled / (time.perf_counter() - began)
    for build_id in ids:
        machine.handle(Succeeded(build_id), 2.0)
    assert all(build.watchers == watchers for build in machine.all())
    return rate


async def run(results: Results, *, quick: bool) -> None:
    """Measure."""
    facts = 40_000 if quick else 400_000
    rates: dict[tuple[int, int], float] = {}
    for builds, watchers in ((1, 1), (1, 10_000), (100, 100), (10_000, 1)):
        rates[builds, watchers] = max(facts_a_second(builds, watchers, facts) for _ in range(3))
        results.point("machine", builds=builds, watchers=watchers, rate=rates[builds, watchers])
    note = ", ".join(f"{b:,}×{w:,}: {rate:,.0f}" for (b, w), rate in rates.items())
    slowest, fastest = min(rates.values()), max(rates.values())
    results.add(
        "machine", "facts a second", slowest, 100_000, unit="/s", kind="at least", note=note
    )
    results.add("machine", "fastest to slowest, builds × watchers", fastest / slowest, 2.0)
