"""The clients against a server on a real socket that does what it should not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

import anyio
import httpx
import pytest
from scripted import STREAM, Asked, Reply, Script, frame, resuming, scripted

from binder_core.errors import BinderError, BuildFailed, ConfigError, LaunchFailed
from binder_core.events import Event
from binder_http.client import (
    BlockingClient,
    Client,
    Patience,
    ServerUnavailable,
    UnexpectedAnswer,
    launch_sync,
)
from binder_http.remote import Remote

pytestmark = [
    pytest.mark.anyio,
    # Under trio every stream of httpx that is not read to its end says so, closed or not.
    pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Async generator 'httpcore:ResourceWarning"),
]

RECORD: Final = Path(__file__).parents[1] / "records" / "fullbuild.eventsource"
HURRIED: Final = Patience(give_up=0.3, silence=5.0, delay=0.0, max_delay=0.0)
TOKEN: Final = "s3cret-t0ken"
SPEC: Final = "gh/user/repo/HEAD"

FRAMES: Final = [
    ("", b"retry: 1\n" + frame('{"phase":"waiting","message":"w\\n"}')),
    ("r.1", frame('{"phase":"fetching","message":"f\\n"}', "r.1")),
    ("", b":heartbeat\n\n"),
    ("r.2", frame('{"phase":"building","message":"\u00e9\\r"}', "r.2")),
    ("r.3", frame('{"phase":"built","message":"b\\n","imageName":"i"}', "r.3")),
    ("h.1", frame('{"phase":"ready","message":"r\\n","url":"http://n/","token":"t"}', "h.1")),
]
WHOLE: Final = b"".join(data for _, data in FRAMES)
PHASES: Final = ["waiting", "fetching", "building", "built", "ready"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def once(*replies: Reply) -> Script:
    """Send each reply once, the last one for ever."""
    return lambda _asked, before: replies[min(before, len(replies) - 1)]


def cutting(make: Callable[[bytes], Reply]) -> Script:
    """Send the first time what `make` makes of the stream, then the rest in full."""

    def script(asked: Asked, before: int) -> Reply:
        body = resuming(FRAMES, asked.headers.get("last-event-id", ""))
        return Reply(STREAM + body) if before else make(body)

    return script


def chunked(*chunks: bytes) -> bytes:
    head = STREAM.replace(b"connection: close", b"transfer-encoding: chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


async def told(script: Script, patience: Patience = HURRIED) -> list[Event]:
    with scripted(script) as server:
        async with Client(server.url, patience=patience) as client:
            return [event async for event in client.launch(SPEC)]


def told_blocking(script: Script, patience: Patience = HURRIED) -> list[Event]:
    with scripted(script) as server:
        return list(launch_sync(server.url, SPEC, patience=patience))


def phases(events: list[Event]) -> list[str]:
    return [event.phase for event in events]


# -- Reconnects -----------------------------------------------------------------------------------


async def test_a_whole_stream() -> None:
    events = await told(once(Reply(STREAM + WHOLE, size=7)))
    assert phases(events) == PHASES
    assert events[2].message == "\u00e9\r"


def test_a_cut_at_every_byte_on_a_real_connection() -> None:
    def script(asked: Asked, before: int) -> Reply:
        body = resuming(FRAMES, asked.headers.get("last-event-id", ""))
        return Reply(STREAM + (body if before % 2 else body[: before // 2]))

    with scripted(script) as server, BlockingClient(server.url, patience=HURRIED) as client:
        for _ in range(len(WHOLE)):
            assert phases(list(client.launch(SPEC))) == PHASES
        assert len(server.asked) == 2 * len(WHOLE)


@pytest.mark.parametrize(
    "make",
    [
        lambda body: Reply(STREAM + body[:90], then="reset"),
        lambda body: Reply(chunked(body[:90])),
        lambda body: Reply(chunked(body[:90])[:-30]),
        lambda _: Reply(b""),
        lambda _: Reply(STREAM[:30]),
        lambda _: Reply(b"", then="reset"),
        lambda _: Reply(b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno"),
        lambda _: Reply(b"HTTP/1.1 503 Oh\r\ncontent-type: text/html\r\n\r\n<h1>Down</h1>"),
        lambda _: Reply(STREAM),
        lambda _: Reply(STREAM + b":heartbeat\n\n"),
    ],
)
async def test_any_trouble_is_overcome(make: Callable[[bytes], Reply]) -> None:
    assert phases(await told(cutting(make))) == PHASES
    assert phases(await anyio.to_thread.run_sync(told_blocking, cutting(make))) == PHASES


async def test_a_reconnect_says_what_was_told() -> None:
    lost: list[tuple[str, float]] = []
    with scripted(cutting(lambda body: Reply(STREAM + body[:-20]))) as server:
        async with Client(
            server.url, token=TOKEN, patience=HURRIED, on_trouble=lambda *what: lost.append(what)
        ) as client:
            assert phases([event async for event in client.launch(SPEC)]) == PHASES
    first, second = server.asked
    assert "last-event-id" not in first.headers
    assert second.headers["last-event-id"] == "r.3"
    for asked in server.asked:
        assert asked.headers["accept"] == "text/event-stream"
        assert asked.headers["authorization"] == f"Bearer {TOKEN}"
        assert asked.target == f"/build/{SPEC}"
    assert lost == [("the stream broke off", 0.0)]


async def test_a_silent_connection_is_dead() -> None:
    impatient = Patience(give_up=5.0, silence=0.1, delay=0.0, max_delay=0.0)
    script = cutting(lambda body: Reply(STREAM + body[:90], then="hang"))
    with scripted(script) as server:
        async with Client(server.url, patience=impatient) as client:
            assert phases([event async for event in client.launch(SPEC)]) == PHASES
        assert server.left.wait(5)
    assert phases(await anyio.to_thread.run_sync(told_blocking, script, impatient)) == PHASES


async def test_a_heartbeat_keeps_a_connection_alive() -> None:
    """Each byte comes in time, the events do not."""
    beats = threading.Event()

    def script(_asked: Asked, before: int) -> Reply:
        assert not before, "one connection is enough"
        beats.set()
        return Reply(chunked(*[b":heartbeat\n\n"] * 400, WHOLE), size=64)

    patient = Patience(give_up=0.0, silence=2.0)
    assert phases(await told(script, patient)) == PHASES
    assert beats.is_set()


async def test_it_gives_up_and_says_so() -> None:
    started = time.monotonic()
    slow = Patience(give_up=0.2, silence=5.0, delay=0.05, max_delay=0.1)
    with pytest.raises(ServerUnavailable, match=r"answered 502. Nothing new came") as caught:
        await told(once(Reply(b"HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n")), slow)
    assert 0.2 <= time.monotonic() - started < 5
    assert caught.value.status == 503
    with pytest.raises(ServerUnavailable, match="the stream broke off"):
        await anyio.to_thread.run_sync(told_blocking, once(Reply(STREAM)), slow)


async def test_204_is_the_end() -> None:
    ended = Reply(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert await told(once(ended)) == []
    events = await told(once(Reply(STREAM + WHOLE[:90]), ended))
    assert phases(events) == ["waiting"]
    with scripted(once(ended)) as server:
        async with Client(server.url) as client:
            with pytest.raises(BinderError, match="has ended before"):
                await client.ready(SPEC)


async def test_leaving_early_closes_the_connection() -> None:
    with scripted(once(Reply(STREAM + WHOLE[:200], then="hang"))) as server:
        async with Client(server.url) as client:
            async with aclosing(client.launch(SPEC)) as events:
                async for event in events:
                    assert event.phase == "waiting"
                    break
            assert server.left.wait(5)
    with (
        scripted(once(Reply(STREAM + WHOLE[:200], then="hang"))) as server,
        BlockingClient(server.url) as blocking,
    ):
        stream = blocking.launch(SPEC)
        assert next(stream).phase == "waiting"
        stream.close()
        assert server.left.wait(5)


async def test_a_recorded_stream_of_todays_binderhub() -> None:
    recorded = RECORD.read_bytes()
    body = recorded.replace(b"\n", b"\n\n")
    whole = await told(once(Reply(STREAM + body)))
    assert len(whole) == recorded.count(b"\n")
    assert whole[-1].phase == "ready"
    # It knows no ids: what it tells again is dropped.
    halfway = len(body) // 2
    assert await told(once(Reply(STREAM + body[:halfway]), Reply(STREAM + body))) == whole


# -- Answers that are no stream -------------------------------------------------------------------


def page(status: str, kind: str, body: str, more: str = "") -> Reply:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return Reply((head + body).encode())


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (
            page("200 OK", "text/html; charset=x", "<title>\nLog\x1b in</title>"),
            200,
            r"answered 200 with an HTML page, no event stream: Log in. .*base URL",
        ),
        (page("404 Not Found", "text/html", "<h1>Not <b>here</b></h1>"), 404, "Not here"),
        (page("403 Forbidden", "text/plain", "who?"), 403, r"who\?. It does not accept this token"),
        (page("400 Bad", "application/json", '{"m": 1}'), 400, r"400 with application/json"),
        (page("400 Bad", "application/json", '{"message": "so\\u001bno"}'), 400, r": so no$"),
        (
            Reply(b'HTTP/1.1 400 Bad\r\n\r\n{"message": "\xff"}'),
            400,
            "answered 400 with no content",
        ),
        (page("429 No", "text/plain", "", "retry-after: 7\r\n"), 429, "try again in 7 s"),
        (page("429 No", "text/plain", ""), 429, "try again later"),
        (page("200 OK", "text/plain", f"You said {TOKEN}!"), 200, "You said …!"),
        (page("418 Tea", "x/y", "long " * 2000), 418, r"long… *|long …"),
        (Reply(b"HTTP/1.1 302 F\r\nlocation: gopher://x/\r\n\r\n"), 500, "redirects to nowhere"),
    ],
)
async def test_other_answers_are_told_in_words(reply: Reply, status: int, words: str) -> None:
    with scripted(once(reply)) as server:
        async with Client(server.url, token=TOKEN) as client:
            with pytest.raises(UnexpectedAnswer, match=words) as caught:
                await client.ready(SPEC)
        with (
            BlockingClient(server.url, token=TOKEN) as blocking,
            pytest.raises(UnexpectedAnswer, match=words),
        ):
            blocking.ready(SPEC)
    text = str(caught.value)
    assert caught.value.status == status
    assert text.startswith(server.url)
    assert TOKEN not in text
    assert len(text) < 700
    assert text.isprintable()
    assert len(server.asked) == 2, "no second try is worth it"


async def test_a_server_that_wants_a_token() -> None:
    with pytest.raises(UnexpectedAnswer, match="It wants a token"):
        await told(once(page("401 No", "text/plain", "")))


async def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with Client(url) as client:
            with pytest.raises(ServerUnavailable, match=rf"{url}: no connection .*running"):
                await client.ready(SPEC)
        with BlockingClient(url) as blocking, pytest.raises(ServerUnavailable, match="running"):
            blocking.ready(SPEC)


async def test_something_that_speaks_no_http() -> None:
    with pytest.raises(ServerUnavailable, match="broke off"):
        await told(once(Reply(b"SSH-2.0-OpenSSH_9.2\r\n")))


# -- The outcome ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "kind", "status"),
    [
        (FRAMES[:2], BuildFailed, 500),
        (FRAMES[:5], LaunchFailed, 500),
        ([], BinderError, 404),
    ],
)
async def test_a_bad_end_is_an_error_for_who_wants_ready(
    frames: list[tuple[str, bytes]], kind: type[BinderError], status: int
) -> None:
    code = "" if frames else ',"status_code":404'
    failed = frame('{"phase":"failed","message":"the reason\\n"%s}' % code)  # noqa: UP031 - braces
    body = b"".join(data for _, data in frames) + failed
    with scripted(once(Reply(STREAM + body))) as server:
        async with Client(server.url) as client:
            with pytest.raises(BinderError, match=r"^the reason$") as caught:
                await client.ready(SPEC)
        with BlockingClient(server.url) as blocking, pytest.raises(kind):
            blocking.ready(SPEC)
    assert type(caught.value) is kind
    assert caught.value.status == status


async def test_a_good_end() -> None:
    with scripted(once(Reply(STREAM + WHOLE))) as server:
        async with Client(server.url) as client:
            ready = await client.ready(SPEC, build_only=True)
        with BlockingClient(server.url) as blocking:
            assert blocking.ready(SPEC) == ready
    assert (ready.url, ready.token) == ("http://n/", "t")
    assert [asked.target for asked in server.asked] == [
        f"/build/{SPEC}?build_only=true",
        f"/build/{SPEC}",
    ]


async def test_a_client_of_the_callers_own_is_not_closed() -> None:
    with scripted(once(Reply(STREAM + WHOLE))) as server:
        async with httpx.AsyncClient() as http:
            async with Client(server.url, http=http) as client:
                await client.ready(SPEC)
            assert not http.is_closed
        with httpx.Client() as plain:
            with BlockingClient(server.url, http=plain) as blocking:
                blocking.ready(SPEC)
            assert not plain.is_closed


# -- URLs and tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("gh/user/repo/HEAD", "/build/gh/user/repo/HEAD"),
        ("git/https%3A%2F%2Fh%2Fr.git/a%2Fb", "/build/git/https%3A%2F%2Fh%2Fr.git/a%2Fb"),
        ("gh/u/r/é ?#\n", "/build/gh/u/r/%C3%A9%20%3F%23%0A"),
        ("gh/../../x/./y", "/build/gh/%2E%2E/%2E%2E/x/%2E/y"),
        ("gh/u/r/100%", "/build/gh/u/r/100%25"),
        ("/gh/u/r/HEAD/", "/build/gh/u/r/HEAD"),
    ],
)
async def test_a_spec_arrives_as_it_was_given(spec: str, path: str) -> None:
    with scripted(once(Reply(STREAM + WHOLE))) as server:
        async with Client(server.url + "/base/") as client:
            await client.ready(spec)
        assert server.asked[0].target == f"/base{path}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8585", "did you mean http://localhost:8585"),
        ("ftp://host/", "does not start with http"),
        ("", "looks like"),
        ("http://", "and a host"),
        ("http://[::1", "the server's URL is none"),
        ("http://h:99999", "the server's URL is none"),
    ],
)
def test_a_url_that_is_none(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Client(url)


@pytest.mark.parametrize("token", ["two words", "new\nline", "schlüssel"])
def test_a_token_that_is_none(token: str) -> None:
    with pytest.raises(ConfigError, match="copied whole") as caught:
        Client("http://h", token=token)
    assert token not in str(caught.value)


def test_the_token_of_a_pasted_url_moves_to_the_header() -> None:
    remote = Remote("http://user:pw@127.0.0.1:8585/base/?token=abc", None)
    assert remote.shown == "http://127.0.0.1:8585/base"
    assert remote.headers == {"authorization": "Bearer abc"}
    assert remote.build_url("gh/u/r/HEAD", build_only=False) == (
        "http://user:pw@127.0.0.1:8585/base/build/gh/u/r/HEAD"
    )
    assert Remote("http://[::1]:80/?token=abc", "other").headers["authorization"] == "Bearer other"
    assert Remote("http://[::1]:80/", None).shown == "http://[::1]:80"
