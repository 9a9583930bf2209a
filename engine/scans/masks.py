"""Masks that somebody gives, brought to a model's grid: images are made around them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..anatomy.draw import Field
from ..anatomy.typical import typical_brain
from ..blocks import bounding_box
from ..bundle.manifest import Grid
from ..conditions.columns import ConditionRows, Conditions, id_of_use
from ..conditions.faults import Faults
from ..conditions.rules import violations
from ..errors import InvalidInputError
from ..masks.edit import EditFault, edited_mask
from ..output.measure import measure_tumour
from ..sampling.given_masks import GivenMasks
from .cases import CaseFiles
from .discover import discover_cases
from .measure import decode_mask, id_faults, of_each_case, one_label_note
from .options import ReadOptions
from .placement import RasGrid, place
from .prepare import LABELS
from .read import CaseError, RawCase
from .resample import GridSampler

_SAME_MM = 1e-3  # of two voxel sizes
WIDER_MM = 10.0  # around a brain in its mean pose, where that of a mask may lie
HELD = 0.5  # share of a mask that must lie there


@dataclass(frozen=True)
class _MaskOnGrid:
    label: NDArray[np.uint8]  # (x, y, z)
    row: NDArray[np.float64]
    values: tuple[int, ...]  # of the file
    warnings: tuple[str, ...]


def read_masks(
    folder: Path,
    columns: Sequence[str],
    grid: Grid,
    options: ReadOptions,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[GivenMasks, tuple[str, ...]]:
    """The mask of every case below a folder on the grid, in the order of names, and what should be known of them.

    A mask that has the grid's shape and voxel sizes stays as it is, voxel for voxel in RAS order; another one is
    brought there, label by label, its field of view placed as `placement.place` says.

    Args:
        folder: of label files, with or without the images that they belong to.
        columns: of the conditions that are measured.
        grid: of the model.
        options: what the user says of labels, cavities and orientation.
        advance: called with (cases done, cases in all).

    Raises:
        InvalidInputError: no mask, or faulty ones: all are named.
    """
    found = discover_cases(folder, (), options)
    masks, faults = of_each_case(found, lambda case: _on_grid(case, columns, grid, options), advance)
    if faults:
        told = [f"{folder}: {name}: {text}" for name, texts in sorted(faults.items()) for text in texts]
        raise InvalidInputError("\n".join(told))
    if not any(case.meaning.is_told for case in found.cases):
        note = one_label_note([mask.values for mask in masks.values()])
        if note is not None:
            raise InvalidInputError(f"{folder}: {note}")
    rows = np.array([mask.row for mask in masks.values()]).reshape(-1, len(columns))
    lines = tuple(range(1, len(masks) + 1))
    conditions = Conditions(tuple(columns), tuple(masks), rows, lines, str(folder))
    warnings = [f"{name}: {text}" for name, mask in masks.items() for text in mask.warnings]
    return GivenMasks.of((mask.label for mask in masks.values()), grid.shape, conditions), (*found.notes, *warnings)


def masks_of_arrays(labels: Sequence[NDArray[np.integer]], columns: Sequence[str], grid: Grid) -> GivenMasks:
    """Masks (x, y, z) in RAS order on the grid, values 0 background, 1 NCR, 2 ED, 3 ET.

    Raises:
        InvalidInputError: none, or faulty ones: all are named.
    """
    if len(labels) == 0:
        raise InvalidInputError("masks: there is none; give at least one")
    faults, rows, checked = list[str](), list[NDArray[np.float64]](), list[NDArray[np.uint8]]()
    for number, label in enumerate(labels):
        try:
            whole = _array_label(label, grid)
            rows.append(_measured(whole, columns, grid))
            checked.append(whole)
        except CaseError as error:
            faults += [f"masks[{number}]: {text}" for text in error.faults]
    if faults:
        raise InvalidInputError("\n".join(faults))
    conditions = Conditions(tuple(columns), ("",) * len(rows), np.array(rows), tuple(range(1, len(rows) + 1)), "masks")
    return GivenMasks.of(checked, grid.shape, conditions)


def edited_masks(masks: GivenMasks, rows: ConditionRows, grid: Grid) -> GivenMasks:
    """Masks that rows of conditions move and scale (`masks.edit`): of those with an id the mask of that name, other
    masks stay; of rows without ids row k mask k, in turn.

    Raises:
        InvalidInputError: every row that no mask belongs to, or that contradicts itself or its mask.
    """
    columns, names = masks.conditions.columns, list(masks.conditions.ids)
    faults, digest = Faults(rows.source), hashlib.sha256()
    of_mask = _rows_of_masks(names, rows, faults)
    labels, ids, measured = list[NDArray[np.uint8]](), list[str](), list[NDArray[np.float64]]()
    for use, (number, row) in enumerate(of_mask):
        label = masks.label(number)
        if row is not None:
            values = rows.at(row)[1]
            digest.update(repr((names[number], values.tolist())).encode())
            label = _edited(label, dict(zip(columns, values.tolist(), strict=True)), grid, rows.line(row), faults)
        labels.append(label)
        ids.append(id_of_use(names[number], use // len(names), use, masks.conditions.has_id))
        measured.append(measure_tumour(label, grid.spacing_mm).vector(columns))
    faults.raise_if_any()
    conditions = Conditions(columns, tuple(ids), np.array(measured), tuple(range(1, len(ids) + 1)), rows.source)
    return replace(GivenMasks.of(labels, grid.shape, conditions), edits=digest.hexdigest())


def _rows_of_masks(names: Sequence[str], rows: ConditionRows, faults: Faults) -> list[tuple[int, int | None]]:
    """Number of the mask and of the row that edits it, in the order of samples."""
    ids = [rows.at(row)[0] for row in range(len(rows))]
    if not any(ids):
        return [(row % len(names), row) for row in range(len(rows))]
    for row, name in enumerate(ids):
        if name not in names:
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            faults.add(rows.line(row), "id", name, f"the name of a mask ({some}), or no id in any row")
    by_name = {name: row for row, name in enumerate(ids)}
    return [(number, by_name.get(name)) for number, name in enumerate(names)]


def _edited(
    label: NDArray[np.uint8], row: Mapping[str, float], grid: Grid, line: int, faults: Faults
) -> NDArray[np.uint8]:
    try:
        made = edited_mask(label, {name: value for name, value in row.items() if not np.isnan(value)}, grid)
    except EditFault as fault:
        faults.add(line, fault.column, f"{fault.value:g}", fault.allowed)
        return label
    for text in _label_faults(made):
        faults.add(line, "x, y, z", "the edited mask", text)
    return made


def _array_label(label: NDArray[np.integer], grid: Grid) -> NDArray[np.uint8]:
    if not isinstance(label, np.ndarray) or label.dtype.kind not in "iu" or label.shape != grid.shape:
        raise CaseError([f"must be an array of whole numbers of shape {grid.shape}, as a `Sample` holds its label"])
    if label.min() < 0 or label.max() >= LABELS:
        raise CaseError([f"holds {label.min()} to {label.max()}; allowed: 0, 1 (NCR), 2 (ED), 3 (ET)"])
    if faults := _label_faults(label):
        raise CaseError(faults)
    return np.ascontiguousarray(label, np.uint8)


def _measured(label: NDArray[np.uint8], columns: Sequence[str], grid: Grid) -> NDArray[np.float64]:
    """What a mask measures; CaseError where it is no condition, or no brain can hold it."""
    brain = typical_brain(Field(grid.shape, grid.spacing_mm), WIDER_MM)
    held = np.count_nonzero(label[brain]) / np.count_nonzero(label)
    if held < HELD:
        raise CaseError([f"{100 * (1 - held):.3g} % of the mask lies where no brain does in the field of view, at most "
                         f"{100 * (1 - HELD):.3g} % may; is it the mask of a head that is centred?"])  # fmt: skip
    row = measure_tumour(label, grid.spacing_mm).vector(columns)
    broken = violations(row[None], columns, grid.fov_mm)
    if broken:
        raise CaseError([f"no condition: {rule.column}: {rule.value(0)}: {rule.allowed(0)}" for rule in broken])
    return row


def _on_grid(case: CaseFiles, columns: Sequence[str], grid: Grid, options: ReadOptions) -> _MaskOnGrid:
    raw, reference = decode_mask(case, grid.fov_mm, options)
    if case.meaning.is_binary:
        raise CaseError(["its mask has one label for the whole tumour; the model's masks tell NCR, ED and ET apart"])
    source = RasGrid.of(raw.affine, raw.label.shape)
    warnings = list(raw.mask.warnings)
    if _is_grid(source, grid):
        label = np.ascontiguousarray(source.turn(raw.label))
    else:
        label, told = _resampled(raw, source, grid, reference)
        warnings += told
    faults = id_faults(case.name) + _label_faults(label)
    if faults:
        raise CaseError(faults)
    return _MaskOnGrid(label, _measured(label, columns, grid), raw.mask.values, tuple(warnings))


def _is_grid(source: RasGrid, grid: Grid) -> bool:
    same = np.allclose(source.spacing_mm, grid.spacing_mm, atol=_SAME_MM)
    return source.shape == grid.shape and same and not source.is_oblique


def _resampled(
    raw: RawCase, source: RasGrid, grid: Grid, reference: str | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    brain = None if reference is None else source.turn(raw.images[reference] != 0)
    placement = place(source, brain, raw.tumour(source), grid.fov_mm)
    if faults := placement.faults(grid.fov_mm):
        raise CaseError(faults)
    centre = placement.centre_mm if placement.is_on_brain else None
    sampler = GridSampler(raw.label.shape, raw.affine, grid.shape, grid.spacing_mm, centre)
    label = sampler.label(source.turn(raw.label), LABELS)
    before, after = sum(raw.mask.tissue_voxels) * raw.header.voxel_ml, np.count_nonzero(label) * grid.voxel_ml
    told = (
        f"its mask is brought to the model's grid, label by label: {before:.4g} ml become {after:.4g} ml, "
        f"Dice {_agreement(sampler, label, source.turn(raw.label))}"
    )
    return label, (told, *placement.warnings(grid.fov_mm))


def _agreement(sampler: GridSampler, label: NDArray[np.uint8], given: NDArray[np.uint8]) -> str:
    """Dice of each region on the given mask's voxels, the grid's label of the nearest voxel against the given one."""
    margin = int(np.ceil(2 * max(sampler.spacing_mm) / min(sampler.source.spacing_mm)))
    box = bounding_box(given > 0)
    own = np.pad(given[box], margin)
    matrix = np.linalg.inv(sampler.affine) @ sampler.source.affine
    offset = matrix[:3, :3] @ np.array([side.start - margin for side in box]) + matrix[:3, 3]
    back = ndimage.affine_transform(label, matrix[:3, :3], offset.tolist(), output_shape=own.shape, order=0)
    told = []
    for name, tissues in (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,))):
        one, other = np.isin(own, tissues), np.isin(back, tissues)
        if one.any() or other.any():
            told.append(f"{name} {2 * np.count_nonzero(one & other) / (one.sum() + other.sum()):.3f}")
    return ", ".join(told)


def _label_faults(label: NDArray[np.integer]) -> list[str]:
    if not label.any():
        return ["the mask is empty on the model's grid; a tumour is needed"]
    inner = label[1:-1, 1:-1, 1:-1]
    if np.count_nonzero(inner) < np.count_nonzero(label):
        return ["the mask touches the border of the field of view; at least one voxel must lie between"]
    return []
