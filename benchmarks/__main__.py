"""Measures, shows a table, and writes JSON and plots: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.results import Results, markdown, title

CASES = (
    "fanout",
    "paced",
    "silent",
    "launches",
    "builds",
    "length",
    "late",
    "stalled",
    "machine",
    "startup",
    "local",
)


def main() -> int:
    """Run the cases; return 1 if a figure was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=CASES, help="run this case alone")
    parser.add_argument("--quick", action="store_true", help="small loads: seconds, less exact")
    parser.add_argument("--out", type=Path, help="folder for results.json, table.md and the plots")
    given = parser.parse_args()
    cases = tuple(given.only or CASES)

    processes.pin_load()
    results = Results()
    print(title(), flush=True)
    began = time.monotonic()
    for name in cases:
        case = importlib.import_module(f"benchmarks.cases.{name}")
        asyncio.run(case.run(results, quick=given.quick))
    missed = [row for row in results.rows if not row.passed]
    seconds = time.monotonic() - began
    print(f"\n{len(results.rows) - len(missed)} passed, {len(missed)} missed, in {seconds:.0f} s")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        results.write(given.out / "results.json", seconds=round(seconds), quick=given.quick)
        (given.out / "table.md").write_text(markdown(results))
        from benchmarks import plots  # noqa: PLC0415 - slow, and only for this

        plots.draw(results, given.out)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
