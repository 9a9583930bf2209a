"""Shards become one run: checked to belong together, complete and intact, with one ledger and one manifest."""

from __future__ import annotations

import errno
import heapq
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInputError, UsageError
from ..files import atomic_file, create_exclusively, make_folders, sync_folder
from .description import RUN_NAME, RunDescription, differences, read_description
from .directory import damaged_files, disk_faults, require_same
from .ledger import LedgerIndex, Shard, quiet_ledgers
from .manifest import write_manifest

_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_SHOWN = 20


@dataclass(frozen=True)
class MergeSummary:
    """What a merge put together."""

    samples: int
    linked: int  # files that are hard links of the shards' own
    copied: int


def merge_runs(directories: Sequence[Path], out: Path) -> MergeSummary:
    """Put the samples of all directories into `out`, which may be one of them, and write its manifest.

    Raises:
        UsageError: the directories are parts of different runs, or `out` holds something else.
        InvalidInputError: samples are missing, failed, there twice, or their files changed.
        IncompleteRunError: the disk is full; the same merge can be done again.
    """
    sources = _distinct(directories)
    run = _common_run(sources)
    place = out.resolve()
    _check_out(out, place in sources, run)
    with ExitStack() as locks:
        for source in sources:
            locks.enter_context(quiet_ledgers(source))
        indices = {source: LedgerIndex.of(source) for source in sources}
        owners = _owners(indices)
        _check_complete(indices, owners, run.options.count)
        with disk_faults(out):
            linked, copied = _bring_together(indices, owners, place, run)
    return MergeSummary(len(owners), linked, copied)


def _distinct(directories: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        path = directory.resolve()
        if path in found:
            raise UsageError(f"{directory}: given twice")
        found.append(path)
    return found


def _common_run(sources: list[Path]) -> RunDescription:
    first = read_description(sources[0])
    for source in sources[1:]:
        found = differences(first, read_description(source))
        if found:
            raise UsageError(f"{source}: not a part of the run in {sources[0]}:\n  " + "\n  ".join(found))
    return first


def _check_out(out: Path, in_place: bool, run: RunDescription) -> None:
    if in_place or not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a new or empty directory")
    if (out / RUN_NAME).exists():
        require_same(out, read_description(out), run)
    elif any(out.iterdir()):
        raise UsageError(f"--out {out}: holds files already; give a new or empty directory")


def _owners(indices: dict[Path, LedgerIndex]) -> dict[int, Path]:
    owners: dict[int, Path] = {}
    double: list[str] = []
    for source, index in indices.items():
        for record in index.records():
            if record.fault is not None:
                continue
            if record.sample in owners:
                double.append(f"sample {record.sample} is in {owners[record.sample]} and in {source}")
            owners.setdefault(record.sample, source)
    _refuse("cannot merge, samples are there twice", double)
    return owners


def _check_complete(indices: dict[Path, LedgerIndex], owners: dict[int, Path], count: int) -> None:
    missing = [f"sample {sample}" for sample in range(count) if sample not in owners]
    _refuse(
        f"cannot merge, {len(missing)} of {count} samples are missing or failed; finish their shards by --resume",
        missing,
    )
    changed: list[str] = []
    for source, index in indices.items():
        for record in index.records(_owned(owners, source)):
            changed += [f"{source / path} is {how}" for path, how in damaged_files(source, record)]
    _refuse("cannot merge, files are not as they were recorded; run their shard again by --resume", changed)


def _owned(owners: dict[int, Path], source: Path) -> list[int]:
    return [sample for sample, owner in owners.items() if owner == source]


def _refuse(reason: str, items: list[str]) -> None:
    if items:
        more = [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
        raise InvalidInputError("\n  ".join([f"{reason}:", *items[:_SHOWN], *more]))


def _bring_together(
    indices: dict[Path, LedgerIndex], owners: dict[int, Path], out: Path, run: RunDescription
) -> tuple[int, int]:
    linked = copied = 0
    out.mkdir(parents=True, exist_ok=True)
    create_exclusively(out / RUN_NAME, run.to_bytes())
    for source, index in indices.items():
        if source == out:
            continue
        for record in index.records(_owned(owners, source)):
            for entry in record.files:
                by_link = link_or_copy(source / entry.path, out / entry.path, out)
                linked, copied = linked + by_link, copied + (not by_link)
    parts = [index.records(_owned(owners, source)) for source, index in indices.items()]
    with atomic_file(out / Shard().ledger_name) as handle:
        handle.writelines(record.to_line() for record in heapq.merge(*parts, key=lambda record: record.sample))
    write_manifest(out, run, LedgerIndex.of(out))
    return linked, copied


def link_or_copy(source: Path, target: Path, root: Path) -> bool:
    """Whether a hard link could be made; else the file was copied."""
    make_folders(target.parent, root)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with source.open("rb") as data, atomic_file(target, sync=False) as handle:
            shutil.copyfileobj(data, handle)
        sync_folder(target.parent)
        return False
    sync_folder(target.parent)
    return True
