"""The connection to a cluster: whose certificates it takes, and what it says of others."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from binder_backends.kubernetes import KubernetesSettings
from binder_backends.kubernetes.cluster import Cluster, Outage
from binder_core.plugin import BackendUnavailable
from engines.certificates import Authority

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("handshakes")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # kubernetes-asyncio knows no other


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"gitVersion": "v1.20.2"}')

    def log_message(self, *said: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *who: object) -> None:
        pass  # who does not take its certificate goes


@contextmanager
def api_server(certificates: Path) -> Iterator[str]:
    """Run what answers as an API server does; give its address."""
    server = Server(("127.0.0.1", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cluster(folder: Path, address: str, authority: Path) -> Cluster:
    """Return a connection, with a kubeconfig that trusts an authority."""
    file = folder / "kubeconfig"
    where = {"server": address, "certificate-authority": str(authority / "ca.pem")}
    context = {"cluster": "tests", "user": "me"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [{"name": "tests", "cluster": where}],
        "users": [{"name": "me", "user": {"token": "a-token"}}],
        "contexts": [{"name": "tests", "context": context}],
    }
    file.write_text(json.dumps(config))
    return Cluster(KubernetesSettings(kubeconfig=str(file)))


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be as strict as Python 3.13 is."""
    lenient = ssl.create_default_context

    def context(cafile: str | None = None) -> ssl.SSLContext:
        made = lenient(cafile=cafile)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made

    monkeypatch.setattr(ssl, "create_default_context", context)


@pytest.mark.parametrize("key_ids", [True, False])
async def test_an_authority_without_key_identifiers_will_do(
    strict: None,
    tmp_path: Path,
    key_ids: bool,  # noqa: FBT001
) -> None:
    certificates = Authority(key_ids=key_ids).server(tmp_path / "server", "127.0.0.1")
    with api_server(certificates) as address:
        async with cluster(tmp_path, address, certificates) as one:
            assert await one.version() == "v1.20.2"


async def test_a_certificate_that_is_not_to_be_trusted_is_told_as_that(tmp_path: Path) -> None:
    certificates = Authority().server(tmp_path / "server", "127.0.0.1")
    stranger = Authority("strangers").server(tmp_path / "stranger", "127.0.0.1")
    other = Authority().server(tmp_path / "other", "127.0.0.2")
    for shown, trusted in ((certificates, stranger), (other, other)):
        with api_server(shown) as address, pytest.raises(BackendUnavailable) as refused:
            async with cluster(tmp_path, address, trusted) as one:
                await one.version()
        assert "is not to be trusted" in refused.value.message
        assert "certificate-authority" in refused.value.message
        assert not isinstance(refused.value, Outage), "it will not pass"
