"""Shards become one run: checked to belong together, complete and intact, with one ledger and one manifest."""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInputError, UsageError
from ..files import make_directory
from ..folder import Folder
from ..new_files import modes
from .audit import audited, check_chain
from .description import RUN_NAME, NotARunError, RunDescription, differences, read_description
from .directory import damaged_files, disk_faults, read_faults, require_no_foreign, require_same
from .ledger import LedgerIndex, SampleRecord, Shard, lock_ledger, quiet_ledgers
from .manifest import write_manifest
from .owned import run_folder

_SHOWN = 20


@dataclass(frozen=True)
class MergeSummary:
    """What a merge put together."""

    samples: int
    linked: int  # files that are hard links of the shards' own
    copied: int


@dataclass(frozen=True)
class _Source:
    """One of the directories that are merged."""

    path: Path  # resolved
    index: LedgerIndex
    folder: Folder
    run: RunDescription


def merge_runs(directories: Sequence[Path], out: Path) -> MergeSummary:
    """Put the samples of all directories into `out`, which may be one of them, and write its manifest.

    Raises:
        UsageError: the directories are parts of different runs, `out` holds something else, or it is being written.
        InvalidInputError: samples are missing, failed, there twice, or their files changed.
        IncompleteRunError: the disk is full or refuses; the same merge can be done again.
    """
    paths = _distinct(directories)
    run = _common_run(paths)
    place = out.resolve()
    _check_out(out, place in paths, run)
    with ExitStack() as stack:
        sources = [_open(path, stack, place) for path in paths]
        owners = _owners(sources)
        _check_complete(sources, owners, run.options.count)
        with disk_faults(out, started=False):
            make_directory(place, modes(run.is_derived)[1])
            folder = stack.enter_context(run_folder(place, run))
            if not folder.has(RUN_NAME):
                require_no_foreign(out, set(folder.names()))
            folder.create(RUN_NAME, run.to_bytes())
            stack.callback(lock_ledger(folder, Shard().ledger_name).close)
        trails = [check_chain(source.folder) for source in sources]
        subject = run.inputs() | {"parts": [None if trail is None else trail.head for trail in trails]}
        with disk_faults(out), audited(folder, subject, "merge") as outcome:
            linked, copied = _bring_together(sources, owners, folder)
            outcome |= {"samples": len(owners), "linked": linked, "copied": copied}
    logging.getLogger("sbldm").debug(f"{len(owners)} samples of {len(paths)} directories merged")
    return MergeSummary(len(owners), linked, copied)


def _distinct(directories: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        path = directory.resolve()
        if path in found:
            raise UsageError(f"{directory}: given twice")
        found.append(path)
    return found


def _common_run(paths: list[Path]) -> RunDescription:
    first = read_description(paths[0])
    for path in paths[1:]:
        found = differences(first, read_description(path))
        if found:
            raise UsageError(f"{path}: not a part of the run in {paths[0]}:\n  " + "\n  ".join(found))
    return first


def _check_out(out: Path, in_place: bool, run: RunDescription) -> None:
    if in_place or not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a new or empty directory")
    if not (out / RUN_NAME).exists():
        require_no_foreign(out, {path.name for path in out.iterdir()})
        return
    try:
        require_same(out, read_description(out), run)
    except NotARunError as error:
        raise UsageError(f"{error}. Nothing was touched; give a new or empty --out") from error


def _open(path: Path, stack: ExitStack, out: Path) -> _Source:
    """A source, with its ledgers held against writers; the one that is written in `out` is locked there."""
    with read_faults(path):
        folder = stack.enter_context(Folder(path))
        stack.enter_context(quiet_ledgers(folder, Shard().ledger_name if path == out else ""))
        run = read_description(path)
        return _Source(path, LedgerIndex.of_folder(folder, run), folder, run)


def _owners(sources: list[_Source]) -> dict[int, _Source]:
    owners: dict[int, _Source] = {}
    double: list[str] = []
    for source in sources:
        for record in _records(source):
            if record.fault is not None:
                continue
            if record.sample in owners:
                double.append(f"sample {record.sample} is in {owners[record.sample].path} and in {source.path}")
            owners.setdefault(record.sample, source)
    _refuse("cannot merge, samples are there twice", double)
    return owners


def _check_complete(sources: list[_Source], owners: dict[int, _Source], count: int) -> None:
    damaged = [f"{source.path / fault}" for source in sources for fault in source.index.faults]
    _refuse("cannot merge, ledgers are damaged; go on with their shards by --resume", damaged)
    missing = count - len(owners)
    if missing:
        named = [f"sample {sample}" for sample in _first_missing(owners, count)]
        more = [f"and {missing - len(named)} more"] if missing > len(named) else []
        raise InvalidInputError(
            f"cannot merge, {missing} of {count} samples are missing or failed; finish their shards by --resume:\n  "
            + "\n  ".join([*named, *more])
        )
    changed: list[str] = []
    for source in sources:
        for record in _records(source, _owned(owners, source)):
            changed += [
                f"{source.path / path} is {how}" for path, how in damaged_files(source.folder, source.run, record)
            ]
    _refuse("cannot merge, files are not as they were recorded; run their shard again by --resume", changed)


def _first_missing(owners: dict[int, _Source], count: int) -> list[int]:
    found: list[int] = []
    for sample in range(count):
        if sample not in owners:
            found.append(sample)
            if len(found) == _SHOWN:
                break
    return found


def _records(source: _Source, samples: list[int] | None = None) -> Iterator[SampleRecord]:
    with read_faults(source.path):
        yield from source.index.records(samples)


def _owned(owners: dict[int, _Source], source: _Source) -> list[int]:
    return [sample for sample, owner in owners.items() if owner is source]


def _refuse(reason: str, items: list[str]) -> None:
    if items:
        more = [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
        raise InvalidInputError("\n  ".join([f"{reason}:", *items[:_SHOWN], *more]))


def _bring_together(sources: list[_Source], owners: dict[int, _Source], out: Folder) -> tuple[int, int]:
    run = read_description(out.root)
    linked = copied = 0
    for source in sources:
        if source.path == out.root:
            continue
        for record in source.index.records(_owned(owners, source)):
            for path in run.layout().paths(record.sample).values():
                by_link = out.bring(source.folder, path, path, link=True)
                linked, copied = linked + by_link, copied + (not by_link)
    parts = [source.index.records(_owned(owners, source)) for source in sources]
    with out.writing(Shard().ledger_name) as handle:
        merged = heapq.merge(*parts, key=lambda record: record.sample)
        handle.writelines(record.to_line(run.id) for record in merged)
    write_manifest(out, run, LedgerIndex.of_folder(out, run))
    return linked, copied
