from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest
from httpx_sse import EventSource, ServerSentEvent
from hypothesis import given
from hypothesis import strategies as st
from scripted import frame, resuming

from binder_core.events import (
    Building,
    Built,
    Event,
    Failed,
    Fetching,
    Launching,
    LayerProgress,
    Pushing,
    Ready,
    Waiting,
    encode,
)
from binder_core.ordering import Phase
from binder_http.dialects import NO_REASON, read
from binder_http.following import (
    MAX_RETRY,
    Answer,
    Follower,
    Overlap,
    Patience,
    ServerUnavailable,
    worth_a_retry,
)

RECORD = Path(__file__).parents[1] / "records" / "fullbuild.eventsource"
STREAM = "text/event-stream"

TOLD: list[tuple[str, Event]] = [
    ("", Waiting(message="2 builds before this one")),
    ("", Waiting(message="1 build before this one")),
    ("", Waiting(message="1 build before this one")),
    ("run.1", Fetching(message="Cloning é…")),
    ("run.2", Building(message="10 %\r")),
    ("run.3", Building(message="10 %\r")),
    ("", Building(message="… 7 lines left out …")),
    ("run.11", Pushing(message="", progress={"a": LayerProgress(1, 2), "b": "Pushed"})),
    ("run.12", Built(message="built", image="i:1")),
    ("~h.1", Launching(message="starting")),
    ("~h.2", Ready(message="ready", url="http://127.0.0.1:1/", token="t")),
]
EVENTS = [event for _, event in TOLD]


def frames_of(told: list[tuple[str, Event]]) -> list[tuple[str, bytes]]:
    return [(name, frame(encode(event).decode(), name)) for name, event in told]


def follow(frames: list[tuple[str, bytes]], cuts: list[int]) -> list[Event]:
    """Return what is told when the connections are cut after so many bytes, the last one never."""
    follower = Follower("http://server", Patience())
    events: list[Event] = []
    for cut in [*cuts, None]:
        after = follower.headers().get("last-event-id", "")
        body = resuming(frames, after)[:cut]
        assert follower.answered(200, STREAM, 0.0) is Answer.STREAM
        response = httpx.Response(200, headers={"content-type": STREAM}, content=body)
        for sse in EventSource(response).iter_sse():
            events += follower.heard(sse)
        if follower.ended():
            break
        follower.broke("cut", 0.0)
    return events


# -- Each event once ------------------------------------------------------------------------------


def test_a_cut_at_any_byte_neither_loses_nor_repeats_an_event() -> None:
    frames = frames_of(TOLD)
    for cut in range(len(resuming(frames, ""))):
        assert follow(frames, [cut]) == EVENTS, cut


@given(st.lists(st.integers(0, 900), max_size=6))
def test_nor_do_many_cuts(cuts: list[int]) -> None:
    assert follow(frames_of(TOLD), cuts) == EVENTS


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=12),
    st.lists(st.integers(0, 400), max_size=4),
)
def test_nor_with_any_mixture_of_ids(lines: list[tuple[bool, str]], cuts: list[int]) -> None:
    told: list[tuple[str, Event]] = [
        (f"r.{n}" if numbered else "", Building(message=text))
        for n, (numbered, text) in enumerate(lines, 1)
    ]
    told.append(("end", Failed(message="no")))
    assert follow(frames_of(told), cuts) == [event for _, event in told]


@given(st.lists(st.sampled_from("ab"), max_size=10), st.lists(st.integers(0, 400), max_size=4))
def test_a_server_that_knows_no_ids_tells_its_log_from_the_start(
    lines: list[str], cuts: list[int]
) -> None:
    told: list[tuple[str, Event]] = [("", Waiting(message="wait"))]
    told += [("", Building(message=text)) for text in lines]
    told.append(("", Ready(message="r", url="u", token="t")))
    assert follow(frames_of(told), cuts) == [event for _, event in told]


def test_a_server_that_knows_no_ids_tells_the_end_of_its_log() -> None:
    told: list[Event] = [Building(message=f"line {n}") for n in range(10)]
    overlap = Overlap([Waiting(message="w"), *told[:7]])
    again = [Waiting(message="w"), *told[4:]]
    assert [new for event in again for new in overlap.take(event)] == told[7:]


def test_what_only_began_like_something_told_is_told() -> None:
    a, b, c = Building(message="a"), Building(message="b"), Building(message="c")
    overlap = Overlap([a, b, a, b, b])
    assert [overlap.take(event) for event in (a, b, c, a)] == [[], [], [a, b, c], [a]]


def test_the_longest_stretch_that_fits_is_dropped() -> None:
    a, b = Building(message="a"), Building(message="b")
    overlap = Overlap([a, b, a, b])
    assert [overlap.take(event) for event in (a, b, a, b, a)] == [[], [], [], [], [a]]


# -- Frames ---------------------------------------------------------------------------------------


def test_a_frame_with_an_id_alone_moves_the_place() -> None:
    follower = Follower("s", Patience())
    assert follower.heard(ServerSentEvent(data="", id="r.5")) == []
    assert follower.headers()["last-event-id"] == "r.5"


def test_a_retry_alone_does_not_forget_the_place() -> None:
    follower = Follower("s", Patience(delay=9.0))
    follower.heard(ServerSentEvent(data='{"phase":"waiting","message":"w"}', id="r.5"))
    assert follower.heard(ServerSentEvent(data="", retry=250)) == []
    assert follower.headers()["last-event-id"] == "r.5"
    assert 0.18 < follower.broke("cut", 0.0) <= 0.25


def test_named_events_are_none_of_ours() -> None:
    follower = Follower("s", Patience())
    assert follower.heard(ServerSentEvent(event="ping", data='{"phase":"ready"}')) == []
    assert not follower.ended()


def test_nothing_is_told_after_the_last_event() -> None:
    follower = Follower("s", Patience())
    assert follower.heard(ServerSentEvent(data='{"phase":"failed"}')) == [Failed(message=NO_REASON)]
    assert follower.heard(ServerSentEvent(data='{"phase":"ready","message":""}')) == []
    assert follower.ended()


# -- Patience -------------------------------------------------------------------------------------


def test_the_wait_grows_and_starts_anew_when_something_new_was_told() -> None:
    follower = Follower("s", Patience(delay=1.0, max_delay=6.0, give_up=1000.0))
    waits = [follower.broke("cut", float(n)) for n in range(6)]
    for wait, most in zip(waits, (1, 2, 4, 6, 6, 6), strict=True):
        assert most * 0.75 <= wait <= most
    follower.heard(ServerSentEvent(data='{"phase":"waiting","message":"w"}'))
    assert follower.broke("cut", 9.0) <= 1.0


def test_it_gives_up_after_the_stated_time_without_anything_new() -> None:
    follower = Follower("http://server", Patience(give_up=10.0))
    follower.broke("cut", 100.0)
    assert follower.answered(200, STREAM, 101.0) is Answer.STREAM
    assert follower.broke("cut", 109.0) <= 1.0
    with pytest.raises(ServerUnavailable, match=r"http://server: cut. Nothing new .* 10 s"):
        follower.broke("cut", 110.0)


def test_what_was_told_before_is_nothing_new() -> None:
    follower = Follower("s", Patience(give_up=10.0))
    same = ServerSentEvent(data='{"phase":"waiting","message":"w"}')
    for now in (0.0, 4.0, 8.0):
        follower.answered(200, STREAM, now)
        follower.heard(same)
        follower.broke("cut", now)
    follower.answered(200, STREAM, 12.0)
    follower.heard(same)
    with pytest.raises(ServerUnavailable):
        follower.broke("cut", 12.0)


def test_a_silent_build_of_an_hour_is_no_trouble() -> None:
    follower = Follower("s", Patience(give_up=10.0, silence=5.0))
    follower.broke("cut", 0.0)
    follower.answered(200, STREAM, 1.0)
    assert follower.broke("cut", 3600.0) <= 1.0


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    follower = Follower("http://server", Patience())
    with pytest.raises(ServerUnavailable, match="Is the server running"):
        follower.refused("no connection", 0.0)
    follower.answered(502, "text/html", 0.0)
    assert follower.refused("no connection", 0.0) > 0


@pytest.mark.parametrize(("retry", "most"), [(-5, 0.05), (0, 0.05), (10**15, MAX_RETRY)])
def test_a_server_cannot_ask_for_any_wait(retry: int, most: float) -> None:
    follower = Follower("s", Patience(max_delay=1000.0, give_up=1000.0))
    follower.heard(ServerSentEvent(retry=retry))
    assert most * 0.75 <= follower.broke("cut", 0.0) <= most


def test_heads() -> None:
    follower = Follower("s", Patience())
    assert follower.answered(200, "Text/Event-Stream; charset=utf-8", 0.0) is Answer.STREAM
    assert follower.answered(200, "text/html", 0.0) is Answer.ERROR
    assert follower.answered(404, STREAM, 0.0) is Answer.ERROR
    assert not follower.ended()
    assert follower.answered(204, "", 0.0) is Answer.END
    assert follower.ended()
    assert [status for status in (200, 404, 408, 429, 500, 503) if worth_a_retry(status)] == [
        408,
        500,
        503,
    ]


# -- Dialects -------------------------------------------------------------------------------------


def test_a_recorded_stream_of_todays_binderhub() -> None:
    body = RECORD.read_bytes()
    assert body.count(b"\n\n") == 0, "one line per event, as it was recorded"
    follower = Follower("s", Patience())
    events = [
        event
        for line in body.decode().splitlines()
        for event in follower.heard(ServerSentEvent(data=line.removeprefix("data: ")))
    ]
    assert len(events) == len(body.splitlines())
    assert follower.ended()
    phases = [event.phase for event in events]
    ranks = list(Phase)
    assert sorted(phases, key=ranks.index) == phases, "rank never falls"
    assert phases[:6] == ["waiting", "fetching", "fetching", "fetching", "building", "building"]
    assert all(event.message.endswith(("\n", "\r")) for event in events)
    ready = events[-1]
    assert isinstance(ready, Ready)
    assert ready.token == "tY_U1yMSSeKyCKPMg6GVIg"
    assert ready.url == "http://192.168.105.2:30902/user/binder-examples-octave-3ilc7xl2/"


@pytest.mark.parametrize(
    ("data", "before", "expected"),
    [
        ('{"phase":"unknown","message":"w"}', Phase.WAITING, Building(message="w")),
        ('{"phase":"unknown","message":"w"}', Phase.PUSHING, Pushing(message="w")),
        ('{"phase":"unknown","message":"w"}', Phase.LAUNCHING, Launching(message="w")),
        ('{"message":"m"}', Phase.FETCHING, Fetching(message="m")),
        ('{"message":"m"}', None, Fetching(message="m")),
        ('{"phase":"BUILDING","message":"m"}', None, Building(message="m")),
        ('{"phase":"Waiting","message":"m"}', None, Waiting(message="m")),
        ('{"phase":"failed"}', None, Failed(message=NO_REASON)),
        ('{"phase":"failed","message":"\\n"}', None, Failed(message=NO_REASON)),
        (
            '{"phase":"failed","message":null,"status_code":404}',
            None,
            Failed(message=NO_REASON, status_code=404),
        ),
        ('{"phase":"failed","message":"m","status_code":"x"}', None, Failed(message="m")),
        ('{"phase":"built"}', None, Built(message="", image="")),
        ('{"phase":"ready","url":"u","token":"t"}', None, Ready(message="", url="u", token="t")),
        ('{"phase":"READY","message":"m","url":7}', None, Ready(message="m")),
        (
            '{"phase":"pushing","progress":{"a":{},"b":"Pushed","c":{"current":1,"total":2},"d":9}}',
            None,
            Pushing(message="", progress={"b": "Pushed", "c": LayerProgress(1, 2)}),
        ),
        ('{"phase":"pushing","message":"m","progress":7}', None, Pushing(message="m")),
        ("12345", Phase.BUILDING, Building(message="12345")),
        ("Traceback:", Phase.BUILDING, Building(message="Traceback:")),
        ('{"phase":7,"message":8}', Phase.BUILDING, Building(message="8")),
    ],
)
def test_what_other_servers_say(data: str, before: Phase | None, expected: Event) -> None:
    assert read(data, before) == expected


@given(st.text() | st.from_type(dict).map(repr))
def test_nothing_a_server_says_raises(data: str) -> None:
    assert read(data, None).message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {"phase": st.sampled_from([*Phase, "unknown"]) | json_values},
        optional=dict.fromkeys(
            ("message", "progress", "url", "token", "imageName", "status_code"), json_values
        ),
    ),
    st.sampled_from([None, *Phase]),
)
def test_nor_does_an_object_of_any_shape(fields: dict[str, object], before: Phase | None) -> None:
    event = read(msgspec.json.encode(fields).decode(), before)
    if fields["phase"] in list(Phase):
        assert event.phase == fields["phase"]
