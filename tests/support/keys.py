"""Keys and certificates to sign with, made anew: nobody's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def write_pair(folder: Path, name: str, key: PrivateKey | None = None, password: bytes | None = None) -> PrivateKey:
    """`NAME.pem` and `NAME.pub`; by default of the curve P-256."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    hidden = BestAvailableEncryption(password) if password else NoEncryption()
    (folder / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return key


def write_certificate(folder: Path, name: str, key: PrivateKey, issuer: tuple[str, PrivateKey], signs: bool) -> None:
    """`NAME.crt`, of `key`, by an issuer of this name; `signs`: it may sign, else it may issue certificates."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer[0])]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not signs, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=signs, key_cert_sign=not signs, crl_sign=not signs, content_commitment=False,
                key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    made = builder.sign(issuer[1], hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
