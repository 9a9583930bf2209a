"""A model from this machine to a remote."""

from __future__ import annotations

import os
from pathlib import Path

from ..bundle.load import Bundle, load_bundle
from ..errors import UsageError
from .index import require_name
from .open_remote import open_remote


def push(
    bundle_name: str | os.PathLike[str], address: str, name: str | None = None, require_signature: Path | None = None
) -> tuple[str, Bundle, bool]:
    """Add a bundle to a remote, whole or not at all.

    Returns its name there, the bundle, and whether it was added: it may be there already.

    Args:
        bundle_name: name or path of the bundle; it is verified first.
        address: the remote, see `open_remote`.
        name: its name there; default the id of the bundle.
        require_signature: who must have signed it, see `load_bundle`.

    Raises:
        InvalidInputError: the bundle is damaged, or its id is no name.
        UsageError: a name that is none, the remote takes none or has another model of that name; nothing is changed.
        IncompleteRunError: the remote cannot be reached.
    """
    bundle = load_bundle(bundle_name, require_signature)
    given = bundle.manifest.id if name is None else name
    if name is None:
        require_name(given, f"{bundle.path}: its id, which names it unless --name does")
    else:
        require_name(given, "--name", UsageError)
    return given, bundle, open_remote(address).push(given, bundle)
