"""What PyInstaller must know of this package; it finds the folder by the entry point `pyinstaller40`."""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """Folders with hooks."""
    return [str(Path(__file__).parent)]
