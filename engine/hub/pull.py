"""A model from a remote to this machine: hashed as it comes, continued where it broke off, named when it is whole.

While it comes it lies in `.NAME.pull` of the models folder, which no name leads to. Files that are there with the right
hash are not asked for again, a shorter one is continued. Names of files come from a bundle.json whose hash the index,
and the user where they give it, has fixed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..bundle.load import MAX_BUNDLE_BYTES, MAX_FILES, MAX_MANIFEST_BYTES, Bundle, load_bundle
from ..bundle.manifest import SIGNATURE_NAME, BundleManifest, FileRecord
from ..bundle.parse import parse_manifest
from ..bundle.store import MANIFEST_NAME, MODELS_VARIABLE, models_folder, shipped_bundles
from ..errors import IncompleteRunError, InvalidInputError, UsageError
from ..files import FULL, make_directory
from ..folder import Folder
from ..locked_files import LockedFile
from ..locks import LockHeldError
from ..screen import size_text
from .index import RemoteModel, require_name, require_sha256
from .open_remote import open_remote
from .remote import Remote, read_whole

_GATHERED = 8 << 20  # bytes that are made lasting at once


@dataclass(frozen=True)
class Pulled:
    """A model on this machine."""

    name: str
    bundle: Bundle
    was_here: bool


def pull(
    name: str,
    address: str,
    sha256: str | None = None,
    own_name: str | None = None,
    require_signature: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Bring a model to the models folder, under `own_name` where that is given.

    Args:
        name: of the model, at the remote.
        address: the remote, see `open_remote`.
        sha256: of its bundle.json, as `models list` shows it, where it is known from elsewhere.
        own_name: name for this machine.
        require_signature: who must have signed it, see `load_bundle`.
        tell: told what is being done.

    Raises:
        UsageError: a name or a hash that is none, the remote has no such model, or the name is taken here; nothing is
            written.
        InvalidInputError: what came is not what the index says; nothing is kept.
        IncompleteRunError: the remote cannot be read, or the disk is full; the same call goes on.
    """
    target = name if own_name is None else own_name
    require_name(name, "name of a model", UsageError)
    require_name(target, "--name", UsageError)
    if sha256 is not None:
        sha256 = sha256.lower()
        require_sha256(sha256, "--sha256", UsageError)
    if target in shipped_bundles():
        raise UsageError(f"{target}: is the name of a shipped bundle; give another by --name")
    remote = open_remote(address)
    model = _announced(remote, name, address)
    if sha256 not in (None, model.sha256):
        raise InvalidInputError(f"{name} of {address}: bundle.json has sha256 {model.sha256}, --sha256 says {sha256}")
    folder = models_folder()
    if (folder / target).exists():
        return Pulled(target, _same(folder / target, model, require_signature), was_here=True)
    raw = read_whole(remote, f"{name}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
    where = f"{name}/{MANIFEST_NAME} of {address}"
    if hashlib.sha256(raw).hexdigest() != model.sha256:
        raise InvalidInputError(f"{where}: its sha256 differs from the index; it was changed, or is being changed")
    manifest = parse_manifest(raw, where)
    _require_bounds(manifest, where)
    files = dict(manifest.files)
    if model.signature is not None:
        files[SIGNATURE_NAME] = model.signature
    _bring(remote, name, files, raw, folder, target, require_signature, tell)
    return Pulled(target, load_bundle(folder / target), was_here=False)


def _announced(remote: Remote, name: str, address: str) -> RemoteModel:
    offer = remote.offer()
    if name in offer.broken:
        raise InvalidInputError(f"{address}: model {name!r} is broken: {offer.broken[name]}")
    models = offer.models
    if name not in models:
        raise UsageError(f"{address}: has no model {name!r}; it has {', '.join(sorted(models)) or 'none'}")
    return models[name]


def _same(path: Path, model: RemoteModel, require_signature: Path | None) -> Bundle:
    try:
        bundle = load_bundle(path, require_signature)
    except InvalidInputError as error:
        raise UsageError(f"{error}\n{path}: remove this folder to pull the model again") from error
    if bundle.sha256 != model.sha256:
        raise UsageError(
            f"{path}: is another bundle of that name ({bundle.manifest.id}); give this one another name by --name"
        )
    return bundle


def _require_bounds(manifest: BundleManifest, where: str) -> None:
    total = sum(record.bytes for record in manifest.files.values())
    if total > MAX_BUNDLE_BYTES or len(manifest.files) > MAX_FILES:
        raise InvalidInputError(
            f"{where}: lists {len(manifest.files)} files of {total} bytes; at most {MAX_FILES} files of "
            f"{MAX_BUNDLE_BYTES} bytes are allowed"
        )
    if own := manifest.files.keys() & {MANIFEST_NAME, SIGNATURE_NAME}:
        raise InvalidInputError(f"{where}: lists {own.pop()}, which is not its to list")


def _bring(
    remote: Remote,
    name: str,
    files: Mapping[str, FileRecord],
    raw: bytes,
    root: Path,
    target: str,
    require_signature: Path | None,
    tell: Callable[[str], None],
) -> None:
    staging, lock = f".{target}.pull", f".{target}.lock"
    try:
        make_directory(root)
        with (
            Folder(root, lambda n: n in (target, lock) or n.split("/")[0] == staging) as folder,
            closing(folder.appending(lock)),  # no two pulls of one name
        ):
            try:
                _fill(remote, name, files, raw, folder, staging, tell)
                load_bundle(root / staging, require_signature)
                folder.rename_folder(staging, target)
            except InvalidInputError:
                folder.clear(staging)
                raise
            finally:
                folder.remove(lock)
    except LockHeldError as error:
        raise UsageError(f"{root}: another pull of {target!r} is under way; wait for it ({error})") from error
    except OSError as error:
        told = f"{error.filename or root}: {error.strerror}"
        if error.errno in FULL:
            raise IncompleteRunError(f"{told}; what came is kept, make room and give the same command again") from error
        raise UsageError(f"{told}; ${MODELS_VARIABLE} names another folder for models") from error


def _fill(
    remote: Remote,
    name: str,
    files: Mapping[str, FileRecord],
    raw: bytes,
    folder: Folder,
    staging: str,
    tell: Callable[[str], None],
) -> None:
    """Fill the staging folder; what lies there of an earlier pull is used."""
    folder.write(f"{staging}/{MANIFEST_NAME}", raw)
    wanted = {f"{staging}/{file}" for file in (MANIFEST_NAME, *files)}
    for found in [n for n in folder.walk() if n.startswith(f"{staging}/") and n not in wanted]:
        folder.remove(found)
    for file, record in files.items():
        _bring_file(remote, f"{name}/{file}", folder, f"{staging}/{file}", record, tell)


def _bring_file(
    remote: Remote, path: str, folder: Folder, name: str, record: FileRecord, tell: Callable[[str], None]
) -> None:
    with closing(folder.appending(name)) as file:
        there = file.size()
        if there > record.bytes or (there == record.bytes and folder.sha256(name) != record.sha256):
            file.clear()
        elif there == record.bytes:
            return
        have = file.size()
        _require_room(folder, record.bytes - have)
        tell(f"{path}, {size_text(record.bytes)}" + (f", from {size_text(have)} on" if have else ""))
        _append(remote, path, file, record)
        if folder.sha256(name) == record.sha256:
            return
        if have:  # what was there belonged to something else
            file.clear()
            _append(remote, path, file, record)
    if folder.sha256(name) != record.sha256:
        raise InvalidInputError(f"{path}: its sha256 differs from {MANIFEST_NAME}; it was changed on its way or before")


def _append(remote: Remote, path: str, file: LockedFile, record: FileRecord) -> None:
    """The rest of a file; InvalidInputError where it is not `record.bytes` long."""
    with remote.opened(path, file.size()) as stream:
        if stream.start != file.size():
            file.clear()
        gathered = bytearray()
        try:
            for piece in stream.pieces:
                gathered += piece
                if file.size() + len(gathered) > record.bytes:
                    raise InvalidInputError(f"{path}: is longer than the {record.bytes} bytes of {MANIFEST_NAME}")
                if len(gathered) >= _GATHERED:
                    file.append(bytes(gathered))
                    gathered.clear()
        finally:
            file.append(bytes(gathered))
    if file.size() != record.bytes:
        raise InvalidInputError(f"{path}: has {file.size()} bytes where {MANIFEST_NAME} says {record.bytes}")


def _require_room(folder: Folder, wanted: int) -> None:
    system = os.statvfs(folder.root)
    if wanted > system.f_bavail * system.f_frsize:
        raise IncompleteRunError(
            f"{folder.root}: no room for {size_text(wanted)}; make room and give the same command again"
        )
