"""What commands of figures share: their options, the directory of figures, tables and pictures, what they print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Cache = Annotated[Path | None, typer.Option(help="Folder of prepared cases (default: OUT/cache).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON, not as a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
"""Looked for by `main`, which shows what the package logs."""


def tell(figures: dict[str, Any], table: str, as_json: bool) -> None:
    """Print the figures, as JSON or as their table."""
    import json

    typer.echo(json.dumps(figures, allow_nan=False) if as_json else table)


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
