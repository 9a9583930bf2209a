"""`manifest.csv`: one row a sample, relative paths, no clock in it; written last, so its presence says "complete"."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..conditions.csv import format_number
from ..folder import Folder
from ..output.layouts import DatasetFacts
from .description import InsertDigest, RunDescription
from .ledger import QUALITY, LedgerIndex, SampleRecord

MANIFEST_CSV = "manifest.csv"
JOIN = ";"
_RUN_BY_A_SPREADSHEET = ("=", "+", "-", "@", "\t", "\r")


def header(columns: tuple[str, ...], origin: str = "") -> list[str]:
    """Column names for a bundle's condition columns; `origin` where samples are made from somebody's scan or mask."""
    return [
        "id", "seed", "sample", "attempt", "within_tolerance", "drawn",
        *(f"requested_{name}" for name in columns),
        *(f"measured_{name}" for name in (*columns, *QUALITY)),
        "files", "sha256", *(["origin"] if origin else []),
    ]  # fmt: skip


def row(record: SampleRecord, seed: int, columns: tuple[str, ...], origin: str = "") -> list[str]:
    """The row of one sample; empty where a tumour that is not there has no such measure."""
    within = "" if record.within_tolerance is None else str(record.within_tolerance).lower()
    return [
        _text(record.id), str(seed), str(record.sample), str(record.attempt), within, JOIN.join(record.drawn),
        *(_number(record.requested, name) for name in columns),
        *(_number(record.measured, name) for name in (*columns, *QUALITY)),
        JOIN.join(entry.path for entry in record.files), JOIN.join(entry.sha256 for entry in record.files),
        *([origin] if origin else []),
    ]  # fmt: skip


def write_manifest(folder: Folder, run: RunDescription, index: LedgerIndex) -> int:
    """Write the data set's own files, then the manifest of all good samples; returns their number.

    Raises:
        OSError: they cannot be written.
    """
    columns = run.bundle.columns
    samples: list[int] = []
    with folder.writing(MANIFEST_CSV) as handle:
        handle.write(line(header(columns, run.origin)))
        for record in index.records():
            if record.fault is None:
                samples.append(record.sample)
                handle.write(line(row(record, run.options.seed, columns, run.origin)))
        for name, data in dataset_files(run, tuple(samples)).items():
            folder.write(name, data)
    return len(samples)


def read_manifest(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a manifest; OSError when it cannot be read, csv.Error or ValueError when it is no table."""
    with (
        Folder(path.parent) as folder,
        folder.reading(path.name) as handle,
        io.TextIOWrapper(handle, "utf-8", newline="") as text,
    ):
        yield from csv.DictReader(text)


def dataset_files(run: RunDescription, samples: tuple[int, ...]) -> dict[str, bytes]:
    """Content by name of what the run's layout has beside these samples."""
    version, is_scan = run.versions.get("sbldm-engine", ""), isinstance(run.source, InsertDigest)
    facts = DatasetFacts(samples, run.bundle.id, run.bundle.sha256, version, run.origin, is_scan)
    return run.layout().dataset_files(facts)


def _text(value: str) -> str:
    """Text from outside as a cell that a spreadsheet shows and does not run."""
    return f"'{value}" if value.startswith(_RUN_BY_A_SPREADSHEET) else value


def _number(values: Mapping[str, float | None], name: str) -> str:
    value = values.get(name)
    return "" if value is None or math.isnan(value) else format_number(value)


def line(cells: list[str]) -> bytes:
    """The bytes of one row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
