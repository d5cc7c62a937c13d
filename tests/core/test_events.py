"""What a client sees."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_core import events
from binder_core.events import (
    EVENTS,
    Built,
    Event,
    Failed,
    LayerProgress,
    Progress,
    Pushing,
    Ready,
    Waiting,
)
from binder_core.ordering import LOG, Phase

SCHEMA = events.json_schema()


@given(st.one_of(*(st.from_type(event) for event in EVENTS)))
def test_what_is_encoded_is_decoded_and_keeps_to_the_schema(event: Event) -> None:
    data = events.encode(event)
    assert b"\n" not in data
    assert events.decode(data) == event
    wire = json.loads(data)
    jsonschema.validate(wire, SCHEMA)
    assert wire["phase"] == event.phase
    assert wire["message"].endswith(("\n", "\r"))


@given(
    phase=st.sampled_from(sorted(LOG)),
    message=st.text() | st.text().map("{}\n".format) | st.text().map("{}\r".format),
    progress=st.none() | st.just({"a": LayerProgress(1, 2), "b": "Pushed"}),
)
def test_a_line_is_encoded_as_its_event_is(
    phase: Phase, message: str, progress: Progress | None
) -> None:
    event = events.log_event(phase, message, progress)
    assert events.encode_line(phase, message, progress) == events.encode(event)


def test_every_phase_has_one_event() -> None:
    assert [event.PHASE for event in EVENTS] == list(Phase)


def test_names_on_the_wire_are_those_of_the_contract() -> None:
    progress: Progress = {"a": LayerProgress(1, 2), "b": "Pushed"}
    assert json.loads(events.encode(Built(message="x", image="i"))) == {
        "phase": "built",
        "message": "x\n",
        "imageName": "i",
    }
    assert json.loads(events.encode(Pushing(message="x\r", progress=progress))) == {
        "phase": "pushing",
        "message": "x\r",
        "progress": {"a": {"current": 1, "total": 2}, "b": "Pushed"},
    }
    assert json.loads(events.encode(Failed(message="x", status_code=404)))["status_code"] == 404
    assert set(json.loads(events.encode(Ready(message="x")))) == {"phase", "message"}


def test_a_recorded_stream_is_understood() -> None:
    recorded = Path(__file__).parent.parent / "records" / "fullbuild.eventsource"
    seen = set()
    for line in recorded.read_text().splitlines():
        data = line.removeprefix("data: ")
        if line.startswith("data: ") and json.loads(data).get("phase", "unknown") != "unknown":
            seen.add(events.decode(data).phase)
    assert {Phase.WAITING, Phase.BUILDING, Phase.BUILT, Phase.LAUNCHING, Phase.READY} <= seen


@pytest.mark.parametrize("data", ["", "1", "{}", '{"phase": "nonsense", "message": ""}'])
def test_what_is_no_event_is_refused(data: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        events.decode(data)


def test_events_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Waiting(message="x").message = "y"  # type: ignore[misc] # that is the point
