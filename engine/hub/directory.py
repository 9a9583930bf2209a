"""A plain directory of bundles: a folder each, and an `index.json` for who serves it over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from ..bundle.load import Bundle, load_bundle
from ..bundle.manifest import SIGNATURE_NAME
from ..bundle.store import names_in
from ..errors import InvalidInputError, UsageError
from ..files import Folder, make_directory
from .index import INDEX_NAME, RemoteModel, described, index_bytes, require_name, require_no_other
from .remote import Stream

_PIECE = 1 << 20
_LOCK = ".push.lock"


class DirectoryRemote:
    """See `Remote`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> dict[str, RemoteModel]:
        """Every folder whose bundle.json can be read; the files beside it are hashed when they are pulled."""
        self._require_there()
        return _scanned(self.root)

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
            yield Stream(start, self._pieces(handle, path))

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
                models, model = _scanned(self.root), described(source)
                require_no_other(models, name, model, str(self.root))
                is_new = models.get(name) != model
                if name not in models:
                    self._add(source, target, bundle, staging)
                    target.rename_folder(staging, name)
                elif is_new and model.signature is not None:
                    target.bring(source, SIGNATURE_NAME, signature, link=False)
                target.write(INDEX_NAME, index_bytes(_scanned(self.root)))
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
            raise UsageError(
                f"{self.root}: no such directory; a remote is a directory, https://..., or hf://OWNER/REPOSITORY"
            )


def _scanned(root: Path) -> dict[str, RemoteModel]:
    found = {}
    with Folder(root) as folder:
        for name in names_in(root):
            try:
                require_name(name, str(root))
                found[name] = described(folder, f"{name}/")
            except (InvalidInputError, OSError):  # no model of ours: it is none that is offered
                continue
    return found
