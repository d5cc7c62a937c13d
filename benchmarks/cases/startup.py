"""How long it takes until a program is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.processes import SERVER_CORE, Server, bare_quart, environment, ours, pinned
from benchmarks.results import Results


def of_command(*command: str) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    with pinned(command, SERVER_CORE, environment()) as process:
        if process.wait(60):
            raise RuntimeError(f"{command} failed")
        return time.perf_counter() - began


def of_server(server: Callable[[], AbstractContextManager[Server]]) -> float:
    """Return the seconds until a server answers."""
    began = time.perf_counter()
    with server():
        return time.perf_counter() - began


async def run(results: Results, *, quick: bool) -> None:
    """Measure all in turn, several times."""
    python = sys.executable
    binder = str(Path(python).with_name("binder"))
    measures: dict[str, Callable[[], float]] = {
        "pass": lambda: of_command(python, "-c", "pass"),
        "import": lambda: of_command(python, "-c", "import binder_core"),
        "help": lambda: of_command(binder, "--help"),
        "quart": lambda: of_server(bare_quart),
        "serve": lambda: of_server(ours),
    }
    took: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(4 if quick else 12):
        for name, measure in measures.items():
            seconds = measure()
            took[name] += [seconds] if turn else []
    # The fastest: whatever else the machine did only made the others slower.
    times = {name: min(all_of_it) * 1000 for name, all_of_it in took.items()}

    def add(what: str, name: str, to: str, bound: float) -> None:
        note = f"{times[name]:.0f} ms to {times[to]:.0f} ms"
        results.add("startup", what, times[name] - times[to], bound, unit="ms", note=note)

    add("import binder_core, above `python -c pass`", "import", "pass", 60)
    add("`binder --help`, above `python -c pass`", "help", "pass", 150)
    add("`binder serve` answers, above a bare Quart app", "serve", "quart", 300)
