"""Certificates of the tests' own: an authority, and whom it vouches for, in Docker's files."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """Signs certificates.

    Args:
        name: Its own.
        key_ids: Whether certificates say whose keys they are about, as strict readers want them to.
    """

    def __init__(self, name: str = "binderkit-tests", *, key_ids: bool = True) -> None:
        self._name = name
        self._key_ids = key_ids
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign(name, self._key, authority=True)

    def client(self, folder: Path) -> Path:
        """Write ``ca.pem``, ``cert.pem`` and ``key.pem`` of a client; return the folder."""
        return self._write(folder, "client", ExtendedKeyUsageOID.CLIENT_AUTH)

    def server(self, folder: Path, address: str) -> Path:
        """Write those of a server that is reached by an address; return the folder."""
        return self._write(folder, "server", ExtendedKeyUsageOID.SERVER_AUTH, address)

    def _write(
        self, folder: Path, name: str, usage: x509.ObjectIdentifier, address: str = ""
    ) -> Path:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._sign(name, key, usage=usage, address=address)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "ca.pem").write_bytes(self._certificate.public_bytes(Encoding.PEM))
        (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
        (folder / "key.pem").touch(mode=0o600)
        (folder / "key.pem").write_bytes(private)
        return folder

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        usage: x509.ObjectIdentifier | None = None,
        address: str = "",
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        public = key.public_key()
        by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self._name))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
        )
        if self._key_ids:
            own = x509.SubjectKeyIdentifier.from_public_key(public)
            builder = builder.add_extension(own, critical=False).add_extension(by, critical=False)
        if authority:
            signs = dict.fromkeys(_KEY_USES, False) | {"key_cert_sign": True, "crl_sign": True}
            builder = builder.add_extension(x509.KeyUsage(**signs), critical=True)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if address:
            names = [x509.IPAddress(ipaddress.ip_address(address))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


_KEY_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
