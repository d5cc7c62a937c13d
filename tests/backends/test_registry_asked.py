"""Asking registries: a server that answers whatever a test likes."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.tls import TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hostile import FakeClock, Request, Server, answer, in_turn, raw, served

from binder_backends.registry import Registry, RegistryLogin, RegistrySettings
from binder_core.plugin import BackendUnavailable, RegistryUnavailable

pytestmark = pytest.mark.anyio

MANIFEST = "/v2/a/b/manifests/t"
PASSWORD = "s3cret"
BASIC = "Basic " + base64.b64encode(b"me:s3cret").decode()
ASKS_BASIC = answer(401, {"www-authenticate": 'Basic realm="r"'})


def make_registry(clock: FakeClock | None = None, **settings: Any) -> Registry:
    settings = {"read_docker_config": False, "timeout": 10.0, "step_timeout": 5.0} | settings
    return Registry(RegistrySettings(**settings), sleep=(clock or FakeClock()).sleep)


def image(server: Server, host: str = "127.0.0.2") -> str:
    return f"{host}:{server.port}/a/b:t"


def login(server: Server) -> dict[str, RegistryLogin]:
    return {f"127.0.0.2:{server.port}": RegistryLogin(user="me", password=PASSWORD)}


async def silent(stream: SocketStream, request: Request) -> None:
    del stream, request
    await anyio.sleep_forever()


@pytest.mark.parametrize(("status", "there"), [(200, True), (404, False)])
async def test_there_or_not(status: int, *, there: bool) -> None:
    async with served() as server, make_registry() as registry:
        server.routes[MANIFEST] = answer(status)
        assert await registry.exists(image(server)) is there
        (request,) = server.requests
        assert request.method == "HEAD"
        assert "oci.image.index.v1+json" in request.headers["accept"]
        assert "authorization" not in request.headers


@pytest.mark.parametrize(
    "breaks", [answer(500), answer(503), raw(b""), raw(b"HTTP/1.1 "), raw(b"hello\r\n\r\n")]
)
async def test_it_is_asked_again_after_longer_and_longer(
    breaks: Callable[[SocketStream, Request], Awaitable[None]],
) -> None:
    clock = FakeClock()
    async with served() as server, make_registry(clock) as registry:
        server.routes[MANIFEST] = in_turn(breaks, breaks, answer(404))
        assert await registry.exists(image(server)) is False
        assert clock.slept == [0.5, 1.0]


@pytest.mark.parametrize(
    ("breaks", "why"),
    [
        (answer(502), r"answered 502\. Try again"),
        (answer(429), r"answered 429\. It has been asked too often"),
        (raw(b""), "did not answer: the connection to 127.0.0.2 broke"),
        (silent, "did not answer: 127.0.0.2 said nothing for 0.05 seconds"),
    ],
)
async def test_what_stays_broken_leaves_it_open(
    breaks: Callable[[SocketStream, Request], Awaitable[None]], why: str
) -> None:
    async with served() as server, make_registry(step_timeout=0.05) as registry:
        server.routes[MANIFEST] = breaks
        with pytest.raises(RegistryUnavailable, match=rf"registry 127.0.0.2:{server.port} {why}"):
            await registry.exists(image(server))


async def test_a_registry_that_refuses_connections_leaves_it_open() -> None:
    async with served() as server:
        name = image(server)
    async with make_registry() as registry:
        with pytest.raises(RegistryUnavailable, match=r"could not be made \(Connection refused\)"):
            await registry.exists(name)


async def test_a_name_that_nobody_knows_leaves_it_open() -> None:
    async with make_registry() as registry:
        with pytest.raises(RegistryUnavailable, match=r"registry nobody\.invalid did not answer"):
            await registry.exists("nobody.invalid/a/b:t")


async def test_the_whole_question_has_a_time_limit() -> None:
    async with served() as server, make_registry(timeout=0.1) as registry:
        server.routes[MANIFEST] = silent
        with pytest.raises(RegistryUnavailable, match=r"did not say within 0\.1 seconds"):
            await registry.exists(image(server))


async def test_what_is_no_name_is_a_setting_that_is_wrong() -> None:
    async with make_registry() as registry:
        with pytest.raises(RegistryUnavailable, match="Check the image prefix"):
            await registry.exists("Registry/UPPER")


def test_errors_are_those_that_the_engine_tries_again() -> None:
    assert issubclass(RegistryUnavailable, BackendUnavailable)


async def test_basic_login() -> None:
    async with served() as server, make_registry(logins=login(server)) as registry:
        server.routes[MANIFEST] = in_turn(ASKS_BASIC, answer(200))
        assert await registry.exists(image(server))
        assert [one.headers.get("authorization") for one in server.requests] == [None, BASIC]


async def test_several_headers_of_which_one_will_do() -> None:
    both = raw(
        b"HTTP/1.1 401 X\r\ncontent-length: 0\r\nWWW-Authenticate: Negotiate\r\n"
        b'WWW-Authenticate: Basic realm="r"\r\n\r\n'
    )
    async with served() as server, make_registry(logins=login(server)) as registry:
        server.routes[MANIFEST] = in_turn(both, answer(200))
        assert await registry.exists(image(server))


async def test_a_registry_that_knows_no_head() -> None:
    async with served() as server, make_registry() as registry:
        server.routes[MANIFEST] = in_turn(answer(405), answer(200, body=b"x" * 3_000_000))
        assert await registry.exists(image(server))
        assert [one.method for one in server.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("identity", [False, True])
async def test_a_token(tmp_path: Path, *, identity: bool) -> None:
    async with served() as server:
        host = f"127.0.0.2:{server.port}"
        entry = {"identitytoken": "idt0ken"} if identity else {"auth": BASIC.removeprefix("Basic ")}
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: entry}}))
        realm = f'Bearer realm="http://{host}/token",service="s"'
        server.routes[MANIFEST] = in_turn(answer(401, {"www-authenticate": realm}), answer(200))
        query = "?service=s&scope=repository:a/b:pull"
        server.routes["/token" + ("" if identity else query)] = answer(
            200, body=b'{"token": "t0ken"}'
        )
        async with make_registry(
            read_docker_config=True, docker_config=str(tmp_path / "config.json")
        ) as registry:
            assert await registry.exists(image(server))
        _, asked, *_, last = server.requests
        assert asked.method == ("POST" if identity else "GET")
        assert asked.headers.get("authorization") == (None if identity else BASIC)
        assert last.headers["authorization"] == "Bearer t0ken"


@pytest.mark.parametrize(
    "bad", [b"", b"{}", b"\xff", b'{"token": 5}', b'{"token": "' + b"x" * 2**21]
)
async def test_no_token_leaves_it_open(bad: bytes) -> None:
    async with served() as server, make_registry() as registry:
        realm = f'Bearer realm="http://127.0.0.2:{server.port}/token?x"'
        server.routes[MANIFEST] = answer(401, {"www-authenticate": realm})
        server.routes["/token?x&scope=repository:a/b:pull"] = answer(200, body=bad)
        with pytest.raises(RegistryUnavailable, match="answered with no token"):
            await registry.exists(image(server))


async def test_the_login_of_a_refusal_is_looked_for_anew(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("old\n")
    async with served() as server:
        logins = {f"127.0.0.2:{server.port}": RegistryLogin(user="me", password_file=str(secret))}
        async with make_registry(logins=logins) as registry:
            server.routes[MANIFEST] = ASKS_BASIC
            with pytest.raises(RegistryUnavailable, match="refuses the login"):
                await registry.exists(image(server))
            secret.write_text(f"{PASSWORD}\n")
            server.routes[MANIFEST] = in_turn(ASKS_BASIC, answer(200))
            assert await registry.exists(image(server))
        assert server.requests[-1].headers["authorization"] == BASIC


# -- Redirects -------------------------------------------------------------------------------------


async def test_a_login_is_not_taken_elsewhere() -> None:
    async with served() as server, served("127.0.0.3") as other:
        target = f"http://127.0.0.3:{other.port}/there"
        other.routes["/there"] = answer(200)
        server.routes[MANIFEST] = in_turn(ASKS_BASIC, answer(307, {"location": target}))
        async with make_registry(logins=login(server)) as registry:
            assert await registry.exists(image(server))
        (request,) = other.requests
        assert "authorization" not in request.headers
        assert "accept" in request.headers


async def test_who_asks_for_a_login_elsewhere_gets_none() -> None:
    async with served() as server, served("127.0.0.3") as other:
        other.routes["/there"] = ASKS_BASIC
        target = f"http://127.0.0.3:{other.port}/there"
        server.routes[MANIFEST] = answer(307, {"location": target})
        async with make_registry(logins=login(server)) as registry:
            with pytest.raises(RegistryUnavailable, match=r"leads to 127\.0\.0\.3.*gets none"):
                await registry.exists(image(server))
        assert all("authorization" not in one.headers for one in other.requests)


async def test_a_redirect_within_the_registry_is_followed_with_the_login() -> None:
    async with served() as server, make_registry(logins=login(server)) as registry:
        server.routes[MANIFEST] = in_turn(ASKS_BASIC, answer(302, {"location": "/there"}))
        server.routes["/there"] = answer(200)
        assert await registry.exists(image(server))
        assert server.requests[-1].headers["authorization"] == BASIC


@pytest.mark.parametrize(
    ("location", "why"),
    [
        (MANIFEST, "redirects more than 5 times"),
        ("ftp://r.example/x", "malformed"),
    ],
)
async def test_redirects_that_lead_nowhere(location: str, why: str) -> None:
    async with served() as server, make_registry() as registry:
        server.routes[MANIFEST] = answer(302, {"location": location})
        with pytest.raises(RegistryUnavailable, match=why):
            await registry.exists(image(server))


async def test_a_form_is_not_sent_on(tmp_path: Path) -> None:
    async with served() as server, served("127.0.0.3") as other:
        host = f"127.0.0.2:{server.port}"
        config = {"auths": {host: {"identitytoken": "idt0ken"}}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        realm = f'Bearer realm="http://{host}/token"'
        server.routes[MANIFEST] = answer(401, {"www-authenticate": realm})
        server.routes["/token"] = answer(307, {"location": f"http://127.0.0.3:{other.port}/token"})
        async with make_registry(read_docker_config=True, docker_config=str(tmp_path)) as registry:
            with pytest.raises(RegistryUnavailable, match="answered 307"):
                await registry.exists(image(server))
        assert not other.requests


# -- Encryption ------------------------------------------------------------------------------------


@asynccontextmanager
async def encrypted(folder: Path) -> AsyncIterator[Server]:
    """Run a server with a certificate of its own, which is kept in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "binderkit-tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    server = Server()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError):
                tls = await TLSStream.wrap(stream, ssl_context=context, standard_compatible=False)
                await server.serve(cast("SocketStream", tls))

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.2") as listener,
        anyio.create_task_group() as group,
    ):
        server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        group.start_soon(listener.serve, serve)
        yield server
        group.cancel_scope.cancel()


async def test_certificates_that_the_operator_trusts(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as server:
        server.routes[MANIFEST] = answer(200)
        bundle = str(tmp_path / "certificate.pem")
        async with make_registry(loopback_plain_http=False, ca_bundle=bundle) as registry:
            assert await registry.exists(image(server))
        async with make_registry(loopback_plain_http=False) as registry:
            with pytest.raises(RegistryUnavailable, match=r"not to be trusted.*Set ca_bundle"):
                await registry.exists(image(server))
        assert len(server.requests) == 1


async def test_a_registry_without_tls() -> None:
    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.2") as listener,
        anyio.create_task_group() as group,
        make_registry(loopback_plain_http=False) as registry,
    ):
        group.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(RegistryUnavailable, match=r"does not speak TLS.*add it to plain_http"):
            await registry.exists(f"127.0.0.2:{port}/a/b:t")
        group.cancel_scope.cancel()
    async with served() as server:
        server.routes[MANIFEST] = answer(200)
        hosts = (f"127.0.0.2:{server.port}",)
        async with make_registry(loopback_plain_http=False, plain_http=hosts) as registry:
            assert await registry.exists(image(server))


@pytest.mark.parametrize("content", [None, "", "no certificate"])
async def test_certificates_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(BackendUnavailable, match=r"\(ca_bundle\) cannot be read"):
        await make_registry(ca_bundle=str(bundle)).__aenter__()


@pytest.mark.parametrize("use_proxies", [False, True])
async def test_proxies_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, *, use_proxies: bool
) -> None:
    async with served() as server, served("127.0.0.3") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.3:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        server.routes[MANIFEST] = answer(200)
        async with make_registry(use_proxies=use_proxies) as registry:
            assert await registry.exists(image(server)) is not use_proxies  # the proxy: 404
        assert bool(proxy.requests) is use_proxies
