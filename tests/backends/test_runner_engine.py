"""How the runner reaches an engine: a socket, TCP and TLS, with servers of the tests' own."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from binder_backends.runner import pushing
from binder_backends.runner.engine import EngineAway, EngineRefused, connect, main, ping, wait
from binder_backends.runner.pushing import push
from engines.certificates import Authority

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"
OTHER = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
ODD = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41/../x\r\nContent-Length: 2\r\n\r\nOK"
SICK = b"HTTP/1.1 500 Oh\r\nApi-Version: 1.41\r\nContent-Length: 4\r\n\r\noh\r\n"
WANTS_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
PUSHED = (
    b"HTTP/1.1 200 OK\r\n\r\n"
    b'{"id": "a", "status": "Pushing", "progressDetail": {"current": 1, "total": 2}}\n'
    b'{"aux": {"Tag": "b"}}\n'
)


@contextmanager
def engine(
    *answers: bytes, path: Path | None = None, certificates: Path | None = None
) -> Iterator[str]:
    """Run a server that gives these answers, one a connection; give its address.

    Args:
        *answers: What it says.
        path: It listens on a socket there.
        certificates: It speaks TLS with these, and asks who comes.
    """
    context = None
    if certificates is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_verify_locations(certificates / "ca.pem")
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    if path is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        host = f"unix://{path}"
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        host = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    listener.settimeout(30)

    def serve() -> None:
        for answer in answers:
            client, _ = listener.accept()
            client.settimeout(30)
            with client:
                try:
                    talk = context.wrap_socket(client, server_side=True) if context else client
                    with talk:
                        talk.recv(65536)
                        talk.sendall(answer)
                except OSError:  # who came did not like it
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield host
    finally:
        thread.join(60)
        listener.close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Path:
    return authority.server(tmp_path / "server", "127.0.0.1")


@pytest.fixture
def client(authority: Authority, tmp_path: Path) -> Path:
    return authority.client(tmp_path / "client")


def test_an_engine_by_its_socket(tmp_path: Path) -> None:
    with engine(PING, path=tmp_path / "e.sock") as host:
        ping(host)


def test_an_engine_in_the_clear() -> None:
    with engine(PING) as host:
        ping(host)


def test_an_engine_with_certificates(server: Path, client: Path) -> None:
    with engine(PING, PING, PUSHED, certificates=server) as host:
        assert ping(host, str(client)) == "1.41"
        said = list(push("reg.example/a:b", {}, host=host, certs=str(client)))
    assert [one.get("status", "") for one in said] == ["Pushing", ""]


class Versions(BaseHTTPRequestHandler):
    """An engine that says one version of its API, and takes those of `taken`."""

    said, taken = "1.52", ("1.44", "1.52")

    def do_GET(self) -> None:
        self.answer(200, b"OK")

    def do_POST(self) -> None:
        version = self.path.split("/")[1].removeprefix("v")
        if version in self.taken:
            self.answer(200, PUSHED.partition(b"\r\n\r\n")[2])
        else:
            message = f"client version {version} is too old. Minimum supported API version is 1.44"
            self.answer(400, json.dumps({"message": message}).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("api-version", self.said)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(60)


def test_a_push_speaks_the_engines_own_version(capsys: pytest.CaptureFixture[str]) -> None:
    # Docker 29 takes none of what Docker 20.10 speaks.
    with serving(Versions) as host:
        assert pushing.main([f"--host={host}", "--image=reg.example/a:b"]) == 0
    assert "Successfully pushed" in capsys.readouterr().out


def test_a_version_that_the_engine_says_and_does_not_take_is_not_the_registrys_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Between(Versions):
        said = "1.41"

    with serving(Between) as host:
        assert pushing.main([f"--host={host}", "--image=reg.example/a:b"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "The Docker engine does not take" in json.loads(line)["message"]
    assert "1.41 is too old" in json.loads(line)["message"]
    assert "reg.example" not in line


# -- What will never work is told at once --------------------------------------------------------


def test_a_certificate_of_another_authority(server: Path, tmp_path: Path) -> None:
    stranger = Authority("strangers").client(tmp_path / "stranger")
    with engine(PING, certificates=server) as host, pytest.raises(EngineRefused) as refused:
        ping(host, str(stranger))
    assert "ca.pem" in str(refused.value)
    assert "docker_certs_secret" in str(refused.value)


def test_a_client_whom_the_engine_does_not_know(
    server: Path, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority("strangers").client(tmp_path / "stranger")
    known = authority.client(tmp_path / "known")
    (stranger / "ca.pem").write_bytes((known / "ca.pem").read_bytes())
    with engine(PING, certificates=server) as host, pytest.raises(EngineRefused) as refused:
        ping(host, str(stranger))
    assert "does not take the certificate" in str(refused.value)


def test_another_name_than_the_certificates(
    authority: Authority, client: Path, tmp_path: Path
) -> None:
    elsewhere = authority.server(tmp_path / "elsewhere", "10.1.2.3")
    with (
        engine(PING, certificates=elsewhere) as host,
        pytest.raises(EngineRefused, match="is not valid for"),
    ):
        ping(host, str(client))


def test_tls_where_there_is_none(client: Path) -> None:
    with engine(WANTS_TLS) as host, pytest.raises(EngineRefused, match="speaks no TLS"):
        ping(host, str(client))


def test_none_where_there_is_tls(tmp_path: Path) -> None:
    with engine(WANTS_TLS, WANTS_TLS) as host:
        with pytest.raises(EngineRefused, match=r"wants TLS.*docker_certs_secret"):
            ping(host)
        with pytest.raises(EngineRefused, match="wants TLS"):
            list(push("reg.example/a:b", {}, host=host))


@pytest.mark.parametrize("answer", [OTHER, ODD])
def test_something_else_that_answers(answer: bytes) -> None:
    with engine(answer) as host, pytest.raises(EngineRefused, match="is no Docker engine"):
        ping(host)


@pytest.mark.parametrize("missing", ["ca.pem", "cert.pem", "key.pem"])
def test_certificates_that_are_not_there(client: Path, missing: str) -> None:
    (client / missing).unlink()
    with pytest.raises(EngineRefused, match=f"there is no {missing}") as refused:
        connect("tcp://engine.example:2376", str(client))
    assert "docker_certs_secret" in str(refused.value)
    assert str(client) not in str(refused.value)


@pytest.mark.parametrize("bad", ["ca.pem", "cert.pem", "key.pem"])
def test_certificates_that_are_none(client: Path, bad: str) -> None:
    (client / bad).write_text("private, but no PEM")
    with pytest.raises(EngineRefused, match="cannot be used") as refused:
        connect("tcp://engine.example:2376", str(client))
    assert "private" not in str(refused.value)


def test_a_key_that_belongs_to_another_certificate(
    authority: Authority, client: Path, tmp_path: Path
) -> None:
    other = authority.client(tmp_path / "other")
    (client / "key.pem").write_bytes((other / "key.pem").read_bytes())
    with pytest.raises(EngineRefused, match="belong together"):
        connect("tcp://engine.example:2376", str(client))


@pytest.mark.parametrize("host", ["engine.example", "tcp://a", "http://a:1", "tcp://a:b", ""])
def test_no_address(host: str) -> None:
    with pytest.raises(EngineRefused, match="docker_host"):
        connect(host)


# -- What may work later is tried again ----------------------------------------------------------


def test_nobody_there_now(client: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(EngineAway, match="Connection refused"):
        ping(host)
    with pytest.raises(EngineAway, match="Connection refused"):
        ping(host, str(client))


def test_an_engine_that_is_sick_or_silent(tmp_path: Path) -> None:
    with engine(SICK, b"") as host:
        with pytest.raises(EngineAway, match="500: oh"):
            ping(host)
        with pytest.raises(EngineAway):
            ping(host)
    with engine(PING, PUSHED[:-10], path=tmp_path / "e.sock") as host, pytest.raises(EngineAway):
        list(push("reg.example/a:b", {}, host=host))


def test_it_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    pauses: list[float] = []

    def ask() -> None:
        if len(pauses) < 3:
            raise EngineAway("Connection refused")

    wait(ask, 60, clock=lambda: sum(pauses), sleep=pauses.append)
    assert pauses == [1, 2, 4]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["phase"] for line in lines} == {"fetching"}
    assert "does not answer (Connection refused); again in 1 s" in lines[0]["message"]


def test_it_is_not_waited_for_longer_than_that() -> None:
    pauses: list[float] = []

    def ask() -> None:
        raise EngineAway("Connection refused")

    with pytest.raises(EngineRefused, match=r"for 20 s: Connection refused.*docker_host"):
        wait(ask, 20, clock=lambda: sum(pauses), sleep=pauses.append)
    assert pauses == [1, 2, 4, 8, 5]


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with engine(PING, path=tmp_path / "e.sock") as host:
        assert main([f"--host={host}"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["--host=tcp://nothing"]) == 1
    assert "docker_host" in json.loads(capsys.readouterr().out)["message"]
