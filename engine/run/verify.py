"""Whether a run's directory still holds what was recorded: every file is hashed again, ledger and manifest compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInputError
from ..files import TEMPORARY_SUFFIX, sha256_file
from .description import read_description
from .ledger import LedgerIndex, SampleRecord
from .manifest import MANIFEST_CSV, header, read_manifest, row


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


def verify_run(directory: Path) -> Verification:
    """Hash every file of a run again.

    Raises:
        InvalidInputError: the directory holds no run.
    """
    run = read_description(directory)
    index = LedgerIndex.of(directory)
    faults: list[str] = []
    failed: list[int] = []
    samples = files = size = 0
    expected: dict[int, list[str]] = {}
    for record in index.records():
        if record.fault is not None:
            failed.append(record.sample)
            continue
        samples += 1
        files += len(record.files)
        size += sum(entry.bytes for entry in record.files)
        faults += _file_faults(directory, record)
        expected[record.sample] = row(record, run.options.seed, run.bundle.columns)
    manifest = directory / MANIFEST_CSV
    if manifest.exists():
        faults += _manifest_faults(manifest, header(run.bundle.columns), expected)
    leftovers = sorted(p.relative_to(directory).as_posix() for p in directory.rglob(f"*{TEMPORARY_SUFFIX}"))
    faults += [f"{name}: left by a process that was killed; --resume clears it" for name in leftovers]
    absent = run.options.count - len(index.places)
    return Verification(samples, files, size, tuple(faults), tuple(failed), absent, manifest.exists())


def _file_faults(directory: Path, record: SampleRecord) -> list[str]:
    found: list[str] = []
    for entry in record.files:
        path = directory / entry.path
        if not path.is_file():
            found.append(f"{entry.path}: missing")
        elif path.stat().st_size != entry.bytes:
            found.append(f"{entry.path}: has {path.stat().st_size} bytes, recorded are {entry.bytes}")
        elif sha256_file(path) != entry.sha256:
            found.append(f"{entry.path}: its sha256 is not the recorded one")
    return found


def _manifest_faults(manifest: Path, names: list[str], expected: dict[int, list[str]]) -> list[str]:
    found: list[str] = []
    seen: set[int] = set()
    try:
        for number, cells in enumerate(read_manifest(manifest), start=2):
            sample = int(cells["sample"]) if cells.get("sample", "").isdigit() else -1
            if sample not in expected or sample in seen:
                why = "there twice" if sample in seen else "not in the ledger"
                found.append(f"{manifest.name}:{number}: sample {cells.get('sample')!r} is {why}")
                continue
            seen.add(sample)
            changed = [name for name, value in zip(names, expected[sample], strict=True) if cells.get(name) != value]
            found += [
                f"{manifest.name}:{number}: {name} of sample {sample} differs from the ledger" for name in changed
            ]
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInputError(f"{manifest}: not a readable table ({error})") from error
    return found + [f"{manifest.name}: sample {sample} is missing" for sample in sorted(expected.keys() - seen)]
