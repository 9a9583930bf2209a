"""Plausible variants of a mask: mirrored, moved, deformed, grown or shrunk, with another share of necrosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtr

from ...kernels.noise import DRAWS_PER_ATTEMPT, standard_normal
from ..anatomy.splines import SPLINE_DEVIATION, basis, expanded, node_count
from ..mask_solver import cut
from .edit import distance_maps
from .place import places, shifted

Edit = Literal["mirror", "place", "deform", "volume", "necrosis"]
EDITS: tuple[Edit, ...] = get_args(Edit)

ATTEMPTS = 20  # draws of a variant before it is given up
CHANGE = (-0.4, 0.8)  # of the volume, least and most, where no millilitres are given
DEFORMATION = 0.12  # deviation of the displacement over the radius of the sphere of the mask's volume
NODE_MM = 18.0  # between the nodes of the displacement: structures of 12 mm
NECROSIS = (0.0, 0.8)  # share of the core
HELD = 0.99  # share of a mask that a place holds within the brain
_TOUCHING = np.ones((3, 3, 3), bool)

Mask = NDArray[np.bool_]
Label = NDArray[np.uint8]
Sides = tuple[float, float, float]


@dataclass(frozen=True)
class Variant:
    """A mask (x, y, z) and what was done to the one that it comes from."""

    label: Label
    mirrored: bool
    moved_mm: Sides  # along x, y, z
    attempt: int  # draws that were refused before it


@dataclass(frozen=True)
class _Draws:
    """Numbers of one attempt at a variant."""

    seed: int
    number: int
    attempt: int

    def normals(self, edit: Edit, size: int) -> NDArray[np.float32]:
        draw = EDITS.index(edit) + DRAWS_PER_ATTEMPT * self.attempt
        return standard_normal(self.seed, self.number, draw, size)

    def uniform(self, edit: Edit) -> float:
        return float(ndtr(self.normals(edit, 1)[0]))


class VariantFault(Exception):
    """Why no variant of a mask was found."""


def varied(
    label: Label,
    brain: Mask,
    spacing_mm: Sides,
    seed: int,
    number: int,
    edits: Sequence[Edit] = EDITS,
    change_ml: tuple[float, float] | None = None,
) -> Variant:
    """Variant `number` of a mask: in one piece, inside the brain, away from the border of the array.

    A function of its arguments alone.

    Args:
        label: (x, y, z), 1 NCR, 2 ED, 3 ET, in one piece.
        brain: where a tumour may lie.
        spacing_mm: of a voxel.
        seed, number: of the draws.
        edits: what is done.
        change_ml: least and most change of the volume in ml, in place of `CHANGE`.

    Raises:
        VariantFault: `ATTEMPTS` draws gave none.
    """
    allowed = brain.copy()
    for axis in range(3):
        edge = np.moveaxis(allowed, axis, 0)
        edge[0] = edge[-1] = False
    faults = list[str]()
    for attempt in range(ATTEMPTS):
        draws = _Draws(seed, number, attempt)
        made, mirrored, moved = _moved(label, allowed, spacing_mm, draws, edits)
        counts = _counts(label, spacing_mm, draws, edits, change_ml)
        if {"deform", "volume", "necrosis"} & {*edits} or (made[~allowed] > 0).any():
            made = _recut(made, allowed, spacing_mm, counts, draws, deformed="deform" in edits)
        fault = _fault(made, allowed, counts[0])
        if fault is None:
            return Variant(made, mirrored, moved, attempt)
        faults.append(fault)
    raise VariantFault(f"no variant {number} in {ATTEMPTS} draws: {'; '.join(dict.fromkeys(faults))}")


def largest_piece(label: Label) -> Label:
    """The mask without all pieces (26-connected) but its largest."""
    pieces, number = ndimage.label(label > 0, structure=_TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    if number < 2:
        return label
    kept = 1 + int(np.argmax(np.bincount(np.asarray(pieces).ravel())[1:]))
    return np.where(pieces == kept, label, np.uint8(0))


def _moved(
    label: Label, allowed: Mask, spacing_mm: Sides, draws: _Draws, edits: Sequence[Edit]
) -> tuple[Label, bool, Sides]:
    mirrored = "mirror" in edits and draws.uniform("mirror") < 0.5
    made = _mirrored(label, allowed) if mirrored else label
    if "place" not in edits:
        return made, mirrored, (0.0, 0.0, 0.0)
    shifts, held = places(made, allowed, spacing_mm)
    good = np.flatnonzero(held >= min(HELD, held.max()))
    by = shifts[good[min(int(draws.uniform("place") * good.size), good.size - 1)]]
    x, y, z = (by * np.array(spacing_mm)).tolist()
    return shifted(made, by.tolist()), mirrored, (x, y, z)


def _mirrored(label: Label, brain: Mask) -> Label:
    """About the plane across x that halves the brain's box."""
    filled = np.flatnonzero(brain.any(axis=(1, 2)))
    by = int(filled[0] + filled[-1]) - (label.shape[0] - 1)
    return shifted(label[::-1], (by, 0, 0))


def _counts(
    label: Label, spacing_mm: Sides, draws: _Draws, edits: Sequence[Edit], change_ml: tuple[float, float] | None
) -> tuple[int, int, int]:
    """Voxels of whole tumour, core and necrosis."""
    whole, core, necrosis = (int(np.count_nonzero(np.isin(label, kinds))) for kinds in ((1, 2, 3), (1, 3), (1,)))
    share, part = core / whole, necrosis / core if core else 0.0
    if "volume" in edits:
        voxels_a_ml = 1000 / float(np.prod(spacing_mm))
        least, most = (c * whole / voxels_a_ml for c in CHANGE) if change_ml is None else change_ml
        change = least + (most - least) * draws.uniform("volume")
        whole = max(1, whole + round(change * voxels_a_ml))
        core = min(whole, round(share * whole))
    if "necrosis" in edits:
        part = NECROSIS[0] + (NECROSIS[1] - NECROSIS[0]) * draws.uniform("necrosis")
    return whole, core, round(part * core)


def _recut(
    label: Label, allowed: Mask, spacing_mm: Sides, counts: tuple[int, int, int], draws: _Draws, *, deformed: bool
) -> Label:
    """The mask with so many voxels, its surface moved by a smooth displacement, within what is allowed."""
    whole = max(counts[0], int(np.count_nonzero(label)))
    radius = float((3 * whole * np.prod(spacing_mm) / (4 * np.pi)) ** (1 / 3))
    at = ndimage.find_objects((label > 0).astype(np.uint8))
    if not at:
        return label
    reach = [int(np.ceil(0.6 * radius / mm)) + 2 for mm in spacing_mm]
    box = tuple(
        slice(max(0, s.start - r), min(n, s.stop + r)) for s, r, n in zip(at[0], reach, label.shape, strict=True)
    )
    fields = np.moveaxis(distance_maps(label[box], spacing_mm), 1, -1)
    if deformed:
        moved = _displacement(fields.shape[1:], spacing_mm, draws) * np.float32(DEFORMATION * radius)
        places = np.indices(fields.shape[1:], np.float32) + moved / np.reshape(spacing_mm, (3, 1, 1, 1))
        fields = np.stack([ndimage.map_coordinates(field, places, order=1, mode="nearest") for field in fields])
    fields = fields.astype(np.float32)
    fields[0][~allowed[box]] = np.float32(1e6)
    made = np.zeros_like(label)
    made[box] = cut(fields, (min(counts[0], int(allowed[box].sum())), *counts[1:]))
    return made


def _displacement(shape: Sequence[int], spacing_mm: Sides, draws: _Draws) -> NDArray[np.float32]:
    """(3, x, y, z) of unit deviation, smooth."""
    steps = [NODE_MM / mm for mm in spacing_mm]
    nodes = [node_count(n, step) for n, step in zip(shape, steps, strict=True)]
    normals = draws.normals("deform", 3 * int(np.prod(nodes))).reshape(3, *nodes)
    return expanded(normals, [basis(n, step) for n, step in zip(shape, steps, strict=True)]) / np.float32(
        SPLINE_DEVIATION
    )


def _fault(label: Label, allowed: Mask, wanted: int) -> str | None:
    voxels = int(np.count_nonzero(label))
    if voxels < wanted:
        return "there is no room for its volume inside the brain"
    if np.count_nonzero(label[~allowed]):
        return "it leaves the brain"
    _, pieces = ndimage.label(label > 0, structure=_TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    return None if pieces == 1 else f"it falls into {pieces} pieces"
