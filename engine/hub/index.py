"""What a remote offers: a name, the hash that fixes every file, and what people choose by.

`index.json` names models and hashes, and no paths: a model's files lie at `NAME/bundle.json` and where that says, under
names that `engine/bundle/parse.py` accepts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..bundle.load import MAX_MANIFEST_BYTES
from ..bundle.manifest import NAME, SIGNATURE_NAME, FileRecord
from ..bundle.parse import parse_manifest
from ..bundle.signature import MAX_SIGNATURE_BYTES
from ..bundle.store import MANIFEST_NAME
from ..decode import decode
from ..errors import InvalidInputError, SbldmError, UsageError
from ..folder import Folder

INDEX_NAME = "index.json"
MAX_INDEX_BYTES = 4 * 2**20
_SCHEMA = 1
_MAX_NAME = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteModel:
    """A model as a remote announces it; `sha256` is that of its bundle.json, `bytes` of all its files."""

    sha256: str
    bytes: int
    id: str
    form: str
    licence: str
    signature: FileRecord | None  # of `model.sig`, which bundle.json cannot list


@dataclass(frozen=True)
class Offer:
    """What a place has: models by name, and by name why something that lies there is none that can be used."""

    models: Mapping[str, RemoteModel]
    broken: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Index:
    schema: int
    models: dict[str, RemoteModel]


def described(folder: Folder, prefix: str = "") -> RemoteModel:
    """What a bundle in a folder says of its model; `prefix` is the path to it in the folder, with a slash.

    Raises:
        InvalidInputError: it has no manifest that can be read.
        OSError: it cannot be read.
    """
    raw = folder.read(f"{prefix}{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
    manifest = parse_manifest(raw, str(folder.root / prefix / MANIFEST_NAME))
    signature = None
    if folder.status(f"{prefix}{SIGNATURE_NAME}") is not None:
        data = folder.read(f"{prefix}{SIGNATURE_NAME}", MAX_SIGNATURE_BYTES)
        signature = FileRecord(hashlib.sha256(data).hexdigest(), len(data))
    total = len(raw) + sum(record.bytes for record in manifest.files.values())
    digest = hashlib.sha256(raw).hexdigest()
    return RemoteModel(digest, total, manifest.id, manifest.form, manifest.provenance.licence, signature)


def offer_of(root: Path, names: Iterable[str]) -> Offer:
    """What the folders of these names, directly in a directory, hold."""
    models, broken = {}, {}
    with Folder(root) as folder:
        for name in names:
            try:
                models[name] = described(folder, f"{name}/")
            except InvalidInputError as error:
                broken[name] = str(error)
            except OSError as error:
                broken[name] = f"{root / name / MANIFEST_NAME}: cannot be read ({error.strerror})"
    return Offer(models, broken)


def parse_index(raw: bytes, where: str) -> dict[str, RemoteModel]:
    """Name -> model of the bytes of an `index.json`.

    Raises:
        InvalidInputError: it is no index, or holds names or hashes that are none.
    """
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where}: not valid JSON ({error}); is this an index of models?") from error
    index = decode(_Index, data, where)
    if index.schema != _SCHEMA:
        raise InvalidInputError(f"{where}: schema is {index.schema}, this version reads {_SCHEMA}")
    for name, model in index.models.items():
        require_name(name, f"{where}: models")
        require_sha256(model.sha256, f"{where}: models.{name}: sha256")
        if model.signature is not None and not 0 <= model.signature.bytes <= MAX_SIGNATURE_BYTES:
            raise InvalidInputError(f"{where}: models.{name}: a signature has at most {MAX_SIGNATURE_BYTES} bytes")
    return index.models


def index_bytes(models: Mapping[str, RemoteModel]) -> bytes:
    """The bytes of an `index.json`, stable for equal models."""
    data = {"schema": _SCHEMA, "models": {name: asdict(model) for name, model in models.items()}}
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def require_no_other(models: Mapping[str, RemoteModel], name: str, model: RemoteModel, where: str) -> None:
    """UsageError where a remote has another model of that name; one that differs in its signature is no other."""
    found = models.get(name)
    if found is not None and found.sha256 != model.sha256:
        raise UsageError(f"{where}: has another model {name!r} ({found.id}); give this one another name by --name")


def require_any(offers: Iterable[Offer]) -> None:
    """InvalidInputError where all that lies in these places is broken."""
    held = list(offers)
    broken = [fault for offer in held for fault in offer.broken.values()]
    if broken and not any(offer.models for offer in held):
        raise InvalidInputError("\n".join(broken))


def require_name(name: str, where: str, refusal: type[SbldmError] = InvalidInputError) -> None:
    """`refusal` where a name could not be that of a model: it becomes the name of a folder."""
    if not NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise refusal(f"{where}: {name!r} must match {NAME.pattern}, at most {_MAX_NAME} characters")


def require_sha256(text: str, where: str, refusal: type[SbldmError] = InvalidInputError) -> None:
    """`refusal` where a text is not 64 hexadecimal digits in lower case."""
    if not _SHA256.fullmatch(text):
        raise refusal(f"{where}: {text!r} must be 64 hexadecimal digits")
