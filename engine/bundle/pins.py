"""The shipped bundles' hashes, in the code: what lies in the package must be what this version was released with."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInputError

PINNED = {
    "glioma": "9ca8da9f7e191a066668cda86d7e2c6b14c1bd523c88279f40023cfa686b8fa4",
    "phantom": "9aece7f6d729bd15001b562cc055578abe066fd62a11203d361fb3c64987ab8a",
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
