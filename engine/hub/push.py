"""A model from this machine to a remote."""

from __future__ import annotations

import os

from ..bundle.load import Bundle, load_bundle
from .index import require_name
from .remote import open_remote


def push(bundle_name: str | os.PathLike[str], address: str, name: str | None = None) -> tuple[str, Bundle, bool]:
    """Add a bundle to a remote, whole or not at all.

    Returns its name there, the bundle, and whether it was added: it may be there already.

    Args:
        bundle_name: name or path of the bundle; it is verified first.
        address: the remote, see `open_remote`.
        name: its name there; default the id of the bundle.

    Raises:
        InvalidInputError: the bundle is damaged, or its id is no name.
        UsageError: the remote takes none, or has another model of that name; nothing is changed.
        IncompleteRunError: the remote cannot be reached.
    """
    bundle = load_bundle(bundle_name)
    given = bundle.manifest.id if name is None else name
    require_name(given, "--name")
    return given, bundle, open_remote(address).push(given, bundle)
