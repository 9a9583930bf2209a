"""Measure the tumours of a cohort: the rows of its condition table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from ...engine.conditions.columns import SHARE_COLUMNS
from ...engine.conditions.rules import FieldOfView, violations
from ...engine.errors import InvalidInputError
from ...engine.output.measure import measure_tumour
from .discover import CaseFiles, discover_cases
from .read import CaseError, decode_case, read_bytes


@dataclass(frozen=True)
class MeasuredCohort:
    """The measured cases of a cohort, sorted by name."""

    names: tuple[str, ...]
    rows: NDArray[np.float64]  # (cases, columns)
    faults: tuple[str, ...]  # of the cases that are left out, `case: what is wrong`


def measure_cohort(
    data_dir: Path,
    columns: Sequence[str],
    field_of_view_mm: FieldOfView | None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> MeasuredCohort:
    """Measure the segmentation of every case below `data_dir` (BraTS or nnU-Net names) on its own grid.

    Args:
        columns: condition columns to measure. A cohort with one tumour label has NaN for its shares.
        field_of_view_mm: what places and boxes are shares of, centred on the scan's; None for the scan's own.
        advance: called with (cases done, cases in all).

    Raises:
        InvalidInputError: no directory, or no case in it.
    """
    found = discover_cases(data_dir, ())
    faults = {case: list(texts) for case, texts in found.faults.items()}
    names: list[str] = []
    rows: list[NDArray[np.float64]] = []
    for done, case in enumerate(found.cases):
        advance(done, len(found.cases))
        if case.name in names:
            faults.setdefault(case.name, []).append("is there twice, with names of BraTS 2021 and of BraTS 2023")
        if case.name in faults:
            continue
        try:
            row = _measured_row(case, columns, field_of_view_mm)
        except (CaseError, InvalidInputError) as error:
            faults[case.name] = [str(error)]
            continue
        names.append(case.name)
        rows.append(row)
    advance(len(found.cases), len(found.cases))
    told = tuple(f"{name}: {text}" for name, texts in sorted(faults.items()) for text in texts)
    return MeasuredCohort(tuple(names), np.array(rows).reshape(-1, len(columns)), told)


def _measured_row(case: CaseFiles, columns: Sequence[str], field_of_view_mm: FieldOfView | None) -> NDArray[np.float64]:
    raw = decode_case(case, (), read_bytes(case, ())[0])
    orientation = io_orientation(raw.affine)
    label = np.asarray(apply_orientation(raw.label, orientation))
    x, y, z = voxel_sizes(raw.affine @ inv_ornt_aff(orientation, raw.label.shape)).tolist()
    measured = measure_tumour(label, (x, y, z), field_of_view_mm=field_of_view_mm)
    row = measured.vector(columns)
    if max(case.label_values.values()) == 1:
        row[[k for k, name in enumerate(columns) if name in SHARE_COLUMNS]] = np.nan
    extent = (label.shape[0] * x, label.shape[1] * y, label.shape[2] * z)
    broken = violations(row[None], columns, field_of_view_mm or extent)
    if not case.name.isprintable() or case.name != case.name.strip():
        raise CaseError(["its name cannot be an id: one line of printable text is needed"])
    if broken:
        raise CaseError([f"no condition: {rule.column}: {rule.value(0)}: {rule.allowed(0)}" for rule in broken])
    return row
