"""How far the push of an image is, read from what repo2docker prints.

Until 2024.x it told the engine's own words by layer, as ``progress`` of ``pushing`` lines. Since
2025.8 it calls ``docker buildx``, which says the same in lines of its ``building`` output::

    #11 pushing layer 01c74bf402b4 14.09MB / 243.57MB 1.0s
    #11 pushing layer 01c74bf402b4 14.4s done
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from binder_core.plugin import LayerProgress, Progress

PUSHED: Final = "Pushed"
EXISTS: Final = "Layer already exists"

_VERTEX: Final = re.compile(r"#(\d{1,6}) (.*)", re.DOTALL)
_PUSH: Final = re.compile(r"pushing (?:layers?|manifest|\S+ with docker)\b")
_LAYER: Final = re.compile(r"pushing layer (?:sha256:)?([0-9a-f]{6,64})\b(.*)", re.DOTALL)
_BYTES: Final = re.compile(
    r"\s(\d+(?:\.\d+)?)([kKMGT]?i?)B(?:\s*/\s*(\d+(?:\.\d+)?)([kKMGT]?i?)B)?"
)
_DONE: Final = re.compile(r"(?:^|\s)done\s*$")
_POWER: Final = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


class PushOutput:
    """What is known of each layer, in the words of the event stream."""

    def __init__(self) -> None:
        self._layers: Progress = {}
        self._vertices: set[str] = set()

    @property
    def progress(self) -> Progress | None:
        """Return all layers told of so far, None before the first."""
        return dict(self._layers) if self._layers else None

    def buildx_line(self, message: str) -> bool | None:
        """Take a line of ``docker buildx``.

        Returns:
            None if it is not about a push, else whether it changed what is known of a layer.
        """
        vertex = _VERTEX.match(message)
        if vertex is None:
            return None
        number, text = vertex.groups()
        if number not in self._vertices and _PUSH.match(text) is None:
            return None
        self._vertices.add(number)
        layer = _LAYER.match(text)
        if layer is None:
            if text.startswith("DONE"):
                return self.all_pushed()
            return False
        return self._note(layer[1], _buildx_state(layer[2]))

    def engine_progress(self, progress: Mapping[Any, Any]) -> bool:
        """Take the ``progress`` of a line of an older repo2docker; return whether it told news."""
        news = [self._note(str(name), _engine_state(state)) for name, state in progress.items()]
        return any(news)

    def all_pushed(self) -> bool:
        """Note that the push is complete; return whether that is news of any layer."""
        news = [self._note(name, PUSHED) for name in self._layers]
        return any(news)

    def _note(self, name: str, state: LayerProgress | str | None) -> bool:
        before = self._layers.get(name)
        # What has arrived has arrived; and a layer that has not begun has nothing to tell.
        if state is None or state == before or isinstance(before, str):
            return False
        self._layers[name] = state
        return True


def _buildx_state(text: str) -> LayerProgress | str | None:
    if "already exists" in text.lower():
        return EXISTS
    if _DONE.search(text):
        return PUSHED
    found = _BYTES.match(text)
    if found is None:
        return None
    current = _bytes(found[1], found[2])
    return _layer(current, _bytes(found[3], found[4]) if found[3] else current)


def _engine_state(state: object) -> LayerProgress | str | None:
    match state:
        case {"current": int(current), "total": int(total)}:
            return _layer(current, total)
        case {"current": int(current)}:
            return _layer(current, current)  # the engine does not know the size yet
        case str() if state.startswith("Mounted from") or state == EXISTS:
            return EXISTS
        case str() if state == PUSHED:
            return PUSHED
        case _:
            return None


def _layer(current: int, total: int) -> LayerProgress:
    # The engine compares what it sends with the size before packing: it can send more.
    return LayerProgress(current=min(current, total), total=total)


def _bytes(number: str, unit: str) -> int:
    base = 1024 if unit.endswith("i") else 1000
    return round(float(number) * float(base ** _POWER[unit[:1]]))
