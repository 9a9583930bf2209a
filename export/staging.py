"""Directories that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..engine.errors import UsageError


def require_free(out: Path) -> None:
    """Raises UsageError where `out` is a file or a directory that holds files."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists and is not an empty directory; name another or remove it")


@contextmanager
def staged_directory(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends, and is gone when the block raises.

    Raises:
        UsageError: `out` holds files or cannot be written.
    """
    require_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as folder:
            staging = Path(folder) / out.name
            staging.mkdir()
            yield staging
            if out.exists():
                out.rmdir()
            os.replace(staging, out)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror or error}") from error
