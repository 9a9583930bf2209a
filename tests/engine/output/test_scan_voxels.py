"""Samples brought to the voxels of a scan: tissues stay where they are in the patient."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.output.regrid import FileGrid, to_files
from sbldm.engine.output.scan_voxels import ScanVoxels
from scipy import ndimage
from scipy.spatial.transform import Rotation

GRID = Grid((48, 48, 32), (4.0, 4.0, 4.8))
CENTRE = np.array([3.0, -8.0, 15.0])
LESION = CENTRE + np.array([20, -16, 12])  # RAS mm


def sample() -> tuple[np.ndarray, np.ndarray]:
    """A ball of a brain with a ball of oedema and of enhancing tumour, on the model's grid."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij"), -1)
    place = index @ GRID.affine[:3, :3] + GRID.affine[:3, 3] + CENTRE
    away = np.linalg.norm(place - LESION, axis=-1)
    brain = np.linalg.norm(place - CENTRE, axis=-1) < 75
    image = np.where(brain, 400 + 300 * (away < 22), 0).astype(np.int16)[None]
    return image, np.select([away < 12, away < 22], [3, 2], 0).astype(np.uint8)


def voxels(angles: tuple[float, float, float], flip: bool) -> ScanVoxels:
    shape, sides = (64, 60, 52), np.diag([-3.0 if flip else 3.0, 3.2, 3.5])
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ sides
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return ScanVoxels.of(shape, affine, CENTRE)


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -20, 30), (90, 0, 0)])
@pytest.mark.parametrize("flip", [False, True])
def test_tissues_stay_in_their_place(angles, flip: bool) -> None:
    target = voxels(angles, flip)
    image, label = target.bring(*sample(), 4, GRID)
    affine = np.array(target.affine)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    for value in (3, 2):
        mask = label >= value
        middle = nib.affines.apply_affine(affine, np.array(ndimage.center_of_mass(mask)))
        assert np.allclose(middle, LESION, atol=0.7), value
        given = np.isin(sample()[1], (3,) if value == 3 else (2, 3)).sum() * GRID.voxel_ml
        assert mask.sum() * voxel_ml == pytest.approx(given, rel=0.08), value
    assert np.array_equal(image[0][label == 3], np.full((label == 3).sum(), 700))
    brain_ml = (image > 0).sum() * voxel_ml
    assert brain_ml == pytest.approx(4 / 3 * np.pi * 75**3 / 1000, rel=0.03)
    assert image.dtype == np.int16
    assert image.shape == (1, *target.shape)


def test_along_the_axes_it_is_what_regridding_gives() -> None:
    files = FileGrid.of((64, 64, 48), np.diag([3.0, 3.0, 3.2, 1.0]))
    affine = np.array(files.affine)
    centre = affine[:3, :3] @ ((np.array(files.shape) - 1) / 2) + affine[:3, 3]
    image, label = sample()
    ours = ScanVoxels.of(files.shape, affine, centre).bring(image, label, 4, GRID)
    theirs = to_files(image, label, 4, GRID, files)
    assert np.abs(ours[0].astype(int) - theirs[0]).max() <= 1  # rounding
    assert (ours[1] != theirs[1]).mean() < 1e-4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"affine": ((1.0, 0, 0, 0),) * 3}, "affine"),
        ({"affine": ((1.0, 0, 0, 0), (1.0, 0, 0, 0), (0, 0, 1.0, 0), (0, 0, 0, 1.0))}, "perpendicular"),
        ({"affine": ((99.0, 0, 0, 0), (0, 1.0, 0, 0), (0, 0, 1.0, 0), (0, 0, 0, 1.0))}, "0.1 to 20"),
        ({"shape": (10**6, 10**6, 10**6)}, "shape"),
        ({"centre_mm": (float("nan"), 0, 0)}, "centre_mm"),
    ],
)
def test_what_no_scan_has_is_named(changes: dict, told: str) -> None:
    assert voxels((1, 2, 3), False).problems() == []
    (problem,) = dataclasses.replace(voxels((1, 2, 3), False), **changes).problems()
    assert told in problem
