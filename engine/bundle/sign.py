"""Signing a bundle, by OpenSSF model-signing, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import UsageError
from ..folder import Folder
from .load import Bundle
from .manifest import SIGNATURE_NAME
from .signature import MISSING_PACKAGES, Signer, files_as_read, read_key, read_signature, require_curve


def sign_bundle(bundle: Bundle, key: Path, certificate: Path | None = None, chain: Sequence[Path] = ()) -> Signer:
    """Write `model.sig` into a bundle; one that is there is replaced.

    Args:
        bundle: as it was loaded; files that changed since are not signed.
        key: private key of a curve (PEM, not encrypted).
        certificate: of the key (PEM); who verifies then gives a certificate of its issuer instead of a key.
        chain: further certificates, between the signer's and the issuer that others trust.

    Raises:
        UsageError: key and certificates are not such, do not belong together, or the bundle cannot be written.
    """
    try:
        from model_signing import signing
    except ImportError as error:
        raise UsageError(MISSING_PACKAGES) from error
    _require_private(key)
    config = signing.Config().set_hashing_config(files_as_read(bundle.hashes))
    try:
        if certificate is None:
            config.use_elliptic_key_signer(private_key=key)
        else:
            for path in (certificate, *chain):
                read_key(path)
            links = chain or [certificate]  # the library cannot take none
            config.use_certificate_signer(private_key=key, signing_certificate=certificate, certificate_chain=links)
        with TemporaryDirectory() as folder:
            config.sign(bundle.path.resolve(), Path(folder, SIGNATURE_NAME))
            signature = Path(folder, SIGNATURE_NAME).read_bytes()
    except ValueError as error:
        files = ", ".join(map(str, filter(None, (key, certificate, *chain))))
        raise UsageError(f"{files}: cannot sign {bundle.path} ({error})") from error
    try:
        with Folder(bundle.path, lambda name: name == SIGNATURE_NAME) as folder:
            folder.write(SIGNATURE_NAME, signature)
            return read_signature(folder)
    except OSError as error:
        raise UsageError(f"{bundle.path}: cannot be written ({error.strerror}); sign a copy of it") from error


def _require_private(key: Path) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        require_curve(load_pem_private_key(read_key(key), None).public_key())
    except TypeError as error:
        raise UsageError(f"{key}: is encrypted; decrypt it for signing (openssl pkey -in {key} -out FILE)") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{key}: must be a private key of a curve, as PEM (openssl ecparam -name prime256v1 -genkey): {error}"
        ) from error
