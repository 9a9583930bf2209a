"""Where Matplotlib may keep its fonts: with what else the program caches, not in a folder of its own in HOME."""

from __future__ import annotations

import os
import tempfile

VARIABLE = "MPLCONFIGDIR"


def settle_matplotlib() -> None:
    """Name a folder that can be written, before Matplotlib is imported; one that the user named stays.

    Raises:
        UsageError: there is none, not even a temporary one.
    """
    if VARIABLE in os.environ:
        return
    from ..engine.errors import UsageError
    from ..engine.files import make_directory
    from ..engine.portable import cache_home

    try:
        folder = cache_home() / "matplotlib"
        make_directory(folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError
        os.environ[VARIABLE] = str(folder)
    except OSError:
        try:
            os.environ[VARIABLE] = tempfile.mkdtemp(prefix="sbldm-matplotlib-")
        except OSError as error:
            raise UsageError(f"plots need a folder that can be written; name one by {VARIABLE}") from error
