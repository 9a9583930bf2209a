"""`sbldm-engine verify`: every file of a run is hashed again, audit trails are checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..engine.run.audit import Chain


def verify(
    directory: Annotated[Path, typer.Argument(help="Directory of a run, or of a service.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> int:
    """Hash every file, measure every mask again, check the audit trail, name what is missing, changed or foreign.

    Of a run that was purged, and of the directory of a service, the audit trail is checked.

    Exit code 0: all is as recorded; 3: something is not; 5: intact, but the run is not finished.
    """
    import dataclasses
    import json
    import sys

    from ..engine.run.purge import purged_chain
    from ..engine.run.verify import verify_run
    from ..engine.screen import counted, shown
    from ..engine.service.trail import service_chain

    if (chain := purged_chain(directory)) is not None:
        return _trail(directory, chain, as_json, "purged", "the run was purged")
    if (chain := service_chain(directory)) is not None:
        return _trail(directory, chain, as_json, "service", "jobs of a service")
    found = verify_run(directory)
    unfinished = bool(found.failed) or not found.has_manifest
    code = 3 if found.faults else 5 if unfinished else 0
    if as_json:
        print(json.dumps({"directory": str(directory), **dataclasses.asdict(found), "exit_code": code}))
    else:
        for fault in found.faults:
            print(f"error: {shown(str(directory / fault))}", file=sys.stderr)
        held = [(found.samples, "sample"), (found.files, "file"), (found.bytes, "byte"), (len(found.faults), "fault")]
        print(", ".join(counted(number, noun) for number, noun in held))
        print(f"audit trail: {found.audit_lines} lines, head {found.audit_head}")
        if unfinished:
            left = f"{counted(len(found.failed), 'sample')} failed, {found.absent} are not made"
            print(f"warning: {left}, manifest.csv is {'there' if found.has_manifest else 'not written'}: "
                  "go on with --resume, or merge the shards", file=sys.stderr)  # fmt: skip
        elif found.absent:
            print(f"note: {found.absent} other samples of the run are not in this directory", file=sys.stderr)
    return code


def _trail(directory: Path, chain: Chain, as_json: bool, key: str, what: str) -> int:
    """A directory of which the audit trail alone is checked."""
    import json
    import sys

    from ..engine.screen import shown

    code = 3 if chain.faults else 0
    if as_json:
        told = {key: True, "audit_lines": chain.lines, "audit_head": chain.head, "faults": chain.faults}
        print(json.dumps({"directory": str(directory), **told, "exit_code": code}))
    else:
        for fault in chain.faults:
            print(f"error: {shown(str(directory / fault))}", file=sys.stderr)
        print(f"{what}; audit trail: {chain.lines} lines, head {chain.head}")
    return code
