"""Events as servers send them, made into those of `binder_core.events`.

A server of ours sends just these. Today's BinderHub also sends lines without a phase, the phase
``unknown``, phases in capitals, a bare ``{"phase": "failed"}``, and ``ready`` without some fields.
Nothing that a server sends raises: a log line may be any text.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from binder_core.events import (
    Built,
    Event,
    Failed,
    Launching,
    LayerProgress,
    Progress,
    Pushing,
    Ready,
    decode,
    log_event,
)
from binder_core.ordering import Phase, log_phase

NO_REASON: Final = "The server gave no reason."

_PHASES: Final = {phase.value: phase for phase in Phase}
_READY_TEXTS: Final = (
    "url",
    "token",
    "image",
    "imageName",
    "repo_url",
    "binder_ref_url",
    "binder_launch_host",
    "binder_request",
    "binder_persistent_request",
)


def read(data: str, before: Phase | None) -> Event:
    """Return the event that `data` means.

    Args:
        data: What stood in the ``data:`` fields.
        before: The phase of the event before, for lines that name none.
    """
    try:
        event = decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _lenient(data, before)
    if isinstance(event, Failed) and not event.message.strip():
        return Failed(message=NO_REASON, status_code=event.status_code)
    return event


def _lenient(data: str, before: Phase | None) -> Event:
    try:
        fields = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _line(data, None, before)
    if not isinstance(fields, dict):
        return _line(data, None, before)
    said = fields.get("phase")
    name = said.lower() if isinstance(said, str) else None
    message = _text(fields.get("message"))
    match phase := _PHASES.get(name or ""):
        case None:
            return _line(message, Phase.BUILDING if name == "unknown" else None, before)
        case Phase.FAILED:
            code = fields.get("status_code")
            status_code = code if type(code) is int else msgspec.UNSET
            return Failed(
                message=message if message.strip() else NO_REASON, status_code=status_code
            )
        case Phase.PUSHING:
            return Pushing(message=message, progress=_progress(fields.get("progress")))
        case Phase.BUILT:
            return Built(message=message, image=_text(fields.get("imageName")))
        case Phase.READY:
            texts = {key: fields[key] for key in _READY_TEXTS if isinstance(fields.get(key), str)}
            return msgspec.convert({"phase": "ready", "message": message, **texts}, Ready)
        case _:
            simple: Event = msgspec.convert({"phase": phase.value, "message": message}, Event)
            return simple


def _line(message: str, said: Phase | None, before: Phase | None) -> Event:
    if before in (Phase.BUILT, Phase.LAUNCHING):
        return Launching(message=message)
    return log_event(log_phase(before, said), message)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)


def _progress(value: Any) -> Progress | msgspec.UnsetType:
    if not isinstance(value, dict):
        return msgspec.UNSET
    layers: Progress = {}
    for name, layer in value.items():
        if isinstance(layer, str):
            layers[name] = layer
        elif isinstance(layer, dict):
            try:
                layers[name] = msgspec.convert(layer, LayerProgress)
            except msgspec.ValidationError:
                continue  # "Preparing" comes as an empty object
    return layers
