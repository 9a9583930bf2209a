"""The shipped bundles' hashes, in the code: what lies in the package must be what this version was released with."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInputError

PINNED = {
    "glioma": "025ef08e234215808e8f5469ca3a926cbf4509b27358ec7a241bc4a54dfd5218",
    "phantom": "b0c65fe27555087ba471b8ea55d56036b2ff218753d91da355cd8fe8efb8af8e",
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
