"""The asker on a service that behaves: what it remembers, asks again, and tells whom."""

from __future__ import annotations

import gzip
import logging
import zlib

import anyio
import pytest
from hostile import FakeClock, Server, answer, in_turn, make_asker, raw, served

from binder_backends.asker import Credential, HttpGitAsker, NotAllowed, RateLimit
from binder_backends.asker.limits import rate_limit, retry_after
from binder_backends.asker.memory import Memory
from binder_core.plugin import (
    Answer,
    HttpGet,
    HttpReply,
    ProviderUnavailable,
    RefNotFound,
)

pytestmark = pytest.mark.anyio


async def get(asker: HttpGitAsker, url: str, **more: object) -> HttpReply:
    reply = await asker.ask(HttpGet(url, **more))  # type: ignore[arg-type] # for brevity
    assert isinstance(reply, HttpReply)
    return reply


async def test_what_did_not_change_is_not_sent_again() -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = in_turn(
            answer(200, {"ETag": 'W/"1"', "Vary": "Accept", "vary": "Cookie"}, b"one"),
            answer(304, {"ETag": 'W/"1"'}),
            answer(200, {"ETag": '"2"'}, b"two"),
            answer(304, {"ETag": '"2"'}),
        )
        replies = [await get(asker, server.url()) for _ in range(4)]
    assert [reply.body for reply in replies] == [b"one", b"one", b"two", b"two"]
    assert {reply.status for reply in replies} == {200}
    assert replies[0].headers["vary"] == "Accept, Cookie"
    sent = [request.headers.get("if-none-match") for request in server.requests]
    assert sent == [None, 'W/"1"', 'W/"1"', '"2"']
    # All through one connection.
    assert server.connections == 1


@pytest.mark.parametrize("status", [404, 422])
async def test_misses_are_remembered_for_five_minutes(status: int) -> None:
    clock = FakeClock()
    async with served() as server, make_asker(clock) as asker:
        server.routes["/"] = in_turn(answer(status), answer(200))
        for _ in range(3):
            assert (await get(asker, server.url())).status == status
            clock.time += 149
        assert len(server.requests) == 1
        assert (await get(asker, server.url())).status == 200
    assert len(server.requests) == 2


async def test_nothing_is_remembered_of_what_may_change_at_any_moment() -> None:
    headers = (("Cache-Control", "no-cache"),)
    async with served() as server, make_asker() as asker:
        server.routes["/"] = in_turn(
            answer(404), answer(200, {"etag": '"1"'}, b"one"), answer(200, {}, b"two")
        )
        replies = [await get(asker, server.url(), headers=headers) for _ in range(3)]
    assert [reply.body for reply in replies] == [b"", b"one", b"two"]
    assert all("if-none-match" not in request.headers for request in server.requests)


async def test_a_rate_limit_is_told_with_the_time_until_it_ends() -> None:
    clock = FakeClock()
    limits = {"X-RateLimit-Limit": "60", "X-RateLimit-Reset": str(int(clock.time) + 1000)}
    async with served() as server, make_asker(clock) as asker:
        server.routes["/"] = in_turn(
            answer(200, {**limits, "X-RateLimit-Remaining": "1"}),
            answer(403, {**limits, "X-RateLimit-Remaining": "0"}),
            answer(200, {**limits, "X-RateLimit-Remaining": "59"}),
        )
        await get(asker, server.url())
        assert asker.rate_limits == {"host.test": RateLimit(60, 1, clock.time + 1000)}
        for waited in (0, 999):
            clock.time += waited
            with pytest.raises(ProviderUnavailable, match=r"host\.test.*rate limit") as caught:
                await get(asker, server.url())
            assert caught.value.retry_after == 1000 - waited
        # While it lasts nobody asks; nor for other things.
        with pytest.raises(ProviderUnavailable):
            await get(asker, server.url("/other"))
        assert len(server.requests) == 2
        clock.time += 1
        assert (await get(asker, server.url())).status == 200
        assert asker.rate_limits["host.test"].remaining == 59


@pytest.mark.parametrize(("status", "headers", "wait"), [
    (429, {"Retry-After": "17"}, 17),
    (429, {"Retry-After": "Tue, 14 Nov 2023 22:15:20 GMT"}, 120),
    (429, {}, 60),
    (403, {"Retry-After": "0"}, 1),
    (429, {"Retry-After": "999999999999"}, 24 * 3600),
])  # fmt: skip
async def test_asked_too_often(status: int, headers: dict[str, str], wait: float) -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(status, headers)
        with pytest.raises(ProviderUnavailable) as caught:
            await get(asker, server.url())
        assert caught.value.retry_after == wait
        assert len(server.requests) == 1


async def test_a_403_for_other_reasons_is_an_answer() -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(403, {}, b"no")
        assert (await get(asker, server.url())).body == b"no"


async def test_the_log_grows_louder_as_the_limit_falls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "binder.asker")
    async with served() as server, make_asker() as asker:
        for remaining in (90, 40, 10, 0):
            server.routes["/"] = answer(
                200,
                {
                    "RateLimit-Limit": "100",
                    "RateLimit-Remaining": str(remaining),
                    "RateLimit-Reset": "30",
                },
            )
            await get(asker, server.url())
    told = [record.levelname for record in caplog.records if record.name == "binder.asker"]
    assert told == ["DEBUG", "INFO", "WARNING", "ERROR"]


def test_limits_are_read_in_every_dialect() -> None:
    assert rate_limit({}, 5) is None
    github = {
        "x-ratelimit-limit": "60",
        "x-ratelimit-remaining": "5",
        "x-ratelimit-reset": "2000000000",
    }
    assert rate_limit(github, 5) == RateLimit(60, 5, 2_000_000_000)
    gitlab = {"ratelimit-limit": "60", "ratelimit-remaining": "5", "ratelimit-reset": "30"}
    assert rate_limit(gitlab, 100) == RateLimit(60, 5, 130)
    assert rate_limit({**gitlab, "ratelimit-limit": "x"}, 100) is None
    assert rate_limit({**gitlab, "ratelimit-limit": "0"}, 100) is None
    assert retry_after({"retry-after": "soon"}, 0) is None
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 60) == 0


async def test_5xx_is_asked_again_later_and_later() -> None:
    clock = FakeClock()
    async with served() as server, make_asker(clock) as asker:
        server.routes["/"] = in_turn(answer(502), answer(500), answer(200, {}, b"good"))
        assert (await get(asker, server.url())).body == b"good"
        assert clock.slept == [0.5, 1.0]


async def test_the_last_5xx_is_the_answer() -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = in_turn(answer(502), answer(503, {}, b"down"))
        reply = await get(asker, server.url())
    assert (reply.status, reply.body) == (503, b"down")
    assert len(server.requests) == 3


async def test_a_service_that_says_when_to_come_back_is_not_asked_before() -> None:
    clock = FakeClock()
    async with served() as server, make_asker(clock) as asker:
        server.routes["/"] = answer(503, {"Retry-After": "120"})
        assert (await get(asker, server.url())).status == 503
        assert clock.slept == []


async def test_broken_connections_are_made_again() -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = in_turn(
            raw(b""),
            raw(b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nhalf"),
            answer(200, {}, b"good"),
        )
        assert (await get(asker, server.url())).body == b"good"


async def test_an_error_says_who_did_not_answer() -> None:
    async with served() as server:
        url = server.url()
    async with make_asker() as asker:
        with pytest.raises(ProviderUnavailable, match=r"connection to host\.test"):
            await get(asker, url)


async def test_a_silent_service() -> None:
    async def silent(*_: object) -> None:
        await anyio.sleep_forever()

    clock = FakeClock()
    async with served() as server, make_asker(clock, step_timeout=0.1, tries=2) as asker:
        server.routes["/"] = silent
        with pytest.raises(ProviderUnavailable, match=r"host\.test said nothing for 0\.1 s"):
            await get(asker, server.url())
    assert clock.slept == [0.5]


async def test_a_thousand_at_once_are_one_question() -> None:
    answers: list[Answer] = []
    go = anyio.Event()

    async def slowly(stream: anyio.abc.SocketStream, request: object) -> None:
        await go.wait()
        await answer(200, {}, b"x")(stream, request)  # type: ignore[arg-type] # passed on

    async with served() as server, make_asker() as asker:
        server.routes["/"] = slowly

        async def ask() -> None:
            answers.append(await get(asker, server.url()))

        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            go.set()
    assert len(server.requests) == 1
    assert len(answers) == 1000
    assert len(set(map(id, answers))) == 1


async def test_whoever_asks_may_leave() -> None:
    go = anyio.Event()
    answers: list[Answer] = []

    async def slowly(stream: anyio.abc.SocketStream, request: object) -> None:
        await go.wait()
        await answer(200, {}, b"x")(stream, request)  # type: ignore[arg-type] # passed on

    async with served() as server, make_asker() as asker:
        server.routes["/"] = slowly
        first = anyio.CancelScope()

        async def leave() -> None:
            with first:
                await get(asker, server.url())

        async def stay() -> None:
            answers.append(await get(asker, server.url()))

        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                group.start_soon(stay)
            await anyio.wait_all_tasks_blocked()
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            go.set()
    assert len(answers) == 3


async def test_everybody_gets_an_error_of_their_own() -> None:
    errors: list[ProviderUnavailable] = []
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(429, {"Retry-After": "9"})

        async def ask() -> None:
            try:
                await get(asker, server.url())
            except ProviderUnavailable as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
    assert len(set(map(id, errors))) == 3
    assert {error.retry_after for error in errors} == {9}
    assert len(server.requests) == 1


def auth(server: Server) -> list[tuple[str, str | None]]:
    return [(each.headers["host"], each.headers.get("authorization")) for each in server.requests]


async def test_a_credential_is_for_its_host_alone() -> None:
    async with served() as server:
        mine = f"mine.test:{server.port}"
        credentials = {mine: Credential(value="Bearer s3cret", plain_http=True)}
        async with make_asker(credentials=credentials) as asker:
            assert "s3cret" not in repr(asker.Settings) + repr(credentials)
            server.routes["/back"] = answer(302, {"Location": server.url("/end", "mine.test")})
            server.routes["/away"] = answer(302, {"Location": server.url("/back", "other.test")})
            server.routes["/end"] = answer(200)
            await get(asker, server.url("/away", "mine.test"), redirect_hosts=("other.test",))
            await get(asker, server.url("/end", "mine.test.other.test"))
    assert auth(server) == [
        (mine, "Bearer s3cret"),
        (f"other.test:{server.port}", None),
        (mine, "Bearer s3cret"),
        (f"mine.test.other.test:{server.port}", None),
    ]


@pytest.mark.parametrize("named", ["mine.test", "mine.test:{port}"])
async def test_a_credential_does_not_travel_unencrypted(named: str) -> None:
    async with served() as server:
        credentials = {named.format(port=server.port): Credential(value="Bearer s3cret")}
        async with make_asker(credentials=credentials) as asker:
            await get(asker, server.url("/", "mine.test"))
    assert auth(server) == [(f"mine.test:{server.port}", None)]


async def test_the_headers_of_a_question_are_for_its_host_alone() -> None:
    headers = (("Authorization", "Bearer s3cret"), ("Accept", "text/x"), ("X-Key", "s3cret"))
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(302, {"Location": server.url("/end", "other.test")})
        server.routes["/end"] = answer(200)
        await get(asker, server.url(), headers=headers, redirect_hosts=("*.test",))
    here, there = server.requests
    assert here.headers["x-key"] == here.headers["authorization"][7:] == "s3cret"
    assert "s3cret" not in there.headers.values()
    assert here.headers["accept"] == there.headers["accept"] == "text/x"
    assert "authorization" not in there.headers


async def test_cookies_are_not_kept() -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(200, {"Set-Cookie": "a=b"})
        await get(asker, server.url())
        await get(asker, server.url())
    assert "cookie" not in server.requests[1].headers


async def test_where_a_redirect_led_is_told() -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/a"] = answer(301, {"Location": "b?x=y"})
        server.routes["/b?x=y"] = answer(200, {"ETag": '"1"'}, b"body")
        for _ in range(2):
            reply = await get(asker, server.url("/a"), head=True)
            assert reply.url == server.url("/b?x=y")
            assert reply.body == b""
    assert {request.method for request in server.requests} == {"HEAD"}
    # Asked whether it changed is the page that it came from, not the way there.
    asked = [request.headers.get("if-none-match") for request in server.requests]
    assert asked == [None, None, None, '"1"']


@pytest.mark.parametrize(("coding", "body"), [
    ("gzip", gzip.compress(b"text" * 1000)),
    ("deflate", zlib.compress(b"text" * 1000)),
    ("identity", b"text" * 1000),
    ("gzip", b""),
])  # fmt: skip
async def test_answers_may_be_compressed(coding: str, body: bytes) -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(200, {"Content-Encoding": coding}, body)
        assert (await get(asker, server.url())).body in {b"text" * 1000, b""}
    assert server.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    "url", ["ftp://host.test/", "file:///etc/passwd", "http://", "//x", "http://[x"]
)
async def test_only_http_is_asked(url: str) -> None:
    async with make_asker() as asker:
        with pytest.raises(NotAllowed):
            await get(asker, url)


async def test_a_host_that_is_not_there() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError(host, port)

    async with make_asker(resolver=nowhere) as asker:
        with pytest.raises(ProviderUnavailable, match=r"no host nowhere\.test"):
            await get(asker, "http://nowhere.test/")


def test_memory_is_bounded() -> None:
    memory = Memory(cache_bytes=10_000, miss_age=10)
    questions = [HttpGet(str(number)) for number in range(10)]
    good = HttpReply(200, "", {"etag": "1"}, b"x" * 1000)
    for question in questions:
        memory.keep(question, good)
    # 3 of 1,000 bytes and what each costs beside; the newest.
    assert [question for question in questions if memory.good(question)] == questions[-3:]
    memory.good(questions[7])
    memory.keep(questions[0], good)
    assert [q for q in questions if memory.good(q)] == [questions[0], questions[7], questions[9]]
    memory.keep(questions[0], HttpReply(200, "", {}, b"no etag"))
    assert memory.good(questions[0]) is None
    memory.keep(questions[0], HttpReply(200, "", {"etag": "1"}, b"x" * 20_000))
    assert memory.good(questions[0]) is None
    for number in range(5000):
        memory.keep_miss(HttpGet(f"miss{number}"), HttpReply(404, ""), now=0)
    assert memory.miss(HttpGet("miss0"), now=0) is None
    assert memory.miss(HttpGet("miss4999"), now=0) == HttpReply(404, "")
    assert memory.miss(HttpGet("miss4999"), now=10) is None
    memory.keep_miss(HttpGet("gone"), RefNotFound("gone"), now=0)
    with pytest.raises(RefNotFound, match="gone"):
        memory.miss(HttpGet("gone"), now=0)
