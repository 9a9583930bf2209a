"""Signatures of bundles: by the right key over the very files that were read, or refused with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sbldm.engine.bundle.load import Bundle, load_bundle, record_files
from sbldm.engine.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from sbldm.engine.bundle.sign import sign_bundle
from sbldm.engine.bundle.signature import require_signed
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.files import sha256_file
from sbldm.engine.folder import Folder

from tests.support.keys import write_certificate, write_pair


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine, other: pairs; ca.crt issued mine.crt, other-ca.crt nothing."""
    folder = tmp_path_factory.mktemp("keys")
    mine, other = write_pair(folder, "mine"), write_pair(folder, "other")
    write_certificate(folder, "ca", other, ("ca", other), signs=False)
    write_certificate(folder, "other-ca", mine, ("other-ca", mine), signs=False)
    write_certificate(folder, "mine", mine, ("ca", other), signs=True)
    write_certificate(folder, "cannot-sign", mine, ("ca", other), signs=False)
    return folder


@pytest.fixture(scope="module")
def signed(tiny_bundle: Bundle, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a signature by `mine`. Do not write to it."""
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path_factory.mktemp("signed") / "bundle"))
    sign_bundle(load_bundle(copy), keys / "mine.pem")
    return copy


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


def seal(bundle: Path) -> None:
    """Make the manifest agree with what lies there, as somebody with intent would."""
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    manifest["files"] = {name: vars(record) for name, record in record_files(bundle).items()}
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))


def refused(bundle: Path, key: Path) -> str:
    with pytest.raises(InvalidInputError) as caught:
        load_bundle(bundle, key)
    return str(caught.value)


def test_a_signed_bundle_loads_by_its_key_alone(signed: Path, keys: Path) -> None:
    loaded = load_bundle(signed, keys / "mine.pub")
    assert loaded.signer is not None
    assert loaded.signer.kind == "key"
    assert loaded.signer.sha256 == hashlib.sha256((keys / "mine.pub").read_bytes()).hexdigest()
    assert load_bundle(signed).signer is None  # a signature that nobody asked for says nothing
    assert "another key than" in refused(signed, keys / "other.pub")


def test_nothing_is_asked_of_a_network(copy: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was wanted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sign_bundle(load_bundle(copy), keys / "other.pem")
    load_bundle(copy, keys / "other.pub")


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("name", ["denoiser.onnx", "README.md", MANIFEST_NAME])
def test_one_changed_byte_is_refused(copy: Path, keys: Path, name: str, sealed: bool) -> None:
    data = bytearray((copy / name).read_bytes())
    if name == MANIFEST_NAME:
        data = data.replace(b'"intended_use": "', b'"intended_use": "x')
    else:
        data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    if sealed:
        seal(copy)
        assert f"{name} was changed" in refused(copy, keys / "mine.pub")
        load_bundle(copy)  # nothing but the signature can tell
    else:
        assert name in refused(copy, keys / "mine.pub")


def test_a_file_more_or_less_is_refused_though_the_manifest_lists_it_so(copy: Path, keys: Path) -> None:
    (copy / "more.txt").write_text("more")
    seal(copy)
    assert "since it was signed bundle.json was changed, more.txt was added" in refused(copy, keys / "mine.pub")
    (copy / "more.txt").unlink()
    (copy / "parity.json").unlink()
    seal(copy)
    assert "since it was signed bundle.json was changed, parity.json is missing" in refused(copy, keys / "mine.pub")


def test_files_that_change_between_reading_and_signing_are_not_signed(copy: Path, keys: Path) -> None:
    loaded = load_bundle(copy)
    (copy / "README.md").write_text("other")
    with pytest.raises(UsageError, match="files changed while they were read"):
        sign_bundle(loaded, keys / "mine.pem")
    forged = replace(loaded, sha256="0" * 64)
    with pytest.raises(UsageError, match="files changed while they were read"):
        sign_bundle(forged, keys / "mine.pem")


def test_a_signature_that_leaves_files_out_is_refused(copy: Path, keys: Path) -> None:
    """As the library's own command makes with --ignore-paths."""
    from model_signing import hashing, signing

    ignoring = hashing.Config().set_ignored_paths(paths=[SIGNATURE_NAME, "denoiser.onnx"])
    config = signing.Config().set_hashing_config(ignoring)
    config.use_elliptic_key_signer(private_key=keys / "mine.pem").sign(copy, copy / SIGNATURE_NAME)
    assert "leaves some out" in refused(copy, keys / "mine.pub")


def test_the_librarys_own_signatures_are_read_and_ours_by_the_library(copy: Path, keys: Path) -> None:
    from model_signing import hashing, signing, verifying

    verifying.Config().use_elliptic_key_verifier(public_key=keys / "mine.pub").verify(copy, copy / SIGNATURE_NAME)
    config = signing.Config().set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE_NAME]))
    config.use_elliptic_key_signer(private_key=keys / "other.pem").sign(copy, copy / SIGNATURE_NAME)
    assert load_bundle(copy, keys / "other.pub").signer is not None


def test_a_certificate_is_trusted_by_its_issuer(copy: Path, keys: Path) -> None:
    made = sign_bundle(load_bundle(copy), keys / "mine.pem", keys / "mine.crt", [keys / "ca.crt"])
    assert made.subject == "CN=mine"
    assert load_bundle(copy, keys / "ca.crt").signer == made
    assert sign_bundle(load_bundle(copy), keys / "mine.pem", keys / "mine.crt") == made
    assert "was not issued by" in refused(copy, keys / "other-ca.crt")
    assert "give a certificate of who issued" in refused(copy, keys / "mine.pub")
    sign_bundle(load_bundle(copy), keys / "mine.pem", keys / "cannot-sign.crt")
    assert "cannot be used for signing" in refused(copy, keys / "ca.crt")


def test_keys_that_cannot_sign_or_verify_are_refused(signed: Path, keys: Path, tmp_path: Path) -> None:
    write_pair(tmp_path, "rsa", rsa.generate_private_key(65537, 1024))
    write_pair(tmp_path, "curve", ec.generate_private_key(ec.SECP256K1()))
    write_pair(tmp_path, "hidden", password=b"secret")
    (tmp_path / "large").write_bytes(b"-" * 2**21)
    os.mkfifo(tmp_path / "pipe")
    before = (signed / SIGNATURE_NAME).read_bytes()
    for name in ("rsa.pem", "curve.pem", "hidden.pem", "large", "pipe", "none"):
        with pytest.raises(UsageError, match=name):
            sign_bundle(load_bundle(signed), tmp_path / name)
    for name in ("rsa.pub", "curve.pub", "hidden.pem", "large", "pipe", "none"):
        with pytest.raises(UsageError, match=name):
            load_bundle(signed, tmp_path / name)
    with pytest.raises(UsageError, match="does not match"):
        sign_bundle(load_bundle(signed), keys / "other.pem", keys / "mine.crt")
    assert (signed / SIGNATURE_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "nobody signed this bundle"),
        (lambda path: path.write_bytes(b""), "is no signature"),
        (lambda path: path.write_bytes(b"[" * 100_000), "is no signature"),
        (lambda path: path.write_bytes(b" " * (2**22 + 1)), "larger than"),
        (lambda path: (path.rename(path.parents[1] / "s"), path.symlink_to(path.parents[1] / "s")), "is a link"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
        (lambda path: (path.unlink(), path.mkdir(), (path / "x").touch()), "not listed"),
    ],
)  # fmt: skip
def test_damaged_signatures_are_refused(copy: Path, keys: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(copy / SIGNATURE_NAME)
    assert said in refused(copy, keys / "mine.pub")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_wounded_signatures_never_pass_over_changed_files(
    signed: Path, keys: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Any part of the signature changed, beside a changed file: always a refusal, never another exception."""
    content = json.loads((signed / SIGNATURE_NAME).read_bytes())
    spots = list(_spots(content))
    holder, key = spots[data.draw(st.integers(0, len(spots) - 1))]
    old = holder[key]
    value = st.one_of(st.none(), st.integers(), st.text(max_size=8), st.just([]), st.just({}), st.just([old, old]))
    holder[key] = data.draw(value)
    (tmp_path / SIGNATURE_NAME).write_text(json.dumps(content))
    (tmp_path / "README.md").write_text("changed")
    with Folder(tmp_path) as folder, pytest.raises(InvalidInputError):
        require_signed(folder, {"README.md": sha256_file(tmp_path / "README.md")}, keys / "mine.pub")


def _spots(content: dict | list):  # every (holder, key) of nested JSON
    for key in range(len(content)) if isinstance(content, list) else list(content):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _spots(content[key])


def test_without_the_packages_it_says_how_to_get_them(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UsageError, match=r"sbldm-engine\[sign\]"):
        load_bundle(signed, keys / "mine.pub")
    with pytest.raises(UsageError, match=r"sbldm-engine\[sign\]"):
        sign_bundle(load_bundle(signed), keys / "mine.pem")
