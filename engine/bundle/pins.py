"""The shipped bundles' hashes, in the code: what lies in the package must be what this version was released with."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInputError

PINNED = {
    "glioma": "b1af33497c264341fd02b3d39eeed11c883b21cf7c1840b1a2e4696816a659cf",
    "phantom": "9c94e7dfa3603a0f9121a0b3c1a02ddd33f8ded765861404fca049ec42fd32ff",
}
"""Name of a shipped bundle -> sha256 of its bundle.json, which fixes every other file."""


def require_pinned(path: Path, sha256: str) -> None:
    """Hold a bundle in the package's own folder to `PINNED`; `path` has no links.

    Raises:
        InvalidInputError: it is not the one of its name.
    """
    if PINNED.get(path.name) != sha256:
        raise InvalidInputError(
            f"{path}: is not the bundle that this version of the package was released with; install the package again "
            "(in a checkout, its sha256 belongs into engine/bundle/pins.py)"
        )
