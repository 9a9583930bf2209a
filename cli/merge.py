"""`sbldm-engine merge`: the shards of a run become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    directories: Annotated[list[Path], typer.Argument(help="Directories of the shards.")],
    out: Annotated[Path, typer.Option("--out", help="New or empty directory, or one of those merged.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Check that shards belong together and that nothing is missing or double; link their files and write one manifest."""
    import dataclasses
    import json

    from ..engine.merge import merge_runs

    summary = merge_runs(directories, out)
    if as_json:
        print(json.dumps({"out": str(out), **dataclasses.asdict(summary)}))
    else:
        print(f"{summary.samples} samples, {summary.linked} files linked, {summary.copied} copied: {out}")
