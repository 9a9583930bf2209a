"""Removing a run: its own files go, the audit trail stays and tells of it."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..folder import Folder
from .audit import AUDIT_NAME, Chain, audited, check_chain
from .description import RUN_NAME, RunDescription, read_description
from .directory import disk_faults, read_faults
from .ledger import Shard, ledger_names, lock_ledger
from .owned import OwnNames, is_lock, run_folder

PURGE = "purge"


@dataclass(frozen=True)
class Purged:
    """What was removed, and what was not."""

    files: int
    bytes: int
    linked: tuple[str, ...]  # removed here, but their content has other names elsewhere: hard links
    foreign: tuple[str, ...]  # no files of this run; left alone


def purge_run(directory: Path) -> Purged:
    """Remove every file of a run but its audit trail, which gets a line before and one after.

    What is no file of the run stays. `run.json` goes last, so that a purge that was killed can be done again. Blocks
    of the disk are not overwritten.

    Raises:
        InvalidInputError: the directory holds no run, or a damaged one.
        UsageError: another process is making it.
        IncompleteRunError: a file cannot be removed; the same purge can be done again.
    """
    run = read_description(directory)
    with ExitStack() as stack:
        with disk_faults(directory, started=False):
            folder = stack.enter_context(run_folder(directory, run))
            for name in {*ledger_names(folder), Shard().ledger_name}:
                stack.callback(lock_ledger(folder, name).close)
        with disk_faults(directory), audited(folder, run.inputs(), PURGE) as outcome:
            purged = _remove(folder, run)
            outcome |= {"files": purged.files, "bytes": purged.bytes}
            outcome |= {"linked": len(purged.linked), "foreign": len(purged.foreign)}
    logging.getLogger("sbldm").debug(f"{purged.files} files removed, {len(purged.foreign)} left")
    return purged


def purged_chain(directory: Path) -> Chain | None:
    """The audit trail of a directory whose run was purged; None where it is none.

    Raises:
        InvalidInputError: it cannot be read.
    """
    if os.path.lexists(directory / RUN_NAME) or not directory.is_dir():
        return None
    with read_faults(directory), Folder(directory) as folder:
        chain = check_chain(folder)
    told = chain is not None and chain.last is not None and chain.last.event.startswith(PURGE)
    return chain if told else None


def _remove(folder: Folder, run: RunDescription) -> Purged:
    folder.clear_temporaries(lambda _: True)
    owns, mine, foreign = OwnNames(run), list[str](), list[str]()
    for name in folder.walk():
        if name not in (AUDIT_NAME, RUN_NAME) and not is_lock(name):
            (mine if owns(name) else foreign).append(name)
    linked, size = list[str](), 0
    for name in (*mine, RUN_NAME):
        status = folder.status(name)
        if status is not None:
            size += status.st_size
            linked += [name] if status.st_nlink > 1 else []
        folder.remove(name, sync=name == RUN_NAME)
    parents = {above for name in mine for above in PurePosixPath(name).parents if above.name}
    for above in sorted(parents, key=lambda path: -len(path.parts)):
        folder.remove_folder(above.as_posix())
    return Purged(len(mine) + 1, size, tuple(linked), tuple(foreign))
