"""The directory of a command's figures, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def require_own(out: Path, figures: str, others: Sequence[str]) -> None:
    """Make the directory; UsageError where it cannot be, or holds files of these names without its `figures` file."""
    from ..engine.errors import UsageError
    from ..engine.files import make_directory

    try:
        make_directory(out)
        names = {path.name for path in out.iterdir()}
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be used as a directory ({error.strerror})") from error
    taken = sorted(names & {*others})
    if taken and figures not in names:
        raise UsageError(
            f"--out {out}: holds {taken[0]!r} and no {figures}, so it is not of this command; nothing in it was "
            "touched; give another directory"
        )
