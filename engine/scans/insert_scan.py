"""What is to be done with a scan's lesion: masks given for it, rows of tumours, a series; held to the scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..conditions.columns import ConditionRows, Conditions, id_of_use
from ..conditions.faults import Faults
from ..conditions.rules import MIN_VOLUME_ML
from ..conditions.table import ConditionsLike, read_table
from ..errors import InvalidInputError, UsageError
from ..output.measure import measure_tumour
from ..sampling.insert_case import DEFAULT_MARGIN_MM, InsertCase, Lesion, PackedLabel, check_insert, check_volumes
from .cases import CaseFiles
from .discover import discover_cases
from .measure import of_each_case, one_label_note
from .options import ReadOptions
from .prepare import LABELS
from .read import CaseError, our_labels
from .scan import OpenedScan, aligned, read_part

INSIDE = 0.95  # share of a given mask that must lie in the scan's brain

MasksLike = Path | Sequence[NDArray[np.integer]]


@dataclass(frozen=True)
class InsertWishes:
    """What is to be done with a scan.

    Raises:
        UsageError: wishes that do not go together.
    """

    inserts: bool
    removes: bool
    conditions: ConditionsLike = None  # tumours to be inserted
    masks: MasksLike | None = None  # in their place: folder of label files, or arrays, on the scan's voxels
    volumes_ml: tuple[float, ...] = ()  # of a series of each
    margin_mm: float = DEFAULT_MARGIN_MM
    has_mass_effect: bool = False
    count: int | None = None  # samples, or series
    seed: int = 0  # of what rows of a series leave open

    def __post_init__(self) -> None:
        self._require_types()
        if self.masks is not None and self.conditions is not None:
            raise UsageError("--masks: go without --conditions, or edit them first by generate --masks or masks vary")
        asked = {
            "--conditions": self.conditions is not None, "--masks": self.masks is not None,
            "--mass-effect": self.has_mass_effect, "--volumes": bool(self.volumes_ml),
        }  # fmt: skip
        for name, is_asked in asked.items():
            if is_asked and not self.inserts:
                raise UsageError(f"{name}: belongs to --insert")
        if self.volumes_ml:
            check_volumes(self.volumes_ml)

    def _require_types(self) -> None:
        for name, value in (("--remove", self.removes), ("--mass-effect", self.has_mass_effect)):
            if not isinstance(value, bool):
                raise UsageError(f"{name} {value!r}: must be True or False")
        for name, value in (("--margin", self.margin_mm), *(("--volumes", volume) for volume in self.volumes_ml)):
            if isinstance(value, bool) or not isinstance(value, Real):
                raise UsageError(f"{name} {value!r}: must be a number")
        if not (self.masks is None or isinstance(self.masks, Path | list | tuple)):
            raise UsageError("--masks: must be a folder of label files, or a list of arrays on the scan's voxels")


@dataclass(frozen=True)
class InsertPlan:
    """The parts of a request that change a scan's lesion."""

    case: InsertCase
    conditions: ConditionsLike  # of the request; None where the case has its own
    count: int | None  # of samples


def plan_insert(scan: OpenedScan, bundle: Bundle, wishes: InsertWishes, options: ReadOptions) -> InsertPlan:
    """What is to be done with a scan, checked.

    Args:
        scan: opened for this bundle.
        bundle: of the form mask-first.
        wishes: what is to be done.
        options: how the files of masks are read.

    Raises:
        UsageError: a bundle of another form, a margin out of range, neither rows, masks nor a count.
        InvalidInputError: masks or rows that do not fit the scan or themselves, no lesion to be removed; all are named.
    """
    grid = bundle.manifest.grid
    columns = [column.name for column in bundle.manifest.condition_columns]
    case = InsertCase(
        scan.files, scan.mask_file, scan.scales, scan.voxels, scan.image, scan.own, wishes.removes, wishes.inserts, (),
        wishes.volumes_ml, (), None, wishes.margin_mm, wishes.has_mass_effect,
    )  # fmt: skip
    check_insert(case, bundle)
    if wishes.removes and not scan.own.scan.label().any():
        raise InvalidInputError(f"{scan.name}: --remove: the scan has no lesion, its mask is missing or empty")
    rows = None if wishes.conditions is None else read_table(wishes.conditions, columns, grid.fov_mm)
    if wishes.masks is not None:
        names, given = _given(wishes.masks, scan, options)
        measured = [measure_tumour(one.grid.label(), grid.spacing_mm).vector(columns) for one in given]
        source = str(wishes.masks) if isinstance(wishes.masks, Path) else "masks"
        case = replace(case, given=tuple(given), conditions=_table(columns, names, measured, source))
    elif not wishes.inserts:
        row = measure_tumour(scan.own.grid.label(), grid.spacing_mm).vector(columns)
        case = replace(case, conditions=_table(columns, [scan.name], [row], scan.name))
    elif rows is not None:
        _require_places(rows, columns, case)
    case = _with_series(case, bundle, rows, wishes)
    count = None if wishes.count is None else wishes.count * max(len(wishes.volumes_ml), 1)
    return InsertPlan(case, wishes.conditions if case.conditions is None else None, count)


def _with_series(case: InsertCase, bundle: Bundle, rows: ConditionRows | None, wishes: InsertWishes) -> InsertCase:
    """The case with a complete row for each volume of each tumour: what a row leaves open is drawn once a series.

    Surface and box follow the volume as those of bodies of one shape.
    """
    columns, volumes = [column.name for column in bundle.manifest.condition_columns], case.volumes_ml
    if not volumes:
        return case
    if case.conditions is not None:
        names = [name or str(number) for number, name in enumerate(case.conditions.ids)]
        largest = [case.conditions.values[k].copy() for k in range(len(names))]
        base = [float(row[columns.index("volume_ml")]) for row in largest]
        series: tuple[tuple[float, ...], ...] = ()
    else:
        names, largest = _completed(bundle, rows, columns, wishes)
        base = [volumes[-1]] * len(largest)
        series = tuple(tuple(float(value) for value in row) for row in largest)
    table, ids = list[NDArray[np.float64]](), list[str]()
    for name, row, own in zip(names, largest, base, strict=True):
        for volume in volumes:
            table.append(_scaled(row, columns, volume / own))
            ids.append(f"{name}-{volume:g}ml")
    source = str(case.conditions.source if case.conditions is not None else rows.source if rows else "--volumes")
    return replace(case, series=series, conditions=_table(columns, ids, table, source))


def _completed(
    bundle: Bundle, rows: ConditionRows | None, columns: list[str], wishes: InsertWishes
) -> tuple[list[str], list[NDArray[np.float64]]]:
    """Names and complete rows of the series at their largest volume."""
    if rows is None:
        if wishes.count is None:
            raise UsageError("give --count N, --conditions FILE or both")
        given = [("", np.full(len(columns), np.nan)) for _ in range(wishes.count)]
    else:
        given = [rows.at(row) for row in range(len(rows))]
        faults = Faults(rows.source)
        for number, (_, row) in enumerate(given):
            for name in ("volume_ml", "surface_cm2", "w", "h", "d"):
                if name in columns and not np.isnan(row[columns.index(name)]):
                    value = f"{row[columns.index(name)]:g}"
                    faults.add(rows.line(number), name, value, "empty, where --volumes gives the sizes of a series")
        faults.raise_if_any()
    names, made = list[str](), list[NDArray[np.float64]]()
    for number, (name, row) in enumerate(given):
        asked = row.copy()
        asked[columns.index("volume_ml")] = wishes.volumes_ml[-1]
        made.append(bundle.manifest.cohort.complete_sample(asked, wishes.seed, number))
        names.append(name or id_of_use("", 0, number, rows.has_id if rows is not None else lambda _: False))
    return names, made


def _scaled(row: NDArray[np.float64], columns: Sequence[str], factor: float) -> NDArray[np.float64]:
    made = row.copy()
    for name, power in (("volume_ml", 1.0), ("surface_cm2", 2 / 3), ("w", 1 / 3), ("h", 1 / 3), ("d", 1 / 3)):
        if name in columns:
            made[columns.index(name)] *= factor**power
    return made


def _table(columns: Sequence[str], ids: Sequence[str], rows: Sequence[NDArray[np.float64]], source: str) -> Conditions:
    return Conditions(tuple(columns), tuple(ids), np.array(rows), tuple(range(1, len(ids) + 1)), source)


def _given(masks: MasksLike, scan: OpenedScan, options: ReadOptions) -> tuple[list[str], list[Lesion]]:
    """The masks of a folder, or of arrays, all on the scan's voxels."""
    if isinstance(masks, Path):
        found = discover_cases(masks, (), options)
        read, faults = of_each_case(found, lambda case: _of_file(case, scan, options), lambda done, total: None)
        told = [f"{masks}: {name}: {text}" for name, texts in sorted(faults.items()) for text in texts]
        if not told and not any(case.meaning.is_told for case in found.cases):
            note = one_label_note([values for _, values in read.values()])
            told = [f"{masks}: {note}"] if note is not None else told
        names, lesions = list(read), [lesion for lesion, _ in read.values()]
    else:
        told, names, lesions = list[str](), [""] * len(masks), list[Lesion]()
        for number, mask in enumerate(masks):
            try:
                lesions.append(_of_array(mask, f"masks[{number}]", scan))
            except CaseError as error:
                told += error.faults
        if not names:
            told = ["masks: there is none; give at least one"]
    if told:
        raise InvalidInputError("\n".join(told))
    return names, lesions


def _of_file(case: CaseFiles, scan: OpenedScan, options: ReadOptions) -> tuple[Lesion, tuple[int, ...]]:
    """The mask of a file, and the file's values in it."""
    assert case.label is not None
    part = aligned(read_part(case.label, options), "the scan", scan.header, scan.files[0])
    if case.meaning.is_binary:
        raise CaseError([
            f"{part.name}: has one label for the whole tumour; the model's masks tell NCR, ED and ET apart"
        ])  # fmt: skip
    mask = our_labels(part.array, part.name, case.meaning, options, part.header.voxel_ml)
    return _lesion(mask.label, part.name, scan), mask.values


def _of_array(mask: NDArray[np.integer], name: str, scan: OpenedScan) -> Lesion:
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "iu" or mask.shape != scan.voxels.shape:
        raise CaseError([f"{name}: must be an array of whole numbers on the scan's voxels, {scan.voxels.shape}"])
    if mask.min() < 0 or mask.max() >= LABELS:
        raise CaseError([f"{name}: holds {mask.min()} to {mask.max()}; allowed: 0, 1 (NCR), 2 (ED), 3 (ET)"])
    if not mask.any():
        raise CaseError([f"{name}: empty mask, no voxel of it is tumour"])
    return _lesion(mask.astype(np.uint8), name, scan)


def _lesion(label: NDArray[np.uint8], name: str, scan: OpenedScan) -> Lesion:
    """A mask on the scan's voxels, held to the scan; CaseError with all that does not fit."""
    turned, faults = scan.grid.turn(label), list[str]()
    outside = 1 - np.count_nonzero(scan.brain & (turned > 0)) / np.count_nonzero(turned)
    if outside > 1 - INSIDE:
        faults.append(f"{name}: {100 * outside:.3g} % of the mask lies outside the scan's brain, at most "
                      f"{100 * (1 - INSIDE):.3g} % may")  # fmt: skip
    if np.count_nonzero(label[1:-1, 1:-1, 1:-1]) < np.count_nonzero(label):
        faults.append(f"{name}: the mask touches the border of the scan; at least one voxel must lie between")
    if (volume := np.count_nonzero(label) * scan.header.voxel_ml) < MIN_VOLUME_ML:
        faults.append(f"{name}: the mask has {volume:.3g} ml, at least {MIN_VOLUME_ML:g} are needed")
    grid = scan.sampler.label(turned, LABELS)
    held = np.count_nonzero(grid) * float(np.prod(scan.sampler.spacing_mm)) / (1000 * scan.header.voxel_ml)
    if not grid.any() or held < 0.5 * np.count_nonzero(label):
        faults.append(f"{name}: the mask is too small for the model's voxels, or outside its field of view")
    if faults:
        raise CaseError(faults)
    return Lesion(PackedLabel.of(grid), PackedLabel.of(label))


def _require_places(rows: ConditionRows, columns: Sequence[str], case: InsertCase) -> None:
    """InvalidInputError for rows whose centre is given and lies outside the scan's brain."""
    faults, brain = Faults(rows.source), np.asarray(case.image.any(axis=0))
    at = [columns.index(name) for name in "xyz"]
    for row in range(len(rows)):
        place_of = rows.at(row)[1][at]
        if np.isnan(place_of).any():
            continue
        voxel = np.clip((place_of * brain.shape).astype(int), 0, np.array(brain.shape) - 1)
        if not brain[tuple(voxel)]:
            shown = ", ".join(f"{value:g}" for value in place_of)
            faults.add(rows.line(row), "x, y, z", shown, "a place inside the scan's brain")
    faults.raise_if_any()
