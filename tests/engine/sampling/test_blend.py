"""What a model made of a part of a scan, in the scan's own voxels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.output.scan_voxels import ScanVoxels
from sbldm.engine.sampling import blend
from scipy import ndimage

GRID = Grid((24, 24, 16), (6.0, 6.0, 7.0))


def ball(shape: tuple[int, ...], spacing: tuple[float, ...], radius: float) -> np.ndarray:
    at = (np.indices(shape) - np.reshape((np.array(shape) - 1) / 2, (3, 1, 1, 1))) * np.reshape(spacing, (3, 1, 1, 1))
    return np.linalg.norm(at, axis=0) < radius


def test_brightness_is_carried_from_the_ring_into_the_region() -> None:
    region, wide = ball(GRID.shape, GRID.spacing_mm, 20), ball(GRID.shape, GRID.spacing_mm, 36)
    before = np.full((2, *GRID.shape), 0.5, np.float32)
    slope = np.linspace(-0.1, 0.1, GRID.shape[0], dtype=np.float32).reshape(-1, 1, 1)
    made = before + np.stack([np.full(GRID.shape, 0.2, np.float32), slope + np.zeros(GRID.shape, np.float32)])
    made[:, ball(GRID.shape, GRID.spacing_mm, 8)] += 0.1  # of the lesion itself, which stays
    fitted = blend.fitted(made, before, wide & ~region, region, GRID.spacing_mm)
    lesion = ball(GRID.shape, GRID.spacing_mm, 8)
    assert fitted[0][region & ~lesion] == pytest.approx(0.5, abs=0.01)
    assert fitted[0][lesion] == pytest.approx(0.6, abs=0.01)
    assert np.abs(fitted[1] - 0.5)[wide & ~lesion].mean() < 0.5 * np.abs(made[1] - 0.5)[wide & ~lesion].mean()
    assert np.array_equal(blend.fitted(made, before, np.zeros_like(region), region, GRID.spacing_mm), made)


def test_brightness_is_fitted_in_a_box_as_over_the_whole_brain() -> None:
    region = np.roll(ball(GRID.shape, GRID.spacing_mm, 20), (4, -3, 2), (0, 1, 2))
    near = blend.distance_mm(region, GRID.spacing_mm) < 14
    ring = near & ~region
    rng = np.random.default_rng(0)
    made, before = rng.uniform(0.3, 0.6, (2, 1, *GRID.shape)).astype(np.float32)
    sigma = [max(12.0, 0.6 * blend.distance_mm(~region, GRID.spacing_mm).max()) / mm for mm in GRID.spacing_mm]
    apart, total = (
        ndimage.gaussian_filter(one, sigma, mode="constant") for one in ((before - made)[0] * ring, ring * 1.0)
    )
    whole = np.clip(made[0] + apart / (total + 1e-4), 0, 1)
    around = np.asarray(ndimage.binary_dilation(near, np.ones((3, 3, 3))), bool)
    fitted = blend.fitted(made, before, ring, region, GRID.spacing_mm)[0]
    assert fitted[around] == pytest.approx(whole[around], abs=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["RAS", "LPS"])
def test_the_other_side_lies_behind_the_plane_of_symmetry(sign: float) -> None:
    shape, side = (40, 42, 30), 3.5
    affine = np.diag([sign * side, sign * side, 3.6, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + [2.0, -1.0, 3.0]
    voxels = ScanVoxels.of(shape, affine, np.array([2.0, -1.0, 3.0]))
    box = (slice(4, 30), slice(3, 40), slice(2, 28))
    scan = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 2).astype(np.float32)
    flip = 1  # half a voxel of the grid: 3 mm to the right
    side_of = blend._OtherSide(cast(Any, SimpleNamespace(voxels=voxels)), GRID, flip, box, np.ones(shape, bool))
    found = side_of.residual(scan, np.zeros(GRID.shape, np.float32))
    matrix, offset = voxels.to_grid(GRID)
    at = np.array([10, 12, 9])  # of the box
    on_grid = matrix @ (at + [s.start for s in box]) + offset
    on_grid[0] = GRID.shape[0] - 1 + flip - on_grid[0]
    there = np.linalg.solve(matrix, on_grid - offset)
    expected = ndimage.map_coordinates(scan, there[:, None], order=1)[0]
    assert found[tuple(at)] == pytest.approx(expected, abs=1e-4)
    unknown = np.ones(shape, bool)
    unknown[tuple(np.rint(there).astype(int))] = False
    hidden = blend._OtherSide(cast(Any, SimpleNamespace(voxels=voxels)), GRID, flip, box, unknown)
    assert not hidden.known[tuple(at)]


def test_fine_structure_stays_half_in_oedema_and_not_in_core_or_where_a_lesion_was() -> None:
    new = np.zeros((30, 30, 30), np.uint8)
    new[8:22, 8:22, 8:22] = 2
    new[12:18, 12:18, 12:18] = 3
    gone = np.zeros(new.shape, bool)
    gone[:, :, 24:] = True
    kept = blend._kept(new, gone, (2.0, 2.0, 2.0))
    assert kept[0, 0, 0] == pytest.approx(1, abs=1e-3)
    assert kept[15, 15, 15] == pytest.approx(0, abs=0.02)
    assert kept[10, 10, 10] == pytest.approx(blend.KEPT_IN_OEDEMA, abs=0.15)
    assert kept[0, 0, 29] == pytest.approx(0, abs=1e-3)
