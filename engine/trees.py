"""The removal of a folder with all that lies below it, beneath a descriptor; links are removed, never followed."""

from __future__ import annotations

import os

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(name: str, above: int) -> None:
    """Remove the folder `name` of the folder that is open as `above`.

    Raises:
        OSError: it is none, or something in it cannot be removed.
    """
    folder = os.open(name, _FOLDER, dir_fd=above)
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for inner, is_folder in found:
            if is_folder:
                remove_tree(inner, folder)
            else:
                os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=above)
