"""What was measured, against what was asked for."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    case: str
    what: str
    value: float
    bound: float
    unit: str = "×"
    kind: Literal["at most", "at least"] = "at most"
    note: str = ""
    """What it is made of."""

    @property
    def passed(self) -> bool:
        """Return whether it is what was asked for."""
        if self.kind == "at most":
            return self.value <= self.bound
        return self.value >= self.bound


@dataclass(slots=True)
class Results:
    """All figures of a run, and the series that are drawn."""

    rows: list[Row] = field(default_factory=list)
    series: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    load_before: tuple[float, float, float] = field(default_factory=os.getloadavg)
    began: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))

    def add(
        self,
        case: str,
        what: str,
        value: float,
        bound: float,
        *,
        unit: str = "×",
        kind: Literal["at most", "at least"] = "at most",
        note: str = "",
    ) -> None:
        """Add a figure, and show it."""
        row = Row(case, what, value, bound, unit, kind, note)
        self.rows.append(row)
        print(line(row), flush=True)

    def point(self, name: str, **values: float) -> None:
        """Add a point to a series."""
        self.series.setdefault(name, []).append(values)

    def write(self, path: Path, **more: Any) -> None:
        """Write all of it as JSON."""
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows]
        said = {
            "began": self.began,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "load_before": self.load_before,
            "load_after": os.getloadavg(),
            "rows": rows,
            "series": self.series,
        } | more
        path.write_text(json.dumps(said, indent=1) + "\n")


def markdown(results: Results) -> str:
    """Return the table for a page of the docs."""
    lines = ["| case | figure | value | wanted | | made of |", "|---|---|---|---|---|---|"]
    for row in results.rows:
        sign = "≤" if row.kind == "at most" else "≥"
        value, bound = f"{number(row.value)} {row.unit}", f"{sign} {number(row.bound)} {row.unit}"
        verdict = "pass" if row.passed else "**miss**"
        cells = (row.case, row.what, value.strip(), bound.strip(), verdict, row.note)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_WIDTHS = (10, 46, 10, 12)


def title() -> str:
    """Return the head of the table."""
    names = ("case", "figure", "value", "wanted")
    cells = [f"{name:<{width}}" for name, width in zip(names, _WIDTHS, strict=True)]
    return "  ".join([*cells, "     ", "made of"])


def line(row: Row) -> str:
    """Return a row of the table."""
    sign = "≤" if row.kind == "at most" else "≥"
    value, bound = number(row.value), number(row.bound)
    cells = (row.case, row.what, f"{value} {row.unit}", f"{sign} {bound} {row.unit}")
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)]
    return "  ".join([*padded, "pass " if row.passed else "MISS ", row.note])


def number(value: float) -> str:
    """Return a number with three figures."""
    if value and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def median(values: Sequence[float]) -> float:
    """Return the middle one."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
