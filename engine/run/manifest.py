"""`manifest.csv`: one row a sample, relative paths, no clock in it; written last, so its presence says "complete"."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..conditions.csv import format_number
from ..files import atomic_file, make_folders, write_atomic
from ..output.layouts import DatasetFacts
from .description import RunDescription
from .ledger import LedgerIndex, SampleRecord

MANIFEST_CSV = "manifest.csv"
JOIN = ";"
QUALITY = ("inside_brain", "pieces", "largest_piece_share")


def header(columns: tuple[str, ...]) -> list[str]:
    """Column names for a bundle's condition columns."""
    return [
        "id", "seed", "sample", "attempt", "within_tolerance", "drawn",
        *(f"requested_{name}" for name in columns),
        *(f"measured_{name}" for name in (*columns, *QUALITY)),
        "files", "sha256",
    ]  # fmt: skip


def row(record: SampleRecord, seed: int, columns: tuple[str, ...]) -> list[str]:
    """The row of one sample; empty where a tumour that is not there has no such measure."""
    within = "" if record.within_tolerance is None else str(record.within_tolerance).lower()
    return [
        record.id, str(seed), str(record.sample), str(record.attempt), within, JOIN.join(record.drawn),
        *(_number(record.requested, name) for name in columns),
        *(_number(record.measured, name) for name in (*columns, *QUALITY)),
        JOIN.join(entry.path for entry in record.files), JOIN.join(entry.sha256 for entry in record.files),
    ]  # fmt: skip


def write_manifest(directory: Path, run: RunDescription, index: LedgerIndex) -> int:
    """Write the data set's own files, then the manifest of all good samples; returns their number.

    Raises:
        OSError: they cannot be written.
    """
    columns = run.bundle.columns
    samples: list[int] = []
    with atomic_file(directory / MANIFEST_CSV) as handle:
        handle.write(_line(header(columns)))
        for record in index.records():
            if record.fault is None:
                samples.append(record.sample)
                handle.write(_line(row(record, run.options.seed, columns)))
        _write_dataset_files(directory, run, tuple(samples))
    return len(samples)


def read_manifest(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a manifest; OSError when it cannot be read."""
    with path.open(newline="", encoding="utf-8") as handle:
        yield from csv.DictReader(handle)


def _write_dataset_files(directory: Path, run: RunDescription, samples: tuple[int, ...]) -> None:
    facts = DatasetFacts(samples, run.bundle.id, run.bundle.sha256, run.versions["sbldm-engine"])
    for name, data in run.layout().dataset_files(facts).items():
        path = directory / name
        make_folders(path.parent, directory)
        write_atomic(path, data)


def _number(values: Mapping[str, float | None], name: str) -> str:
    value = values.get(name)
    return "" if value is None or math.isnan(value) else format_number(value)


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
