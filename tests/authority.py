"""A certificate authority of a test's own, and what it signs."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Authority:
    """PEM files: `bundle` for who is to trust, `server` with key and certificate for a server."""

    bundle: Path
    server: Path


def authority(directory: Path) -> Authority:
    """Make an authority, and a certificate of it for this machine's loopback names."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, name = _name("A test's authority"), _name("localhost")
    limit = x509.BasicConstraints(ca=True, path_length=None)
    root = _certificate(root_name, root_name, root_key.public_key())
    root_certificate = root.add_extension(limit, critical=True).sign(root_key, hashes.SHA256())
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    leaf = _certificate(name, root_name, key.public_key()).add_extension(names, critical=False)
    certificate = leaf.sign(root_key, hashes.SHA256())
    made = Authority(directory / "authority.pem", directory / "server.pem")
    made.bundle.write_bytes(root_certificate.public_bytes(serialization.Encoding.PEM))
    made.server.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
        + root_certificate.public_bytes(serialization.Encoding.PEM)
    )
    return made


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1),
        not_valid_after=now + timedelta(days=1),
    )
