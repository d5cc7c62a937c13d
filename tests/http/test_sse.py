from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import anyio
import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import given
from hypothesis import strategies as st

from binder_core import events
from binder_core.events import Building, Failed, Waiting
from binder_core.journal import Told
from binder_http import sse
from binder_http.stream import chunks


def parsed(stream: bytes) -> list[tuple[str, str]]:
    """Return id and data of each event, as another library reads them."""
    lines, decoder = SSELineDecoder(), SSEDecoder()
    found = [decoder.decode(line) for line in lines.decode(stream.decode()) + lines.flush()]
    return [(one.id, one.data) for one in found if one is not None]


def test_an_event_with_an_id() -> None:
    told = Told.of(Waiting(message="hm\n"), "run-1.7")
    assert sse.frame(told) == (b'id: run-1.7\ndata: {"phase":"waiting","message":"hm\\n"}\n\n')


def test_an_event_without_an_id() -> None:
    told = Told.of(Waiting(message="hm\n"))
    assert sse.frame(told) == b'data: {"phase":"waiting","message":"hm\\n"}\n\n'


def test_a_frame_is_made_once() -> None:
    told = Told.of(Waiting(message="hm\n"))
    assert sse.frame(told) is sse.frame(told)
    assert sse.frames([told]) == told.frame


@given(st.lists(st.text(), min_size=1), st.text(st.sampled_from("aZ09-_.~"), min_size=1))
def test_whatever_is_said_is_one_data_line(messages: list[str], event_id: str) -> None:
    batch = [Told.of(Building(message=message), event_id) for message in messages]
    stream = sse.frames(batch)
    assert stream.count(b"\ndata: ") == len(batch)
    assert parsed(stream) == [(event_id, told.data.decode()) for told in batch]
    assert [events.decode(data) for _, data in parsed(stream)] == [told.event for told in batch]


def test_nothing_new_is_a_heartbeat() -> None:
    assert sse.frames([]) == b":heartbeat\n\n"
    assert parsed(sse.HEARTBEAT) == []


def test_the_hint_when_to_come_back() -> None:
    told = Told.of(Waiting(message="hm\n"), "r.1")
    assert sse.retry(2.5) == b"retry: 2500\n"
    assert parsed(sse.retry(2.5) + sse.frame(told)) == [("r.1", told.data.decode())]


class Story:
    """Batches, and whether they were let go."""

    def __init__(self, *batches: Sequence[Told], then: asyncio.Event | None = None) -> None:
        self.batches, self.then, self.closed = batches, then, False

    async def tell(self) -> AsyncGenerator[Sequence[Told]]:
        try:
            for batch in self.batches:
                yield batch
            if self.then is not None:
                await self.then.wait()
        finally:
            self.closed = True


LINE = Told.of(Building(message="line\n"), "r.1")
LAST = Told.of(Failed(message="no\n"), "r.2.end")


@pytest.mark.anyio
async def test_each_batch_is_one_chunk() -> None:
    story = Story([], [LINE, LINE], [], [LAST])
    stream = chunks(story.tell(), retry=1, linger=0, closing=asyncio.Event())
    assert [chunk async for chunk in stream] == [
        sse.HEARTBEAT, sse.retry(1) + sse.frame(LINE) * 2, sse.HEARTBEAT, sse.frame(LAST),
    ]  # fmt: skip
    assert story.closed


@pytest.mark.anyio
async def test_after_the_last_event_the_stream_lingers() -> None:
    closing = asyncio.Event()
    stream = chunks(Story([LAST]).tell(), retry=1, linger=0.2, closing=closing)
    assert await anext(stream) == sse.retry(1) + sse.frame(LAST)
    began = anyio.current_time()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert 0.19 <= anyio.current_time() - began < 2


@pytest.mark.anyio
async def test_nobody_lingers_when_the_server_stops() -> None:
    closing = asyncio.Event()
    stream = chunks(Story([LAST]).tell(), retry=1, linger=3600, closing=closing)
    await anext(stream)
    closing.set()
    with anyio.fail_after(5), pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.anyio
async def test_a_stream_without_a_last_event_does_not_linger() -> None:
    stream = chunks(Story([LINE]).tell(), retry=1, linger=3600, closing=asyncio.Event())
    with anyio.fail_after(5):
        assert len([chunk async for chunk in stream]) == 1


@pytest.mark.anyio
async def test_who_leaves_lets_the_story_go_and_stays_cancelled() -> None:
    story = Story([LINE], then=asyncio.Event())
    stream = chunks(story.tell(), retry=1, linger=0, closing=asyncio.Event())

    written = asyncio.Event()

    async def write() -> None:
        async for _ in stream:
            written.set()

    task = asyncio.create_task(write())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert story.closed
