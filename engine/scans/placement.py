"""Where the model's field of view lies over a scan, and what of brain and tumour it leaves out.

It is centred on the scan's own field of view where the brain lies inside of it then: where it leaves out 0.5 % of the
brain at most and nothing of the tumour; else on the brain's box: the smallest box along the RAS axes that keeps all but
0.05 % of the brain's voxels on each of its six sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from ..blocks import profiles

Affine = NDArray[np.float64]
Extent = tuple[float, float, float]

OBLIQUE_TOLERANCE = 1e-3  # off-axis share of a voxel step below which a scan counts as axis-aligned
INSIDE = 0.005  # share of the brain that may lie outside of a field of view centred on the scan
TRIMMED = 0.0005  # share of the brain's voxels that its box leaves out on each side
MAX_TUMOUR_LOSS = 0.01
_EDGE_MM = 1e-3
_SAMPLED = 200_000  # voxels of an oblique brain that place it


@dataclass(frozen=True)
class RasGrid:
    """A scan's voxel grid, axes swapped and flipped to the nearest of RAS."""

    orientation: NDArray[np.floating]  # of the file, for nibabel
    shape: tuple[int, ...]
    affine: Affine  # (4, 4) RAS voxel index -> mm

    @classmethod
    def of(cls, affine: Affine, shape: tuple[int, ...]) -> RasGrid:
        """The grid of a file's affine and shape."""
        orientation = io_orientation(affine)
        turned = tuple(int(shape[int(axis)]) for axis in np.argsort(orientation[:, 0]))
        return cls(orientation, turned, affine @ inv_ornt_aff(orientation, shape))

    @property
    def spacing_mm(self) -> Extent:
        """Voxel sizes along its axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def is_oblique(self) -> bool:
        """Whether its axes are not those of the patient."""
        off_axis = np.abs(self.affine[:3, :3] / np.asarray(self.spacing_mm) - np.eye(3)).max()
        return bool(off_axis > OBLIQUE_TOLERANCE)

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """(3,): the middle of the scan."""
        return (self.affine @ np.append((np.asarray(self.shape) - 1) / 2, 1.0))[:3]

    @property
    def extent_mm(self) -> Extent:
        """Size of the scan's field of view along its axes."""
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z

    @property
    def codes(self) -> str:
        """RAS, or the nearest letters of what cannot be turned to it."""
        return "".join(str(code) for code in aff2axcodes(self.affine))

    def turn_box(self, box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """The first voxel in RAS order of a box of the file, whose shape is `shape`."""
        start = [0, 0, 0]
        for axis, (turned, sign) in enumerate(self.orientation):
            start[int(turned)] = box[axis].start if sign > 0 else shape[axis] - box[axis].stop
        return tuple(start)

    def turn(self, array: NDArray) -> NDArray:
        """The array of the file in RAS order (a view)."""
        return apply_orientation(array, self.orientation)


@dataclass(frozen=True)
class Placement:
    """Where the field of view lies."""

    centre_mm: Extent
    is_on_brain: bool  # not on the scan's centre
    moved_mm: Extent  # from the scan's centre
    brain_loss: float  # share of the brain's voxels outside
    tumour_loss: float
    avoided: tuple[float, float]  # share of brain and tumour that would lie outside of a view on the scan's centre

    def faults(self, view_mm: Extent) -> list[str]:
        """What makes the case unusable."""
        if self.tumour_loss <= MAX_TUMOUR_LOSS:
            return []
        return [
            f"{100 * self.tumour_loss:.3g} % of the tumour lies outside the field of view of {_text(view_mm)} mm "
            f"({self._where()}), at most {100 * MAX_TUMOUR_LOSS:g} % may; is the mask on the brain?"
        ]

    def warnings(self, view_mm: Extent) -> list[str]:
        """What the user should know."""
        told = []
        if self.is_on_brain:
            told.append(
                f"the field of view is {self._where()}, else {100 * self.avoided[0]:.3g} % of the brain and "
                f"{100 * self.avoided[1]:.3g} % of the tumour would lie outside"
            )
        if self.brain_loss > INSIDE:
            told.append(
                f"{100 * self.brain_loss:.3g} % of the brain lies outside the field of view of {_text(view_mm)} mm"
            )
        return told

    def _where(self) -> str:
        if not self.is_on_brain:
            return "centred on the scan"
        return f"centred on the brain, {', '.join(f'{mm:+.1f}' for mm in self.moved_mm)} mm from the scan's centre"


def can_cut(grid: RasGrid, view_mm: Extent) -> bool:
    """Whether a part of the scan lies outside of a centred field of view at all."""
    if grid.is_oblique:
        return True
    return any(extent > view + _EDGE_MM for extent, view in zip(grid.extent_mm, view_mm, strict=True))


class Cloud:
    """Voxels of a mask as places in mm from the scan's centre, along the patient's axes."""

    def __init__(self, grid: RasGrid, mask: NDArray[np.bool_], start: tuple[int, ...] = (0, 0, 0)) -> None:
        """`mask` is (x, y, z) in the grid's RAS order, or a part of it that begins at voxel `start`."""
        self._mask, self._is_oblique = mask, grid.is_oblique
        self.step_mm = np.linalg.norm(grid.affine[:3, :3], axis=1)  # a voxel's size along the patient's axes
        middle = (np.asarray(grid.shape) - 1) / 2 - np.asarray(start)
        self._points = _points(grid, mask, middle) if grid.is_oblique else np.empty((0, 3))
        self._counts = [] if grid.is_oblique else profiles(mask)
        steps = zip(self._counts, middle, self.step_mm, strict=False)
        self._places = [(np.arange(counts.size) - m) * step for counts, m, step in steps]

    @property
    def mean_mm(self) -> NDArray[np.float64]:
        """(3,): the centre of mass."""
        if self._is_oblique:
            return self._points.mean(axis=0)
        pairs = zip(self._counts, self._places, strict=True)
        return np.array([counts @ places / counts.sum() for counts, places in pairs])

    def edges_mm(self, trimmed: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper edge (3,) of the box that leaves this share of the voxels out on each side."""
        if self._is_oblique:
            low, high = np.quantile(self._points, [trimmed, 1 - trimmed], axis=0)
        else:
            pairs = zip(self._counts, self._places, strict=True)
            low, high = np.array([_trimmed(counts, places, trimmed) for counts, places in pairs]).T
        return low - self.step_mm / 2, high + self.step_mm / 2

    def share_outside(self, centre: NDArray[np.float64], half: NDArray[np.float64]) -> float:
        """Share of the voxels whose centre lies beyond `half` of `centre` along any axis; 0 without voxels."""
        if self._is_oblique:
            outside = (np.abs(self._points - centre) > half + _EDGE_MM).any(axis=1)
            return float(outside.mean()) if outside.size else 0.0
        total = int(self._counts[0].sum())
        slices = []
        for axis, places in enumerate(self._places):
            within = np.flatnonzero(np.abs(places - centre[axis]) <= half[axis] + _EDGE_MM)
            slices.append(slice(int(within[0]), int(within[-1]) + 1) if within.size else slice(0))
        if all(int(counts[part].sum()) == total for counts, part in zip(self._counts, slices, strict=True)):
            return 0.0
        return 1 - np.count_nonzero(self._mask[tuple(slices)]) / total


def place(grid: RasGrid, brain: NDArray[np.bool_] | None, tumour: Cloud, view_mm: Extent) -> Placement:
    """Place a field of view of `view_mm` over the scan.

    `brain` is (x, y, z) in the grid's RAS order; without it the scan's centre is taken.
    """
    half = np.asarray(view_mm) / 2
    moved = np.zeros(3)
    brain_loss, avoided = 0.0, (0.0, 0.0)
    if brain is not None and can_cut(grid, view_mm) and brain.any():
        cloud = Cloud(grid, brain)
        avoided = cloud.share_outside(moved, half), tumour.share_outside(moved, half)
        if avoided[0] > INSIDE or avoided[1] > 0:
            low, high = cloud.edges_mm(TRIMMED)
            moved = (low + high) / 2
            if (
                not grid.is_oblique
            ):  # by whole voxels, so that resampling meets them as it meets those of a centred scan
                moved = np.rint(moved / grid.spacing_mm) * grid.spacing_mm
        brain_loss = cloud.share_outside(moved, half)
    x, y, z = (grid.centre_mm + moved).tolist()
    right, front, top = moved.tolist()
    loss = tumour.share_outside(moved, half)
    return Placement((x, y, z), bool(moved.any()), (right, front, top), brain_loss, loss, avoided)


def _trimmed(counts: NDArray[np.int64], places: NDArray[np.float64], share: float) -> tuple[float, float]:
    """First and last place that keep all but `share` of the counts on either side."""
    summed = np.cumsum(counts)
    first = np.searchsorted(summed, share * summed[-1], side="right")
    last = np.searchsorted(summed, (1 - share) * summed[-1], side="left")
    return float(places[first]), float(places[last])


def _points(grid: RasGrid, mask: NDArray[np.bool_], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3): places of the voxels in mm from voxel `middle`; of many every n-th."""
    flat = np.flatnonzero(mask)
    flat = flat[:: max(1, flat.size // _SAMPLED)]
    index = np.stack(np.unravel_index(flat, mask.shape), axis=-1) - middle
    return index @ grid.affine[:3, :3].T


def _text(sizes: Extent) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
