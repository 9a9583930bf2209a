"""`sbldm-engine merge`: the shards of a run become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    directories: Annotated[list[Path], typer.Argument(help="Directories of the shards.")],
    out: Annotated[Path, typer.Option("--out", help="New or empty directory, or one of those merged.")],
    add_to: Annotated[
        Path | None, typer.Option("--add-to", help="nnU-Net raw data set that gets the cases as training cases.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option("--splits", help="Its splits_final.json, if not in $nnUNet_preprocessed.")
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="With --add-to: hard links, not copies; a later change of one changes both.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Check that shards belong together, nothing missing or double; link their files, write one manifest."""
    import dataclasses
    import json
    import sys

    from ..engine.errors import UsageError
    from ..engine.run.description import read_description
    from ..engine.run.merge import merge_runs
    from ..engine.run.nnunet_split import add_to_dataset, check_addition
    from ..engine.screen import counted

    if (splits is not None or link) and add_to is None:
        raise UsageError("--splits and --link: belong to --add-to")
    if add_to is not None:
        check_addition(add_to, splits, read_description(directories[0]).layout())
    summary = merge_runs(directories, out)
    if as_json:
        print(json.dumps({"out": str(out), **dataclasses.asdict(summary)}))
    else:
        samples, linked = counted(summary.samples, "sample"), counted(summary.linked, "file")
        print(f"{samples}, {linked} linked, {summary.copied} copied: {out}")
    if add_to is not None:
        added = add_to_dataset(out, add_to, splits, link=link)
        print(
            f"{counted(added.samples, 'case')} added to {added.dataset}, training only by {added.splits}",
            file=sys.stderr,
        )
        for note in added.notes():
            print(f"warning: {note}", file=sys.stderr)
