"""The shipped bundles' hashes, in the code: what lies in the package must be what this version was released with."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInputError

PINNED = {
    "glioma": "50a4f5ee50e463dc03bd975bf8a77986983d8fd957847b067d52ef8ef83d37e5",
    "phantom": "f1e60506ed2b2e107021c232a6d60b2254698a52e869a2c2268a90a0522a0f0c",
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
