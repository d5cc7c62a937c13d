"""A token server for registries, as small as it can be: users and passwords in, tokens out."""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

_LIFETIME = dt.timedelta(minutes=5)


class TokenServer:
    """Answers both ways to ask for a token; a context that starts and stops it.

    Args:
        folder: Where the certificate goes, for the registry.
        service: The registry's name for itself.
        users: Passwords by user. Who names none gets a token that allows to pull, and nothing else.
        host: The address it listens on.
    """

    def __init__(self, folder: Path, *, service: str, users: dict[str, str], host: str) -> None:
        self.issuer = "binderkit-tests"
        self.certificate = folder / "tokens.pem"
        """The certificate against which the registry checks tokens."""
        self.asked: list[str] = []
        """Who has asked for what so far: ``user scope``."""
        self._service = service
        self._users = users
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(self._key)
        self._x5c = base64.b64encode(made.public_bytes(Encoding.DER)).decode()
        self.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        handler = type("Handler", (_Handler,), {"server_of_ours": self})
        self._server = ThreadingHTTPServer((host, 0), handler)
        self.url = f"http://{host}:{self._server.server_address[1]}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=30)

    def token(self, user: str, password: str, scopes: list[str]) -> str | None:
        """Return a token for what somebody asks for, None if the password is wrong."""
        if user and not secrets.compare_digest(self._users.get(user, ""), password):
            return None
        self.asked += [f"{user or '-'} {scope}" for scope in scopes]
        now = dt.datetime.now(dt.UTC)
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self._service,
            "iat": now,
            "nbf": now - _LIFETIME,
            "exp": now + _LIFETIME,
            "jti": secrets.token_hex(8),
            "access": [_access(scope, everything=bool(user)) for scope in scopes],
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": [self._x5c]})


class _Handler(BaseHTTPRequestHandler):
    server_of_ours: ClassVar[TokenServer]

    def do_GET(self) -> None:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        pair = base64.b64decode(given).decode() if scheme.lower() == "basic" else ""
        user, _, password = pair.partition(":")
        self._answer(user, password, parse_qs(urlsplit(self.path).query))

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())
        user, password = (form.get(name, [""])[0] for name in ("username", "password"))
        self._answer(user, password, form)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Print nothing: whoever looks, looks at `TokenServer.asked`."""

    def _answer(self, user: str, password: str, query: dict[str, list[str]]) -> None:
        scopes = [scope for given in query.get("scope", []) for scope in given.split()]
        token = self.server_of_ours.token(user, password, scopes)
        body = {"token": token, "access_token": token, "expires_in": int(_LIFETIME.total_seconds())}
        if token is None:
            body = {"details": "incorrect username or password"}
        data = json.dumps(body).encode()
        self.send_response(401 if token is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _access(scope: str, *, everything: bool) -> dict[str, object]:
    # repository:name/of/it:pull,push; the name may hold the colon of a port.
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    wanted = [action for action in actions.split(",") if everything or action == "pull"]
    return {"type": kind, "name": name, "actions": wanted}


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "binderkit-tests")])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
