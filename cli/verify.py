"""`sbldm-engine verify`: every file of a run is hashed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    directory: Annotated[Path, typer.Argument(help="Directory of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> int:
    """Hash every file, measure every mask again, name what is missing, changed or foreign.

    Exit code 0: all is as recorded; 3: something is not; 5: intact, but the run is not finished.
    """
    import dataclasses
    import json
    import sys

    from ..engine.run.verify import verify_run
    from ..engine.screen import shown

    found = verify_run(directory)
    unfinished = bool(found.failed) or not found.has_manifest
    code = 3 if found.faults else 5 if unfinished else 0
    if as_json:
        print(json.dumps({"directory": str(directory), **dataclasses.asdict(found), "exit_code": code}))
    else:
        for fault in found.faults:
            print(f"error: {shown(str(directory / fault))}", file=sys.stderr)
        print(f"{found.samples} samples, {found.files} files, {found.bytes} bytes, {len(found.faults)} faults")
        if unfinished:
            left = f"{len(found.failed)} samples failed, {found.absent} are not made"
            print(f"warning: {left}, manifest.csv is {'there' if found.has_manifest else 'not written'}: "
                  "go on with --resume, or merge the shards", file=sys.stderr)  # fmt: skip
        elif found.absent:
            print(f"note: {found.absent} other samples of the run are not in this directory", file=sys.stderr)
    return code
