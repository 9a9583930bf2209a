"""Who signed a bundle: its OpenSSF model-signing signature, `model.sig`, verified without a network.

A signature is by an elliptic-curve key, or by a certificate; who verifies gives the public key, or a certificate of who
issued the signer's. It covers every file of the bundle, bundle.json included, by name and sha256. The format is that of
https://github.com/sigstore/model-transparency, whose own command line reads these signatures and makes such ones.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidInputError, UsageError
from ..files import read_bounded
from ..folder import Folder
from .manifest import SIGNATURE_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from model_signing import hashing

MAX_SIGNATURE_BYTES = 4 * 2**20
MAX_KEY_BYTES = 2**20
CURVES = ("secp256r1", "secp384r1", "secp521r1")
MISSING_PACKAGES = 'signatures need the package model-signing: pip install "sbldm-engine[sign]"'

KeyKind = Literal["key", "certificate"]


@dataclass(frozen=True)
class Signer:
    """Who a signature says it is of."""

    kind: KeyKind
    sha256: str  # of the public key as PEM, or of the certificate as DER
    subject: str | None  # of the certificate

    def __str__(self) -> str:
        return f"{self.kind} {self.sha256}" + (f" ({self.subject})" if self.subject else "")


def require_signed(folder: Folder, files: Mapping[str, str], key: str | os.PathLike[str]) -> Signer:
    """The signer of a bundle; `files` are the names and sha256 of all that was read of it.

    Args:
        folder: the bundle.
        files: its files, bundle.json included, without the signature.
        key: PEM file: a public key, or certificates of which one issued the signer's (or is the signer's own).

    Raises:
        UsageError: `key` is no such file, or the packages that verify are not installed.
        InvalidInputError: there is no signature, it is of another, or of other files.
    """
    where = folder.root / SIGNATURE_NAME
    expected = kind_of_key(Path(key))
    signer = read_signature(folder)
    if signer.kind != expected:
        needed = "the signer's public key" if signer.kind == "key" else "a certificate of who issued the signer's"
        raise InvalidInputError(f"{where}: was made with a {signer.kind}, {key} is a {expected}; give {needed}")
    try:
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying
        from OpenSSL.crypto import X509StoreContextError
    except ImportError as error:
        raise UsageError(MISSING_PACKAGES) from error
    config = verifying.Config()
    try:
        if expected == "key":
            config.use_elliptic_key_verifier(public_key=key)
        else:
            config.use_certificate_verifier(certificate_chain=[key])
        config.set_hashing_config(files_as_read(files))
        config.verify(folder.root.resolve(), where)
    except InvalidSignature as error:
        raise InvalidInputError(
            f"{where}: its signature is not by {key}; the bundle or its signature was changed"
        ) from error
    except X509StoreContextError as error:
        raise InvalidInputError(f"{where}: its certificate was not issued by {key} ({error})") from error
    except (ValueError, KeyError) as error:
        raise InvalidInputError(
            f"{where}: {_reason(error, key, folder, files)}; get the bundle again, or have it signed again"
        ) from error
    return signer


def read_signature(folder: Folder) -> Signer:
    """The signer that the signature in a bundle names; nothing is verified.

    Raises:
        InvalidInputError: there is none, or it is none by a key or a certificate.
    """
    where = folder.root / SIGNATURE_NAME
    try:
        text = folder.read(SIGNATURE_NAME, MAX_SIGNATURE_BYTES)
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"{where}: is missing, so nobody signed this bundle; get a signed one, or sign it: sbldm-engine bundle sign"
        ) from error
    except OSError as error:
        raise InvalidInputError(f"{where}: is no regular file, or cannot be read ({error.strerror})") from error
    try:
        content = json.loads(text)
        if len(content["dsseEnvelope"]["signatures"]) != 1:
            raise InvalidInputError(f"{where}: holds other than one signature")
        return _signer(content["verificationMaterial"])
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise InvalidInputError(
            f"{where}: is no signature by an elliptic-curve key or certificate (those of Sigstore's service, "
            "without a key, cannot be verified without a network)"
        ) from error


def kind_of_key(key: Path) -> KeyKind:
    """Whether a PEM file is a public key or holds certificates.

    Raises:
        UsageError: it is neither, cannot be read, or is a key that signatures are not made with.
    """
    data = read_key(key)
    if b"PRIVATE KEY" in data:
        raise UsageError(f"{key}: is a private key; give the public one (openssl pkey -in KEY -pubout -out PUBLIC)")
    try:
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise UsageError(MISSING_PACKAGES) from error
    try:
        if b"BEGIN CERTIFICATE" in data:
            x509.load_pem_x509_certificates(data)
            return "certificate"
        require_curve(load_pem_public_key(data))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{key}: must be a PEM file with a public key of {', '.join(CURVES)}, or with certificates ({error})"
        ) from error
    return "key"


def read_key(key: Path) -> bytes:
    """The bytes of a key or certificate file; UsageError where it cannot be read."""
    try:
        return read_bounded(key, MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"{key}: cannot be read ({error.strerror}); give a PEM file") from error
    except InvalidInputError as error:
        raise UsageError(str(error)) from error


def require_curve(key: PublicKeyTypes) -> None:
    """ValueError where a public key is not of one of `CURVES`."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("it is of another kind")
    if key.curve.name not in CURVES:
        raise ValueError(f"its curve is {key.curve.name}")


def files_as_read(files: Mapping[str, str]) -> hashing.Config:
    """How the library hashes a bundle: by file, all but the signature, and only if it finds what was read before."""
    from model_signing import hashing, manifest

    class AsRead(hashing.Config):
        def hash(self, model_path: hashing.PathLike, *, files_to_hash: Any = None) -> manifest.Manifest:
            found = super().hash(model_path, files_to_hash=files_to_hash)
            if {item.identifier: item.digest.digest_hex for item in found.resource_descriptors()} != files:
                raise ValueError("files changed while they were read, or the signature leaves some out")
            return found

    config = AsRead().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    return config.set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)


def _signer(material: dict[str, Any]) -> Signer:
    """Raises ValueError, LookupError or TypeError where the material is not that of a key or a certificate."""
    if "publicKey" in material:
        hint = material["publicKey"]["hint"]
        if len(bytes.fromhex(hint)) != sha256().digest_size:
            raise ValueError("no sha256")
        return Signer("key", hint, None)
    from cryptography import x509

    data = base64.b64decode(material["x509CertificateChain"]["certificates"][0]["rawBytes"], validate=True)
    certificate = x509.load_der_x509_certificate(data)
    require_curve(certificate.public_key())
    return Signer("certificate", sha256(data).hexdigest(), certificate.subject.rfc4514_string())


def _reason(error: Exception, key: str | os.PathLike[str], folder: Folder, files: Mapping[str, str]) -> str:
    """What the library says, in the words of who reads it."""
    text = str(error)
    if text.startswith("Key mismatch"):
        return f"was made with another key than {key}"
    if not text.startswith("Signature mismatch"):
        return text
    envelope = json.loads(folder.read(SIGNATURE_NAME, MAX_SIGNATURE_BYTES))["dsseEnvelope"]
    resources = json.loads(base64.b64decode(envelope["payload"]))["predicate"]["resources"]
    signed = {resource["name"]: resource["digest"] for resource in resources}
    differences = {
        "was changed": [name for name in files if signed.get(name, files[name]) != files[name]],
        "is missing": sorted(signed.keys() - files),
        "was added": sorted(files.keys() - signed),
    }
    return "since it was signed " + ", ".join(f"{n} {what}" for what, names in differences.items() for n in names[:5])
