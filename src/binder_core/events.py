r"""What a client sees: one frozen struct per phase, tagged by ``phase``.

``message`` always ends in a newline, unless it is a progress line that the next one overwrites
(``\r``). An event is encoded once, however many watch; see `binder_core.journal`.

Source: the BinderHub event API ("Events").
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from binder_core.ordering import Phase

_ENDS: Final = ("\n", "\r")
# A member of an enum takes longer to find by its name.
_BUILDING, _FETCHING = Phase.BUILDING, Phase.FETCHING


class LayerProgress(msgspec.Struct, frozen=True):
    """How much of one image layer is pushed."""

    current: int
    """Bytes pushed."""
    total: int
    """Bytes in all."""


Progress: TypeAlias = dict[str, LayerProgress | str]
"""By layer: bytes, or ``"Pushed"``, or ``"Layer already exists"``."""


class _Event(msgspec.Struct, frozen=True, tag_field="phase", kw_only=True, omit_defaults=True):
    PHASE: ClassVar[Phase]

    message: str
    r"""For a person to read; ends in a newline or, if the next one overwrites it, ``\r``."""

    def __post_init__(self) -> None:
        if not self.message.endswith(_ENDS):
            msgspec.structs.force_setattr(self, "message", self.message + "\n")

    @property
    def phase(self) -> Phase:
        """Return the phase, which is the tag on the wire."""
        return self.PHASE


class Waiting(_Event, frozen=True, tag="waiting"):
    """A build was asked for and has not started."""

    PHASE = Phase.WAITING


class Fetching(_Event, frozen=True, tag="fetching"):
    """A line of the log while the repository is fetched."""

    PHASE = Phase.FETCHING


class Building(_Event, frozen=True, tag="building"):
    """A line of the builder's log."""

    PHASE = Phase.BUILDING


class Pushing(_Event, frozen=True, tag="pushing"):
    """The image is being pushed."""

    PHASE = Phase.PUSHING

    progress: Progress | UnsetType = UNSET


class Built(_Event, frozen=True, tag="built"):
    """The image exists."""

    PHASE = Phase.BUILT

    image: str = msgspec.field(name="imageName")
    """An implementation detail of the server, told for people's eyes."""


class Launching(_Event, frozen=True, tag="launching"):
    """A server is being started from the image."""

    PHASE = Phase.LAUNCHING


class Ready(_Event, frozen=True, tag="ready"):
    """The last event of a good end: the server answers at ``url`` and takes ``token``.

    Where only a build was asked for there is no server, hence neither of the two.
    """

    PHASE = Phase.READY

    url: str | UnsetType = UNSET
    token: str | UnsetType = UNSET
    image: str | UnsetType = UNSET
    image_name: str | UnsetType = msgspec.field(name="imageName", default=UNSET)
    repo_url: str | UnsetType = UNSET
    binder_ref_url: str | UnsetType = UNSET
    binder_launch_host: str | UnsetType = UNSET
    binder_request: str | UnsetType = UNSET
    binder_persistent_request: str | UnsetType = UNSET


class Failed(_Event, frozen=True, tag="failed"):
    """The last event of a bad end."""

    PHASE = Phase.FAILED

    status_code: int | UnsetType = UNSET
    """An HTTP status: EventSource cannot read that of the response."""


Event: TypeAlias = Waiting | Fetching | Building | Pushing | Built | Launching | Ready | Failed

EVENTS: tuple[type[Event], ...] = (
    Waiting, Fetching, Building, Pushing, Built, Launching, Ready, Failed,
)  # fmt: skip

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)

encode = _encode = _encoder.encode
"""Return an event as JSON, on one line."""


def encode_line(phase: Phase, message: str, progress: Progress | None = None) -> bytes:
    """Return what ``encode(log_event(...))`` does, without the event: there are many lines.

    Args:
        phase: One of `binder_core.ordering.LOG`.
        message: The line.
        progress: Bytes by layer, while pushing.
    """
    if progress is None and message.endswith(_ENDS):
        if phase is _BUILDING:
            return b'{"phase":"building","message":%b}' % _encode(message)
        if phase is _FETCHING:
            return b'{"phase":"fetching","message":%b}' % _encode(message)
    return _encode(log_event(phase, message, progress))


def decode(data: bytes | str) -> Event:
    """Return the event that `data` holds.

    Raises:
        msgspec.ValidationError: It is no event.
    """
    return _decoder.decode(data)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of an event on the wire."""
    return msgspec.json.schema(Event)


def log_event(phase: Phase, message: str, progress: Progress | None = None) -> Event:
    """Return the event that tells a line of a build's log.

    Args:
        phase: One of `binder_core.ordering.LOG`.
        message: The line.
        progress: Bytes by layer, while pushing.
    """
    match phase:
        case Phase.FETCHING:
            return Fetching(message=message)
        case Phase.PUSHING:
            return Pushing(message=message, progress=UNSET if progress is None else progress)
        case _:
            return Building(message=message)
