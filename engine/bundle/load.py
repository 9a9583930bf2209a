"""A bundle on disk: found, read and verified before anything of it is used."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from ..errors import InvalidInputError, UsageError
from ..files import sha256_file
from ..folder import Folder
from ..onnx_sessions import fast_graph_name
from . import store
from .manifest import MANIFEST_NAME, SIGNATURE_NAME, BundleManifest, FileRecord
from .onnx_scan import check_onnx_file
from .parse import parse_manifest
from .pins import require_pinned
from .signature import Signer, require_signed
from .store import named_bundle, pulled_bundles, shipped_bundles

_log = logging.getLogger("sbldm")
MAX_MANIFEST_BYTES = 8 * 2**20
MAX_BUNDLE_BYTES = 16 * 2**30
MAX_FILES = 10_000
DEFAULT_BUNDLE = "phantom"
REDUCED_PRECISIONS = ("fp16", "bf16")
"""Of graphs that a bundle may hold beside its fp32 ones, the more exact first."""

FP32_COMPONENTS = frozenset({"mask_denoiser"})
"""Computed in fp32 in every precision of a GPU: the masks are cut out of its maps at a level that is solved for, which
makes whole layers of voxels of a rounding error. It is small."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    manifest: BundleManifest
    sha256: str  # of bundle.json, which fixes every other file
    signer: Signer | None = None  # where its signature was verified

    @property
    def hashes(self) -> dict[str, str]:
        """Hex sha256 of every file but the signature, by name."""
        return {MANIFEST_NAME: self.sha256} | {name: record.sha256 for name, record in self.manifest.files.items()}

    @property
    def file_names(self) -> tuple[str, ...]:
        """Every file, as it is copied elsewhere: bundle.json, what that lists, and the signature where there is one."""
        signature = (SIGNATURE_NAME,) if (self.path / SIGNATURE_NAME).is_file() else ()
        return (MANIFEST_NAME, *self.manifest.files, *signature)

    def component_path(self, component: str, precision: str = "fp32") -> Path:
        """Path of a component's ONNX file, in a precision that lies beside the plain one; KeyError without it."""
        return self.path / self.component_file(component, precision)

    def component_file(self, component: str, precision: str = "fp32") -> str:
        """Name of that file, as the manifest lists it."""
        plain = self.manifest.components[component].file
        reduced = reduced_graph_name(plain, component_precision(component, precision))
        return reduced if reduced in self.manifest.files else plain

    def component_sha256(self, component: str, precision: str = "fp32") -> str:
        """Of all that a component's graph is made of: a graph in 16 bits reads weights from the plain one beside it."""
        plain, file = self.manifest.components[component].file, self.component_file(component, precision)
        own = self.manifest.files[file].sha256
        if file == plain:
            return own
        return hashlib.sha256(f"{own} {self.manifest.files[plain].sha256}".encode()).hexdigest()

    @property
    def precisions(self) -> tuple[str, ...]:
        """What its graphs compute in: the plain ones, then 16 bits that all have beside them but `FP32_COMPONENTS`."""
        files = [spec.file for name, spec in self.manifest.components.items() if name not in FP32_COMPONENTS]
        beside = (
            precision
            for precision in REDUCED_PRECISIONS
            if all(reduced_graph_name(file, precision) in self.manifest.files for file in files)
        )
        return (self.manifest.precision, *beside)

    def has(self, component: str) -> bool:
        """Whether the preset has this component."""
        return component in self.manifest.components


def component_precision(component: str, precision: str) -> str:
    """What a component computes in, in a run of this precision."""
    return "fp32" if component in FP32_COMPONENTS else precision


def reduced_graph_name(file: str, precision: str) -> str:
    """Name of the graph beside `file` that computes in 16 bits."""
    return f"{file.removesuffix('.onnx')}.{precision}.onnx"


def is_shipped(bundle: Bundle) -> bool:
    """Whether a bundle came with the package, so that its name is enough to load it."""
    return _lies_in_the_package(bundle.path)


def bundle_directory(name_or_path: str | os.PathLike[str]) -> Path:
    """Directory of a bundle's name, shipped or pulled, or of a path; what is no `str` is never taken for a name.

    Raises:
        InvalidInputError: neither a directory nor the name of such a bundle.
        UsageError: it is empty.
    """
    if not os.fspath(name_or_path):
        raise UsageError(f"bundle: is empty; give a name ({_known()}) or the path of a bundle")
    named = named_bundle(name_or_path) if isinstance(name_or_path, str) else None
    path = named or Path(name_or_path)
    try:
        is_directory, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InvalidInputError(f"bundle {path}: cannot be read ({error.strerror})") from error
    if not is_directory:
        missing = "is no directory" if exists else "no such directory"
        raise InvalidInputError(f"bundle {path}: {missing}, and no bundle of that name ({_known()})")
    return path


def _known() -> str:
    shipped, pulled = (", ".join(names) or "none" for names in (shipped_bundles(), pulled_bundles()))
    return f"shipped: {shipped}; pulled: {pulled}"


def load_bundle(
    name_or_path: str | os.PathLike[str] = DEFAULT_BUNDLE, require_signature: str | os.PathLike[str] | None = None
) -> Bundle:
    """Read and verify a bundle: schema, file list, sizes, hashes, signature, sound ONNX files; no model is loaded.

    Args:
        name_or_path: a shipped or pulled bundle's name, or a directory; a `Path` is always a directory.
        require_signature: PEM file of the public key, or of the issuer's certificate, that it must be signed by.

    Raises:
        InvalidInputError: what is wrong with it, naming the file.
        UsageError: no bundle is named, `require_signature` is no such file, or what verifies signatures is not
            installed.
    """
    path = bundle_directory(name_or_path)
    manifest_path = path / MANIFEST_NAME
    try:
        with Folder(path) as folder:
            raw = folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
            digest = hashlib.sha256(raw).hexdigest()
            if _lies_in_the_package(path):
                require_pinned(path.resolve(), digest)
            bundle = Bundle(path, parse_manifest(raw, str(manifest_path)), digest)
            _verify_files(folder, bundle.manifest)
            if require_signature is not None:
                bundle = replace(bundle, signer=require_signed(folder, bundle.hashes, require_signature))
    except OSError as error:
        raise InvalidInputError(f"{manifest_path}: cannot be read ({error.strerror}); is this a bundle?") from error
    for component in bundle.manifest.components.values():
        reduced = (reduced_graph_name(component.file, precision) for precision in REDUCED_PRECISIONS)
        beside = (fast_graph_name(component.file), *reduced)
        for name in (component.file, *filter(bundle.manifest.files.__contains__, beside)):
            check_onnx_file(path / name)
    _log.debug(f"bundle {bundle.manifest.id}: {len(bundle.manifest.files)} files are as its manifest says")
    return bundle


def record_files(path: Path) -> dict[str, FileRecord]:
    """Records of every file below a bundle directory but its manifest and signature, by relative POSIX path."""
    unlisted = (path / MANIFEST_NAME, path / SIGNATURE_NAME)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p not in unlisted)
    return {p.relative_to(path).as_posix(): FileRecord(sha256_file(p), p.stat().st_size) for p in files}


def provenance_date() -> str:
    """Today's date as the manifest writes it; SOURCE_DATE_EPOCH overrides the clock for reproducible bundles."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return (date.fromtimestamp(int(epoch)) if epoch else date.today()).isoformat()


def _lies_in_the_package(path: Path) -> bool:
    return path.resolve().parent == store.BUNDLES


def _verify_files(folder: Folder, manifest: BundleManifest) -> None:
    path = folder.root
    for count, name in enumerate(folder.walk()):
        if name not in manifest.files and name not in (MANIFEST_NAME, SIGNATURE_NAME):
            raise InvalidInputError(
                f"{path / name}: not listed in {MANIFEST_NAME}; remove it or export the bundle again"
            )
        if name == SIGNATURE_NAME and folder.status(name) is None:
            raise InvalidInputError(f"{path / name}: is a link or no regular file; a bundle holds plain files alone")
        if count > MAX_FILES:
            raise InvalidInputError(f"{path}: holds more than {MAX_FILES} files")
    total = sum(record.bytes for record in manifest.files.values())
    if total > MAX_BUNDLE_BYTES:
        raise InvalidInputError(f"{path}: lists {total} bytes, at most {MAX_BUNDLE_BYTES} are allowed")
    for name, record in manifest.files.items():
        _verify_file(folder, name, record)


def _verify_file(folder: Folder, name: str, record: FileRecord) -> None:
    file, status = folder.root / name, folder.status(name)
    if status is None:
        if folder.has(name):
            raise InvalidInputError(f"{file}: is a link or no regular file; a bundle holds plain files alone")
        raise InvalidInputError(f"{file}: listed in {MANIFEST_NAME} but missing; get the bundle again")
    shipped = folder.root.resolve().is_relative_to(store.BUNDLES)
    if status.st_nlink > 1 and not shipped:  # installers link what is shipped
        raise InvalidInputError(f"{file}: has another name elsewhere (a hard link); copy the bundle with its content")
    if status.st_size != record.bytes:
        raise InvalidInputError(
            f"{file}: has {status.st_size} bytes where {MANIFEST_NAME} says {record.bytes}; get the bundle again"
        )
    if folder.sha256(name) != record.sha256:
        raise InvalidInputError(
            f"{file}: its sha256 differs from {MANIFEST_NAME}; it was changed, get the bundle again"
        )
