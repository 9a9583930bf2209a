"""`sbldm-engine purge`: a run is removed, its audit trail stays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def purge(
    directory: Annotated[Path, typer.Argument(help="Directory of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> int:
    """Remove every file of a run but audit.jsonl, which tells of it; what is no file of the run stays.

    Exit code 0: all is removed; 5: files that are not the run's are left. Disks and backups may still hold the data.
    """
    import dataclasses
    import json
    import sys

    from ..engine.run.purge import purge_run
    from ..engine.screen import counted, shown

    purged = purge_run(directory)
    code = 5 if purged.foreign else 0
    if as_json:
        print(json.dumps({"directory": str(directory), **dataclasses.asdict(purged), "exit_code": code}))
        return code
    print(f"{counted(purged.files, 'file')} removed, {counted(purged.bytes, 'byte')}: {directory}")
    for name in purged.linked:
        print(f"warning: {shown(name)}: is a hard link, its content has other names elsewhere", file=sys.stderr)
    for name in purged.foreign:
        print(f"warning: {shown(name)}: is no file of this run and was left", file=sys.stderr)
    return code
