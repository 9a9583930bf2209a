"""The table beside a BIDS segmentation that says what its numbers mean."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from .bounded import UnusableFileError, read_regular
from .labels import LabelMap, labels_by_name
from .names import stem

MAX_TABLE_BYTES = 2**20


def label_table(label: Path, data_dir: Path) -> LabelMap | None:
    """What a `_dseg` file's numbers mean, from the nearest TSV (index, name) whose entities it has; None without one.

    The same folder is looked at first, then those above it up to `data_dir`; `InvalidInputError` where the names of a
    table do not tell the tissues.
    """
    folder = label.parent
    while True:
        fitting = [path for path in sorted(folder.glob("*dseg.tsv")) if _entities(path.name) <= _entities(label.name)]
        for path in sorted(fitting, key=lambda p: -len(_entities(p.name))):
            names = _read(path)
            if names:
                return labels_by_name(names, str(path))
        if folder == data_dir or folder == folder.parent:
            return None
        folder = folder.parent


def _entities(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+-[A-Za-z0-9+]+", stem(name).removesuffix(".tsv")))


def _read(path: Path) -> dict[str, frozenset[int]]:
    try:
        text = read_regular(path, MAX_TABLE_BYTES).decode("utf-8-sig")
    except (UnusableFileError, UnicodeDecodeError):
        return {}
    rows = csv.DictReader(io.StringIO(text), delimiter="\t")
    names: dict[str, set[int]] = {}
    for row in rows:
        index, name = row.get("index") or "", row.get("name") or row.get("abbreviation") or ""
        if re.fullmatch(r"\d{1,5}", index.strip(), re.ASCII) and name:
            names.setdefault(name, set()).add(int(index))
    return {name: frozenset(values) for name, values in names.items()}
