"""The asker on a service that means ill: each refused with its reason, within bounds."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from hostile import (
    METADATA,
    NAMESPACE,
    PRIVATE,
    SERVER,
    Request,
    Server,
    answer,
    make_asker,
    raw,
    served,
)

from binder_backends.asker import HttpGitAsker, NotAllowed
from binder_backends.asker.guard import Guard
from binder_core.plugin import HttpGet, HttpReply, ProviderUnavailable

pytestmark = pytest.mark.anyio

MEGABYTE = 2**20


async def get(asker: HttpGitAsker, url: str, *hosts: str) -> HttpReply:
    reply = await asker.ask(HttpGet(url, redirect_hosts=hosts))
    assert isinstance(reply, HttpReply)
    return reply


def refused(address: str) -> bool:
    return not Guard(()).allows(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.169.254", "169.254.1.1", "100.64.0.1", "100.100.100.200"),
        *("192.0.0.192", "192.0.2.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "239.1.1.1"),
        *("240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("::127.0.0.1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254"),
        *("ff02::1", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1"),
        *("2002:7f00:1::", "2002:a00:1::", "2001:db8::1", "100::1", "", "host", "1.2.3", "1"),
    ],
)
def test_addresses_that_are_nobodys_business(address: str) -> None:
    assert refused(address)


@pytest.mark.parametrize(
    "address",
    [
        *("140.82.121.4", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:140.82.121.4"),
        "64:ff9b::8c52:7904",
    ],
)
def test_public_addresses(address: str) -> None:
    assert not refused(address)


def test_an_operator_can_allow_networks() -> None:
    guard = Guard(("10.1.0.0/16", "fd00::/8"))
    assert guard.allows("10.1.2.3")
    assert guard.allows("::ffff:10.1.2.3")
    assert guard.allows("fd00::1")
    assert not guard.allows("10.2.0.1")
    with pytest.raises(ValueError, match="host bits"):
        Guard(("10.1.2.3/16",))


@pytest.mark.parametrize("target", [
    f"http://{PRIVATE}:{{port}}/", f"http://{METADATA}/latest/meta-data", "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/", "http://[fd00:ec2::254]/", "http://10.0.0.1/",
    "//127.0.0.1:{port}/",
])  # fmt: skip
async def test_redirects_to_private_places(target: str) -> None:
    async with served() as server, served(PRIVATE) as secret, make_asker() as asker:
        target = target.format(port=secret.port)
        server.routes["/"] = answer(302, {"Location": target})
        with pytest.raises(NotAllowed, match="only public ones are allowed"):
            await get(asker, server.url(), "*")
        with pytest.raises(NotAllowed, match="only public ones are allowed"):
            await get(asker, target if target.startswith("http") else f"http:{target}")
        assert secret.connections == 0


@pytest.mark.skipif(not NAMESPACE, reason="needs a network namespace with the metadata address")
async def test_the_metadata_service_is_there_and_is_not_asked() -> None:
    async with served() as server, served(METADATA, 80) as metadata, make_asker() as asker:
        server.routes["/"] = answer(302, {"Location": f"http://{METADATA}/latest"})
        for url in (server.url(), f"http://{METADATA}/"):
            with pytest.raises(NotAllowed, match="only public ones are allowed"):
                await get(asker, url, "*")
        assert metadata.connections == 0


async def test_names_of_private_places() -> None:
    async def resolver(host: str, port: int) -> list[str]:
        del port
        return {"both.test": [PRIVATE, SERVER]}.get(host, [PRIVATE, METADATA])

    async with served() as server, served(PRIVATE) as secret:
        async with make_asker(resolver=resolver) as asker:
            with pytest.raises(NotAllowed, match=r"inside\.test is not asked"):
                await get(asker, f"http://inside.test:{secret.port}/")
            # Where one of them is public it is that one.
            assert (await get(asker, server.url("/", "both.test"))).status == 404
        assert secret.connections == 0


async def test_a_name_that_changes_between_check_and_use() -> None:
    """Only what was checked is connected to, however often the name changes its mind."""
    answers = iter([[SERVER], [PRIVATE], [SERVER], [PRIVATE]])
    asked = []

    async def resolver(host: str, port: int) -> list[str]:
        del port
        asked.append(host)
        return next(answers)

    async with served() as server, served(PRIVATE, server.port) as secret:
        server.routes["/"] = raw(b"HTTP/1.1 200 X\r\ncontent-length: 4\r\n\r\nopen")
        secret.routes["/"] = answer(200, {}, b"secret")
        async with make_asker(resolver=resolver) as asker:
            for _ in range(2):
                assert (await get(asker, server.url())).body == b"open"
                with pytest.raises(NotAllowed):
                    await get(asker, server.url())
        # One resolution a connection: there is no second one to lie to.
        assert asked == ["host.test"] * 4
        assert secret.connections == 0


async def test_a_name_that_changes_at_a_redirect() -> None:
    answers = iter([[SERVER], [PRIVATE]])

    async def resolver(*_: object) -> list[str]:
        return next(answers)

    async with served() as server, served(PRIVATE, server.port) as secret:
        server.routes["/"] = raw(
            b"HTTP/1.1 302 X\r\nlocation: /again\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
        async with make_asker(resolver=resolver) as asker:
            with pytest.raises(NotAllowed):
                await get(asker, server.url())
        assert secret.connections == 0


@pytest.mark.parametrize(("patterns", "host", "allowed"), [
    ((), "host.test", True),
    ((), "HOST.test", True),
    ((), "other.test", False),
    (("other.test",), "other.test", True),
    (("Other.Test",), "other.test", True),
    (("other.test",), "x.other.test", False),
    (("*.other.test",), "x.other.test", True),
    (("*.other.test",), "other.test", False),
    (("*.other.test",), "evilother.test", False),
    (("other.test",), "other.test.evil.test", False),
    (("*",), "any.test", True),
])  # fmt: skip
async def test_where_redirects_may_lead(patterns: tuple[str], host: str, *, allowed: bool) -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(302, {"Location": server.url("/end", host)})
        server.routes["/end"] = answer(200)
        if allowed:
            assert (await get(asker, server.url(), *patterns)).status == 200
        else:
            with pytest.raises(NotAllowed, match=f"redirects to {host}, where it may not lead"):
                await get(asker, server.url(), *patterns)
            assert len(server.requests) == 1


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://host.test/", "gopher://host.test/_x", "data:,x", "http://[x"],
)  # fmt: skip
async def test_redirects_to_other_schemes(target: str) -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(302, {"Location": target})
        with pytest.raises(NotAllowed):
            await get(asker, server.url(), "*")


async def test_a_hundred_redirects() -> None:
    async with served() as server, make_asker() as asker:
        for number in range(100):
            server.routes[f"/{number}"] = answer(302, {"Location": f"/{number + 1}"})
        with pytest.raises(NotAllowed, match=r"host\.test redirects more than 10 times"):
            await get(asker, server.url("/0"))
        assert len(server.requests) == 11


async def test_a_redirect_to_itself() -> None:
    async with served() as server, make_asker(max_redirects=3) as asker:
        server.routes["/"] = answer(302, {"Location": "/"})
        with pytest.raises(NotAllowed, match="more than 3 times"):
            await get(asker, server.url("/"))


class Flood:
    """Sends the same for ever, and counts."""

    def __init__(self, head: bytes, chunk: bytes, *, delay: float = 0) -> None:
        self.head, self.chunk, self.delay = head, chunk, delay
        self.sent = 0

    async def __call__(self, stream: SocketStream, request: Request) -> None:
        del request
        await stream.send(self.head)
        while True:
            await stream.send(self.chunk)
            self.sent += len(self.chunk)
            await anyio.sleep(self.delay)


async def given_up(server: Server, flood: Flood, match: str, **settings: Any) -> None:
    server.routes["/"] = flood
    begun = time.monotonic()
    async with make_asker(tries=1, **settings) as asker:
        with pytest.raises(ProviderUnavailable, match=match):
            await get(asker, server.url())
    assert time.monotonic() - begun < 5


OK = b"HTTP/1.1 200 X\r\n"


@pytest.mark.parametrize("head", [
    OK + b"\r\n",
    OK + b"content-length: 99999999999\r\n\r\n",
    OK + b"content-encoding: identity\r\n\r\n",
    b"HTTP/1.1 404 X\r\n\r\n",
])  # fmt: skip
async def test_endless_bodies(head: bytes) -> None:
    flood = Flood(head, b"x" * 65536)
    async with served() as server:
        await given_up(server, flood, "more than 1048576 bytes", max_body_bytes=MEGABYTE)
    # What the buffers of two sockets hold comes on top.
    assert flood.sent < 12 * MEGABYTE


async def test_endless_chunks() -> None:
    flood = Flood(OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000)
    async with served() as server:
        await given_up(server, flood, "more than 1000 bytes", max_body_bytes=1000)


async def test_the_body_of_a_redirect_is_not_read() -> None:
    flood = Flood(b"HTTP/1.1 302 X\r\nlocation: /end\r\n\r\n", b"x" * 65536)
    async with served() as server, make_asker() as asker:
        server.routes["/"] = flood
        server.routes["/end"] = answer(200)
        assert (await get(asker, server.url())).status == 200
    assert flood.sent < 12 * MEGABYTE


@pytest.mark.parametrize("head", [OK + b"\r\n", OK + b"content-length: 1000\r\n\r\n", OK, b""])
async def test_slow_answers(head: bytes) -> None:
    async with served() as server:
        await given_up(
            server, Flood(head, b"x: y\r\n", delay=0.02), "No answer within 0.3 s", timeout=0.3
        )


@pytest.mark.parametrize("chunk", [b"x: y\r\n", b"x" * 1000])
async def test_endless_headers(chunk: bytes) -> None:
    flood = Flood(OK, chunk * 100)
    async with served() as server:
        await given_up(server, flood, "connection to host.test could not be made or broke")
    assert flood.sent < 12 * MEGABYTE


async def test_endless_beginnings() -> None:
    flood = Flood(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", delay=0.001)
    async with served() as server:
        await given_up(server, flood, "No answer within 0.3 s", timeout=0.3)


def bomb(coding: str) -> bytes:
    """Return 50 MB of nothing, compressed a thousandfold."""
    packer = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    return b"".join([*(packer.compress(bytes(MEGABYTE)) for _ in range(50)), packer.flush()])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_bombs(coding: str) -> None:
    body = bomb(coding)
    assert len(body) < 100_000
    async with served() as server, make_asker(max_body_bytes=MEGABYTE) as asker:
        server.routes["/"] = answer(200, {"Content-Encoding": coding}, body)
        tracemalloc.start()
        try:
            with pytest.raises(NotAllowed, match="more than 1048576 bytes"):
                await get(asker, server.url())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # Not even for a moment was there room for all of it.
    assert peak < 8 * MEGABYTE


@pytest.mark.parametrize(("coding", "body", "error"), [
    ("br", b"x", "encoding that was not asked for"),
    ("gzip, gzip", gzip.compress(gzip.compress(b"x")), "encoding that was not asked for"),
    ("gzip", b"no gzip", "something garbled"),
    ("gzip", gzip.compress(b"x" * 1000)[:-9], "broke off"),
])  # fmt: skip
async def test_garbled_answers(coding: str, body: bytes, error: str) -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = answer(200, {"Content-Encoding": coding}, body)
        with pytest.raises(ProviderUnavailable, match=error):
            await get(asker, server.url())


@pytest.mark.parametrize("data", [
    b"", b"\0" * 1000, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 999999999 X\r\n\r\n",
    OK + b"content-length: -1\r\n\r\n", OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n", OK + b"content-length: 9\r\n\r\nhalf",
])  # fmt: skip
async def test_what_is_no_http(data: bytes) -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/"] = raw(data)
        with pytest.raises(ProviderUnavailable, match=r"host\.test"):
            await get(asker, server.url())


async def test_no_address_of_ours_is_told() -> None:
    async def resolver(*_: object) -> list[str]:
        return ["10.20.30.40"]

    async with make_asker(resolver=resolver) as asker:
        with pytest.raises(NotAllowed) as caught:
            await get(asker, "http://inside.test/")
    assert "10.20" not in caught.value.message
    assert caught.value.status == 403
