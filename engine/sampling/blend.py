"""What a model made of a part of a scan, blended into the scan's own voxels.

The difference between what the decoder makes of the new and of the old latent is added with a weight that falls from 1
at the lesion to 0 at the margin, so no voxel beyond it changes and none jumps at it. What of the scan the decoder
cannot show (its residual: noise, folds) stays where the tissue does, partly under oedema, not in a core; where a lesion
was taken out it is that of the other side of the brain. What is then short of the scan's noise is drawn (`scan_noise`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..anatomy.mass_effect import pushed_places, taken_from
from ..bundle.manifest import Grid
from ..output.scan_files import Box, Patch
from ..processor import available_threads
from .insert_case import InsertCase, Label
from .scan_noise import ScanNoise

KEPT_IN_OEDEMA = 0.5  # of the residual
RIM_MM = 3.0  # around a lesion that is taken out; the decoder's picture of it reaches so far
_WHOLE = 0.99  # share of the residual from which a voxel's own is said to stay
_EDGE_MM = 1.5  # deviation of the passage between keeping it and not
_FIT_MM = 12.0  # least deviation of the means that brightness is fitted by
_BEYOND_MM = 4.0  # around the ring: what its voxels are interpolated with

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]
Sides = tuple[float, float, float]


def fitted(made: FloatArray, before: FloatArray, ring: Mask, region: Mask, spacing_mm: Sides) -> FloatArray:
    """Images (M, x, y, z) whose brightness meets that of the scan around the region, without a step.

    What differs in the ring, smoothed, is carried inward: a membrane as of Perez et al., "Poisson image editing",
    SIGGRAPH 2003, by weighted means.

    Args:
        made: what the decoder makes of the new latent.
        before: the same of the scan's.
        ring: (x, y, z) of tissue around the region that both show.
        region: of the lesion.
        spacing_mm: of a voxel.
    """
    if not ring.any():
        return made
    inner = region[_box(region, 0.0, spacing_mm)]
    reach = float(distance_mm(~inner, spacing_mm).max()) if inner.any() else 0.0
    box = _box(ring | region, _BEYOND_MM, spacing_mm)
    sigma = [max(_FIT_MM, 0.6 * reach) / mm for mm in spacing_mm]
    weight, result = ring[box].astype(np.float32), made.copy()

    def smooth(values: FloatArray) -> FloatArray:
        return np.asarray(ndimage.gaussian_filter(values, sigma, mode="constant"), np.float32)

    total = smooth(weight) + np.float32(1e-4)

    def fit(number: int) -> None:
        apart = (before[number][box] - made[number][box]) * weight
        result[number][box] = np.clip(made[number][box] + smooth(apart) / total, 0, 1)

    with ThreadPoolExecutor(available_threads(), "fit") as pool:
        list(pool.map(fit, range(len(made))))
    return result


@dataclass(frozen=True)
class Place:
    """The part of a scan that changes."""

    label: Label  # (x, y, z) of the whole scan, as it becomes
    removed: Mask  # (x, y, z) of the whole scan: the lesion that is filled
    box: Box  # around what changes
    distance: FloatArray  # (x, y, z) of the box: mm from the lesion, new or filled

    @staticmethod
    def of(case: InsertCase, new: Label) -> Place:
        """Of a scan and the tumour (x, y, z) on its voxels."""
        own = case.own.scan.label()
        removed = (own > 0) & case.removes
        region = (new > 0) | removed
        box = _box(region, case.margin_mm, case.spacing_mm)
        label = np.where(new > 0, new, np.where(removed, np.uint8(0), own))
        return Place(label, removed, box, distance_mm(region[box], case.spacing_mm))

    def planes(self, case: InsertCase, grid: Grid) -> range:
        """The planes across z of the grid that its voxels are interpolated from."""
        matrix, offset = case.voxels.to_grid(grid)
        corners = np.array(list(product(*[(side.start, side.stop - 1) for side in self.box])))
        at = corners @ matrix[2] + offset[2]
        size = grid.shape[2]
        return range(min(max(0, int(np.floor(at.min()))), size - 1), min(max(0, int(np.ceil(at.max()))), size - 1) + 1)


def blended(
    case: InsertCase, grid: Grid, place: Place, new: Label, made: FloatArray, before: FloatArray, flip: int,
    normals: FloatArray,
) -> Patch:  # fmt: skip
    """The scan's voxels within the margin.

    Args:
        case: the scan.
        grid: of the model.
        place: what changes.
        new: (x, y, z) the tumour on the scan's voxels.
        made, before: (M, x, y, z) on the grid, 0..1: the decoder's of the new and of the scan's latent.
        flip: `heal.symmetry` of the brain on the grid.
        normals: (M, `scan_noise.NUMBERS`).
    """
    box, distance = place.box, place.distance
    scan = [file.values(None if case.removes else box) for file in case.files]
    inside = np.logical_or.reduce([values != 0 for values in scan])
    own = [values[box] for values in scan] if case.removes else scan
    brain = inside[box] if case.removes else inside
    changed = brain & (distance < case.margin_mm)
    places = None
    if case.has_mass_effect:
        places = pushed_places(core_of(new[box]), distance, case.spacing_mm, case.margin_mm)
    rest = np.clip(1 - distance / np.float32(case.margin_mm), 0, 1)
    weight = rest * rest * (3 - 2 * rest)
    gone = distance_mm(place.removed[box], case.spacing_mm) <= RIM_MM
    kept, lent = _kept(new[box], gone, case.spacing_mm), gone & (new[box] == 0)
    around = brain & (distance > 0) & (kept > _WHOLE)
    side, borrowed = None, np.zeros_like(kept)
    if place.removed.any():
        known = inside.copy()
        known[box] &= ~gone
        side = _OtherSide(case, grid, flip, box, known)
        borrowed = np.where(lent & side.known, 1 - kept, np.float32(0))
    smooth = np.sqrt(np.maximum(1 - kept**2 - borrowed**2, 0))

    def modality(number: int) -> FloatArray:
        scale = np.float32(case.scales[number])
        part = own[number] if places is None else taken_from(own[number][None], places)[0]
        shown, was = (_in_box(scale * volume[number], grid, case, box) for volume in (made, before))
        noise = ScanNoise.of(part - was, was, around)
        mixed = shown + kept * (part - was) + smooth * noise.drawn(normals[number], box)
        if side is not None:
            mixed += borrowed * side.residual(scan[number], before[number] * scale)
        low = np.float32(_darkest(own[number][brain]))
        return np.maximum(part + weight * (mixed - part), low).astype(np.float32)

    with ThreadPoolExecutor(available_threads(), "blend") as pool:
        return Patch(box, changed, tuple(pool.map(modality, range(len(scan)))), place.label)


def distance_mm(region: Mask, spacing_mm: Sides) -> FloatArray:
    """Of each voxel from a region; 0 inside, infinite where there is none."""
    if not region.any():
        return np.full(region.shape, np.inf, np.float32)
    return np.asarray(ndimage.distance_transform_edt(~region, spacing_mm), np.float32)


def core_of(label: Label) -> Mask:
    """NCR and ET; of a tumour without them all of it."""
    core = (label == 1) | (label == 3)
    return core if core.any() else label > 0


class _OtherSide:
    """The residual of a scan at the mirrored places of a box."""

    def __init__(self, case: InsertCase, grid: Grid, flip: int, box: Box, known: Mask) -> None:
        matrix, offset = case.voxels.to_grid(grid)
        turn = np.diag([-1.0, 1.0, 1.0])
        moved = np.array([grid.shape[0] - 1 + flip, 0.0, 0.0])
        back = np.linalg.inv(matrix)
        self._matrix = back @ turn @ matrix
        self._offset = back @ (turn @ offset + moved - offset) + self._matrix @ np.array([s.start for s in box])
        self._case, self._grid = case, grid
        self._shape = tuple(side.stop - side.start for side in box)
        self.known: Mask = self._taken(known.astype(np.float32)) > 0.99

    def residual(self, scan: FloatArray, before: FloatArray) -> FloatArray:
        """What the decoder does not show of a modality (x, y, z), where the other side is known."""
        matrix, offset = self._case.voxels.to_grid(self._grid)
        on_grid = self._matrix.copy(), self._offset
        shown = np.empty(self._shape, np.float32)
        ndimage.affine_transform(
            before, matrix @ on_grid[0], (matrix @ on_grid[1] + offset).tolist(), output=shown, order=1, mode="nearest"
        )
        return self._taken(scan) - shown

    def _taken(self, scan: FloatArray) -> FloatArray:
        made = np.empty(self._shape, np.float32)
        ndimage.affine_transform(scan, self._matrix, self._offset.tolist(), output=made, order=1, mode="constant")
        return made


def _kept(new: Label, gone: Mask, spacing_mm: Sides) -> FloatArray:
    """Share of the residual that stays."""
    share = np.select([(new == 1) | (new == 3) | gone, new == 2], [0.0, KEPT_IN_OEDEMA], 1.0).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(share, [_EDGE_MM / mm for mm in spacing_mm]), np.float32)


def _in_box(volume: FloatArray, grid: Grid, case: InsertCase, box: Box) -> FloatArray:
    """A volume of the model's grid on the scan's voxels of a box, linearly."""
    matrix, offset = case.voxels.to_grid(grid)
    offset = offset + matrix @ np.array([side.start for side in box])
    made = np.empty([side.stop - side.start for side in box], np.float32)
    ndimage.affine_transform(volume, matrix, offset.tolist(), output=made, order=1, mode="nearest")
    return made


def _box(region: Mask, margin_mm: float, spacing_mm: Sides) -> Box:
    """The box of a region and its margin, within the array."""
    if not region.any():
        return slice(0, 1), slice(0, 1), slice(0, 1)
    found = ndimage.find_objects(region.astype(np.uint8))[0]
    reach = [int(np.ceil(margin_mm / mm)) + 1 for mm in spacing_mm]
    ends = zip(found, reach, region.shape, strict=True)
    x, y, z = (slice(max(0, side.start - r), min(n, side.stop + r)) for side, r, n in ends)
    return x, y, z


def _darkest(values: FloatArray) -> float:
    """The smallest value above 0; 0 where there is none."""
    above = values[values > 0]
    return float(above.min()) if above.size else 0.0
