"""A plain directory of bundles: a folder each, and an `index.json` for who serves it over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ..bundle.load import Bundle, load_bundle
from ..bundle.manifest import SIGNATURE_NAME
from ..bundle.store import MANIFEST_NAME, names_in
from ..errors import InvalidInputError, UsageError
from ..files import make_directory, read_bounded
from ..folder import Folder
from ..locks import LockHeldError
from .index import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    Offer,
    described,
    index_bytes,
    offer_of,
    parse_index,
    require_name,
    require_no_other,
)
from .remote import Stream

_PIECE = 1 << 20
_LOCK = ".push.lock"


class DirectoryRemote:
    """See `Remote`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def offer(self) -> Offer:
        """Every folder with a bundle.json; the files beside it are hashed when they are pulled."""
        self._require_there()
        offer = self._scanned()
        return replace(offer, broken={**offer.broken, **self._faults_of_index(offer)})

    def _scanned(self) -> Offer:
        offer = offer_of(self.root, names_in(self.root))
        models, broken = dict(offer.models), dict(offer.broken)
        for name in offer.models:
            try:
                require_name(name, f"{self.root}: name of a model's folder", InvalidInputError)
            except InvalidInputError as error:
                broken[name] = f"{error}; rename it"
                del models[name]
        return Offer(models, broken)

    def _faults_of_index(self, offer: Offer) -> dict[str, str]:
        """What is wrong with `index.json`, which only those read to whom the directory is served."""
        where = self.root / INDEX_NAME
        try:
            listed = parse_index(read_bounded(where, MAX_INDEX_BYTES), str(where))
        except FileNotFoundError:
            return {}
        except InvalidInputError as error:
            return {INDEX_NAME: f"{error} (`models push` writes it anew)"}
        except OSError as error:
            return {INDEX_NAME: f"{where}: cannot be read ({error.strerror}); `models push` writes it anew"}
        missing = sorted(listed.keys() - offer.models.keys() - offer.broken.keys())
        return {name: f"{self.root / name / MANIFEST_NAME}: is not there, but {where} lists it" for name in missing}

    @contextmanager
    def opened(self, path: str, start: int = 0) -> Iterator[Stream]:
        """A file from byte `start` on; links and devices are refused."""
        self._require_there()
        with Folder(self.root) as folder, ExitStack() as stack:
            try:
                handle = stack.enter_context(folder.reading(path))
            except OSError as error:
                raise InvalidInputError(f"{self.root / path}: cannot be read ({error.strerror})") from error
            handle.seek(start)
            yield Stream(str(self.root / path), start, self._pieces(handle, path))

    def _pieces(self, handle: BinaryIO, path: str) -> Iterator[bytes]:
        try:
            while piece := handle.read(_PIECE):
                yield piece
        except OSError as error:
            raise InvalidInputError(f"{self.root / path}: cannot be read ({error.strerror})") from error

    def push(self, name: str, bundle: Bundle) -> bool:
        """Copy the bundle to `NAME` and write `index.json` anew."""
        staging, signature = f".{name}.push", f"{name}/{SIGNATURE_NAME}"
        own = (name, signature, INDEX_NAME, _LOCK)
        try:
            make_directory(self.root)
            with (
                Folder(bundle.path) as source,
                Folder(self.root, lambda n: n in own or n.split("/")[0] == staging) as target,
                closing(target.appending(_LOCK)),
            ):
                offer, model = self._scanned(), described(source)
                if name in offer.broken:
                    raise UsageError(f"{offer.broken[name]}\n{self.root / name}: is broken; remove it, then push again")
                require_no_other(offer.models, name, model, str(self.root))
                is_new = offer.models.get(name) != model
                if name not in offer.models:
                    self._add(source, target, bundle, staging)
                    target.rename_folder(staging, name)
                elif is_new and model.signature is not None:
                    target.bring(source, SIGNATURE_NAME, signature, link=False)
                target.write(INDEX_NAME, index_bytes(self._scanned().models))
        except LockHeldError as error:
            raise UsageError(f"{self.root}: another push to it is under way; wait for it ({error})") from error
        except OSError as error:
            raise UsageError(f"{error.filename or self.root}: cannot be written ({error.strerror})") from error
        return is_new

    def _add(self, source: Folder, target: Folder, bundle: Bundle, staging: str) -> None:
        if target.has(staging):  # of a push that was killed
            target.clear(staging)
        try:
            for file in bundle.file_names:
                target.bring(source, file, f"{staging}/{file}", link=False)
            if load_bundle(self.root / staging).sha256 != bundle.sha256:
                raise InvalidInputError(f"{bundle.path}: was changed while it was copied")
        except BaseException:
            target.clear(staging)
            raise

    def _require_there(self) -> None:
        if not self.root.is_dir():
            what = "is no directory" if self.root.exists() else "no such directory"
            raise UsageError(
                f"{self.root}: {what}; a remote is a directory, https://HOST/PATH or hf://OWNER/REPOSITORY"
            )
