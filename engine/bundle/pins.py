"""The shipped bundles' hashes, in the code: what lies in the package must be what this version was released with."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInputError

PINNED = {
    "glioma": "dc2fc14d31fb238dd4a099eaaef75a0afc678bd1804935e1e5f9747023c7ad2f",
    "phantom": "62f927c43378a4a573888905be03ebc652c11ff9ac60efd5d759a8a07fa582db",
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
