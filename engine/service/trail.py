"""The audit trail of a service's directory, checked as that of a run is, and against the jobs that lie there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..folder import Folder
from ..run.audit import AUDIT_NAME, FIRST, MAX_LINE_BYTES, Chain, check_chain
from ..run.description import RUN_NAME as RUN_JSON
from ..run.directory import read_faults
from .job import JOB_NAME
from .store import JOBS_NAME, MADE, MARK_NAME, job_folders


def service_chain(directory: Path) -> Chain | None:
    """The trail of a service's directory; None where it is none.

    Jobs of which it does not tell are faults too: lines were removed at its end.

    Raises:
        InvalidInputError: it cannot be read.
    """
    if not (directory / MARK_NAME).is_file() or (directory / RUN_JSON).exists():
        return None
    with read_faults(directory), Folder(directory) as folder:
        jobs = list(job_folders(directory)) if folder.has(JOBS_NAME) else []  # first: others may be made meanwhile
        chain = check_chain(folder)
        if chain is None:
            return Chain(0, FIRST, None, (f"{AUDIT_NAME}: missing; who made jobs is not known",) if jobs else ())
        if chain.faults:
            return chain
        made = set(_made(folder))
        untold = [place for place, job_id in jobs if job_id not in made and folder.has(f"{place}/{JOB_NAME}")]
    more = "" if len(untold) < 2 else f" and {len(untold) - 1} other jobs"
    told = (f"{AUDIT_NAME}: does not tell of {untold[0]}{more}; lines were removed at its end",) if untold else ()
    return replace(chain, faults=told)


def _made(folder: Folder) -> Iterator[str]:
    """The jobs that a sound trail calls made."""
    with folder.reading(AUDIT_NAME) as handle:
        while raw := handle.readline(MAX_LINE_BYTES):
            line = json.loads(raw)
            if line["event"] == MADE:
                yield line["subject"].get("job")
