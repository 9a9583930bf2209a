"""The models of this machine that a name is enough for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..bundle.load import bundle_directory
from ..bundle.store import pulled_bundles, shipped_bundles
from ..files import Folder
from .index import RemoteModel, described


@dataclass(frozen=True)
class LocalModel:
    """A shipped or a pulled model; its files are hashed when it is loaded."""

    name: str
    model: RemoteModel
    path: Path


def local_models() -> list[LocalModel]:
    """The shipped models, then the pulled ones.

    Raises:
        InvalidInputError: a bundle.json is none.
        OSError: one cannot be read.
    """
    found = []
    for name in (*shipped_bundles(), *pulled_bundles()):
        path = bundle_directory(name)
        with Folder(path) as folder:
            found.append(LocalModel(name, described(folder), path))
    return found
