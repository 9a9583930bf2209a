from __future__ import annotations

import numpy as np
from sbldm.engine.bundle.manifest import DEFAULT_GRID, Grid
from sbldm.engine.output.regrid import (
    BRATS_AFFINE,
    BRATS_FILES,
    BRATS_GRID,
    regrid_image,
    regrid_label,
    resample,
    to_files,
)
from scipy import ndimage


def test_resample_agrees_with_scipy_inside_the_field_of_view() -> None:
    source, target = Grid((12, 10, 8), (3.0, 3.0, 4.0)), Grid((30, 31, 29), (1.0, 0.9, 1.1))
    volume = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)
    index = np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij")
    position = [
        np.clip((i - (t - 1) / 2) * (tm / sm) + (s - 1) / 2, 0, s - 1)
        for i, t, tm, s, sm in zip(index, target.shape, target.spacing_mm, source.shape, source.spacing_mm, strict=True)
    ]
    expected = ndimage.map_coordinates(volume, position, order=1, mode="nearest")
    result = resample(volume, source, target)
    inside = result != 0
    assert inside.mean() > 0.9
    assert np.allclose(result[inside], expected[inside], atol=1e-5)


def test_same_grid_changes_nothing() -> None:
    grid = Grid((7, 6, 5), (1.5, 1.5, 2.4))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 1001, (2, *grid.shape)).astype(np.int16)
    label = rng.integers(0, 4, grid.shape).astype(np.uint8)
    assert np.array_equal(regrid_image(image, grid, grid), image)
    assert np.array_equal(regrid_label(label, 4, grid, grid), label)


def test_outside_the_field_of_view_is_background() -> None:
    grid = Grid((4, 4, 4), (1.0, 1.0, 1.0))
    result = regrid_image(np.full((1, 4, 4, 4), 500, np.int16), grid, Grid((8, 8, 8), (1.0, 1.0, 1.0)))
    assert np.count_nonzero(result) == 64
    assert set(np.unique(result)) == {0, 500}


def test_brats_grid_keeps_place_volume_and_orientation() -> None:
    """A ball right, front and up of the centre stays there in millimetres relative to the field of view's centre."""
    grid = DEFAULT_GRID
    place = np.array([20.0, 30.0, 15.0])
    coordinates = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    world = np.stack(coordinates, -1) * grid.spacing_mm + grid.affine[:3, 3]
    label = (np.linalg.norm(world - place, axis=-1) < 18).astype(np.uint8) * 3
    image = np.where(np.linalg.norm(world, axis=-1) < 60, 700, 0).astype(np.int16)[None]
    fine_image, fine_label = to_files(image, label, 4, grid, BRATS_FILES)
    assert fine_image.shape == (1, 240, 240, 155)
    assert fine_label.shape == BRATS_GRID.shape
    found = BRATS_AFFINE[:3, :3] @ np.argwhere(fine_label == 3).mean(axis=0) + BRATS_AFFINE[:3, 3]
    centre = BRATS_AFFINE[:3, :3] @ ((np.array(BRATS_GRID.shape) - 1) / 2) + BRATS_AFFINE[:3, 3]
    assert np.allclose(found - centre, place, atol=0.1)
    ratio = np.count_nonzero(fine_label) / (np.count_nonzero(label) * np.prod(grid.spacing_mm))
    assert abs(ratio - 1) < 0.03
    assert set(np.unique(fine_image)) <= set(range(701))
