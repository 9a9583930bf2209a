"""Measure the tumours of a cohort: the rows of its condition table, placed as `train` places them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import SEGMENTATION
from ..conditions.columns import SHARE_COLUMNS
from ..conditions.rules import FieldOfView, violations
from ..errors import InvalidInputError
from ..output.measure import measure_tumour
from ..output.nifti import SYNTHETIC
from ..screen import counted
from .bounded import Inflating, UnusableFileError
from .cases import CaseFiles, Discovery
from .discover import discover_cases
from .header import HEADER_BYTES, HeaderFault, parse_header
from .options import ReadOptions
from .placement import RasGrid, can_cut, place
from .read import CaseError, Contents, RawCase, decode_case, read_contents

T = TypeVar("T")


@dataclass(frozen=True)
class MeasuredCohort:
    """The measured cases of a cohort, sorted by name."""

    names: tuple[str, ...]
    rows: NDArray[np.float64]  # (cases, columns)
    faults: tuple[str, ...]  # of the cases that are left out, `case: what is wrong`
    warnings: tuple[str, ...] = ()
    synthetic: tuple[int, ...] = ()  # places of those that this program made

    def of_others(self) -> MeasuredCohort:
        """The cases that this program did not make; the others are told."""
        if not self.synthetic:
            return self
        kept = [k for k in range(len(self.names)) if k not in self.synthetic]
        first, those = self.names[self.synthetic[0]], counted(len(self.synthetic), "case")
        told = f"{those} made by sbldm-engine, such as {first}: left out, they are not real"
        return MeasuredCohort(tuple(self.names[k] for k in kept), self.rows[kept], self.faults, (*self.warnings, told))


@dataclass(frozen=True)
class _Measured:
    row: NDArray[np.float64]
    label_values: tuple[int, ...]
    warnings: tuple[str, ...]
    is_synthetic: bool


def measure_cohort(
    data_dir: Path,
    columns: Sequence[str],
    field_of_view_mm: FieldOfView | None,
    advance: Callable[[int, int], None] = lambda done, total: None,
    options: ReadOptions | None = None,
) -> MeasuredCohort:
    """Measure the segmentation of every case below `data_dir` on its own grid.

    Args:
        columns: condition columns to measure. A cohort with one tumour label has NaN for its shares.
        field_of_view_mm: what places and boxes are shares of, placed as `placement.place` says; None for the scan's.
        advance: called with (cases done, cases in all).
        options: what the user says of labels, cavities and orientation.

    Raises:
        InvalidInputError: no directory, or no case in it.
    """
    options = options or ReadOptions()
    found = discover_cases(data_dir, (), options, dicom=True)
    measured, faults = of_each_case(found, lambda case: _measure(case, columns, field_of_view_mm, options), advance)
    told = tuple(f"{name}: {text}" for name, texts in sorted(faults.items()) for text in texts)
    warnings = [*found.notes, *(f"{name}: {text}" for name, one in measured.items() for text in one.warnings)]
    rows = np.array([one.row for one in measured.values()]).reshape(-1, len(columns))
    shares = [k for k, name in enumerate(columns) if name in SHARE_COLUMNS]
    meanings = [case.meaning for case in found.cases if case.name in measured]
    if not any(meaning.is_told for meaning in meanings):
        note = one_label_note([one.label_values for one in measured.values()])
        if note is not None:
            warnings.append(note)
            rows[:, shares] = np.nan
    rows[np.ix_([meaning.is_binary for meaning in meanings], shares)] = np.nan
    synthetic = tuple(k for k, one in enumerate(measured.values()) if one.is_synthetic)
    return MeasuredCohort(tuple(measured), rows, told, tuple(warnings), synthetic)


def one_label_note(label_values: Sequence[tuple[int, ...]]) -> str | None:
    """What to tell of a cohort whose masks all hold one and the same label 1; None for others."""
    if not label_values or any(values != (1,) for values in label_values):
        return None
    return (
        "every mask holds label 1 alone: it is read as the whole tumour, whose tissues are unknown; "
        '--labels "necrosis=1" if it is necrosis'
    )


def of_each_case(
    found: Discovery, work: Callable[[CaseFiles], T], advance: Callable[[int, int], None]
) -> tuple[dict[str, T], dict[str, list[str]]]:
    """What `work` makes of each case, and the faults of those that it cannot use; one case's fault stays its own."""
    faults = {case: list(texts) for case, texts in found.faults.items()}
    made: dict[str, T] = {}
    for done, case in enumerate(found.cases):
        advance(done, len(found.cases))
        if case.name in faults:
            continue
        try:
            made[case.name] = work(case)
        except (CaseError, InvalidInputError) as error:
            faults[case.name] = getattr(error, "faults", [str(error)])
    advance(len(found.cases), len(found.cases))
    return made, faults


def _measure(
    case: CaseFiles, columns: Sequence[str], field_of_view_mm: FieldOfView | None, options: ReadOptions
) -> _Measured:
    raw, reference = decode_mask(case, field_of_view_mm, options)
    grid = RasGrid.of(raw.affine, raw.label.shape)
    view = field_of_view_mm or grid.extent_mm
    brain = None if reference is None else grid.turn(raw.images[reference] != 0)
    tumour = raw.tumour(grid)
    placement = place(grid, brain, tumour, view)
    if field_of_view_mm is not None and (outside := placement.faults(view)):
        raise CaseError(outside)
    measured = measure_tumour(grid.turn(raw.label[raw.mask.box]), grid.spacing_mm)
    low, high = tumour.edges_mm()
    x, y, z = ((tumour.mean_mm - placement.moved_mm) / view + 0.5).tolist()
    w, h, d = ((high - low) / view).tolist()
    row = dataclasses.replace(measured, x=x, y=y, z=z, w=w, h=h, d=d).vector(columns)
    broken = violations(row[None], columns, view)
    if faults := id_faults(case.name):
        raise CaseError(faults)
    if broken:
        raise CaseError([f"no condition: {rule.column}: {rule.value(0)}: {rule.allowed(0)}" for rule in broken])
    told = placement.warnings(view) if field_of_view_mm is not None else ()
    is_synthetic = raw.header.description.startswith(SYNTHETIC.encode())
    return _Measured(row, raw.mask.values, (*raw.mask.warnings, *told), is_synthetic)


def id_faults(name: str) -> list[str]:
    """What keeps a case's name from being an id of the condition table."""
    sound = name.isprintable() and name == name.strip()
    return [] if sound else ["its name cannot be an id: one line of printable text is needed"]


def decode_mask(case: CaseFiles, view: FieldOfView | None, options: ReadOptions) -> tuple[RawCase, str | None]:
    """The mask of a case, and the image that places the field of view where it may matter.

    Raises:
        CaseError: every fault of the files.
    """
    contents = read_contents(case, ())
    if view is None or case.reference is None or not _may_cut(case, contents, view, options):
        return decode_case(case, (), contents, options), None
    wanted = (case.reference,)
    contents = read_contents(case, wanted, contents)
    return decode_case(case, wanted, contents, options), case.reference


def _may_cut(case: CaseFiles, contents: Contents, view: FieldOfView, options: ReadOptions) -> bool:
    if case.study is not None:
        stack = case.study.stack(SEGMENTATION)
        return can_cut(RasGrid.of(stack.ras, stack.shape), view)
    (content,) = contents.values()
    try:
        header = parse_header(Inflating(content).take(HEADER_BYTES), options.orientation)
    except (UnusableFileError, HeaderFault):
        return False  # decoding the mask tells it
    return can_cut(RasGrid.of(header.affine, header.shape[:3]), view)
