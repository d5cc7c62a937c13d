"""How the runner's own programs tell a line: as ``repo2docker --json-logs`` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Literal


def tell_line(
    phase: Literal["fetching", "pushing"], message: str, progress: Mapping[str, Any] | None = None
) -> None:
    """Print a line at once.

    Args:
        phase: What it belongs to.
        message: Its text, without a line end.
        progress: The engine's words on a layer, by the layer's id.
    """
    line: dict[str, Any] = {"message": message + "\n", "phase": phase}
    if progress is not None:
        line["progress"] = progress
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
