"""Whether a run's directory holds what its run.json lets it hold, and all of that as it was recorded.

The set of files is derived from the run's description; each file is hashed and each mask measured again, the ledgers,
the manifest and the files of the data set are compared, the audit trail's chain is checked, and what belongs to none
of this is named.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..folder import Folder, temporary_of
from .audit import AUDIT_NAME, ENDED, FIRST, Chain, check_chain
from .description import RunDescription, read_description
from .directory import read_faults
from .ledger import LedgerIndex, SampleRecord
from .manifest import MANIFEST_CSV, dataset_files, header, line, read_manifest, row
from .owned import OwnNames
from .remeasure import measurement_faults


@dataclass(frozen=True)
class Verification:
    """What was found; paths are relative to the run directory."""

    samples: int  # recorded and good
    files: int
    bytes: int
    faults: tuple[str, ...]  # what is not as it was recorded
    failed: tuple[int, ...]  # samples that the run could not make
    absent: int  # samples of the run that are recorded nowhere here
    has_manifest: bool
    audit_lines: int
    audit_head: str  # hash of the last line of the audit trail: kept elsewhere, it shows a trail that lost its end


def verify_run(directory: Path) -> Verification:
    """Hash every file of a run and measure every mask again.

    Raises:
        InvalidInputError: the directory holds no run, or it cannot be read.
    """
    with read_faults(directory):
        run = read_description(directory)
        with Folder(directory) as folder:
            found = _Verifier(folder, run).verify()
    logging.getLogger("sbldm").debug(f"{found.samples} samples verified, {len(found.faults)} faults")
    return found


class _Verifier:
    def __init__(self, folder: Folder, run: RunDescription) -> None:
        self.folder, self.run, self.owns = folder, run, OwnNames(run)
        self.index = LedgerIndex.of_folder(folder, run)
        self.faults = [f"{fault}" for fault in self.index.told_faults()]
        self.failed: list[int] = []
        self.expected: dict[int, list[str]] = {}  # rows of the manifest by sample
        self.files = self.size = 0

    def verify(self) -> Verification:
        for record in self.index.records():
            if record.fault is not None:
                self.failed.append(record.sample)
            else:
                self._sample(record)
        has_manifest = self.folder.has(MANIFEST_CSV)
        if has_manifest:
            self.faults += self._manifest_faults()
            self.faults += self._dataset_faults()
        self.faults += self._foreign()
        trail = check_chain(self.folder)
        self.faults += _audit_faults(trail, has_manifest)
        absent = self.run.options.count - len(self.index.places)
        samples = len(self.expected)
        return Verification(
            samples, self.files, self.size, tuple(self.faults), tuple(self.failed), absent, has_manifest,
            0 if trail is None else trail.lines, FIRST if trail is None else trail.head,
        )  # fmt: skip

    def _sample(self, record: SampleRecord) -> None:
        found = list(self._file_faults(record))
        self.faults += found or measurement_faults(self.folder, self.run, record)
        self.files += len(record.files)
        self.size += sum(entry.bytes for entry in record.files)
        self.expected[record.sample] = row(record, self.run.options.seed, self.run.bundle.columns, self.run.origin)

    def _file_faults(self, record: SampleRecord) -> Iterator[str]:
        paths = self.run.layout().paths(record.sample).values()
        for path, entry in zip(paths, record.files, strict=True):
            status = self.folder.status(path)
            if status is None:
                yield f"{path}: missing, or no regular file"
            elif status.st_size != entry.bytes:
                yield f"{path}: has {status.st_size} bytes, recorded are {entry.bytes}"
            elif self.folder.sha256(path) != entry.sha256:
                yield f"{path}: its sha256 is not the recorded one"

    def _manifest_faults(self) -> list[str]:
        found: list[str] = []
        names, seen = header(self.run.bundle.columns, self.run.origin), set[int]()
        try:
            for number, cells in enumerate(read_manifest(self.folder.root / MANIFEST_CSV), start=2):
                if list(cells) != names:
                    return [f"{MANIFEST_CSV}: its columns are not those of this run"]
                sample = _number(cells["sample"])
                where = f"{MANIFEST_CSV}:{number}"
                if sample not in self.expected or sample in seen:
                    why = "there twice" if sample in seen else "not in the ledger"
                    found.append(f"{where}: sample {cells['sample']!r} is {why}")
                    continue
                seen.add(sample)
                pairs = zip(names, self.expected[sample], strict=True)
                changed = [name for name, value in pairs if cells[name] != value]
                found += [f"{where}: {name} of sample {sample} differs from the ledger" for name in changed]
        except (ValueError, csv.Error) as error:
            return [*found, f"{MANIFEST_CSV}: not a readable table ({error})"]
        found += [f"{MANIFEST_CSV}: sample {sample} is missing" for sample in sorted(self.expected.keys() - seen)]
        if not found and not self._same_bytes(names):
            found.append(f"{MANIFEST_CSV}: differs from what the run writes there")
        return found

    def _same_bytes(self, names: list[str]) -> bool:
        """Whether the manifest is what the run writes, order and line ends included."""
        rows = (names, *(self.expected[sample] for sample in sorted(self.expected)))
        with self.folder.reading(MANIFEST_CSV) as handle:
            return all(handle.read(len(wanted)) == wanted for wanted in map(line, rows)) and not handle.read(1)

    def _dataset_faults(self) -> Iterator[str]:
        for name, data in dataset_files(self.run, tuple(sorted(self.expected))).items():
            status = self.folder.status(name)
            if status is None:
                yield f"{name}: missing, or no regular file"
            elif status.st_size != len(data) or self.folder.read(name, len(data)) != data:
                yield f"{name}: differs from what the run writes there"

    def _foreign(self) -> Iterator[str]:
        for name in self.folder.walk():
            target = temporary_of(name)
            sample = self.owns.sample_of(name)
            if target is not None and self.owns(target):
                yield f"{name}: left by a process that was killed; --resume clears it"
            elif not self.owns(name):
                yield f"{name}: foreign, this run has no such file"
            elif sample is not None and sample not in self.expected:
                yield f"{name}: of sample {sample}, which no ledger records as made"


def _audit_faults(trail: Chain | None, is_complete: bool) -> list[str]:
    if trail is None:
        return [f"{AUDIT_NAME}: missing; who made this run is not known"]
    if not trail.faults and is_complete and (trail.last is None or not trail.last.event.endswith(ENDED)):
        return [f"{AUDIT_NAME}: does not tell of the end of a run that is complete; lines were removed at its end"]
    return list(trail.faults)


def _number(text: str | None) -> int:
    """A sample number as the manifest writes it; -1 for anything else."""
    return int(text) if text and len(text) < 19 and text.isascii() and text.isdigit() else -1
