"""What is drawn: cost against the number of watchers, and against the number of lines."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.results import Results

mpl.use("svg")
# The same run makes the same file.
mpl.rcParams["svg.hashsalt"] = "binderkit"


def draw(results: Results, folder: Path) -> None:
    """Write ``watchers.svg`` and ``lines.svg``, each if there is something to draw."""
    names = {"ours": "binderkit", "new": "bare, coalescing", "each": "bare, one write per event"}
    if points := results.series.get("fanout"):
        figure, axes = plt.subplots(figsize=(6, 4))
        watchers = [point["watchers"] for point in points]
        for key, name in names.items():
            axes.plot(watchers, [point[key] for point in points], marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel="watchers", ylabel="µs of CPU per event")
        axes.legend()
        _write(figure, folder / "watchers.svg")
    if points := results.series.get("length"):
        figure, axes = plt.subplots(figsize=(6, 4))
        lines = [point["lines"] for point in points]
        axes.plot(lines, [point["cpu"] for point in points], marker="o", color="C0")
        axes.set(xscale="log", xlabel="lines of the build", ylabel="µs of CPU per line")
        axes.set_ylim(bottom=0)
        held = axes.twinx()
        held.plot(lines, [point["held"] for point in points], marker="s", color="C1")
        held.set_ylabel("MiB held (squares)")
        held.set_ylim(bottom=0)
        _write(figure, folder / "lines.svg")


def _write(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
