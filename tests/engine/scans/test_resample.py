from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine.scans.resample import GridSampler, axis_weights
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPE = (22, 26, 18)
CODES = ["".join(c) for p in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*p)]


def world(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def ramp(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    return world(shape, affine) @ np.array([0.7, -1.3, 2.1]) + 5.0


@settings(max_examples=40, deadline=None)
@given(
    code=st.sampled_from(CODES),
    spacing=st.tuples(*[st.floats(0.6, 2.5)] * 3),
    target=st.tuples(*[st.floats(0.6, 2.5)] * 3),
)
def test_a_linear_ramp_in_world_coordinates_stays_what_it_is(
    code: str, spacing: tuple[float, ...], target: tuple[float, ...]
) -> None:
    to_ras = nib.orientations.axcodes2ornt(tuple(code))
    affine = np.diag([*spacing, 1.0]) @ nib.orientations.inv_ornt_aff(to_ras, SHAPE)
    affine[:3, 3] += (13.0, -7.0, 2.0)
    sampler = GridSampler(SHAPE, affine, (6, 6, 4), target)
    assert not sampler.source.is_oblique
    expected = ramp((6, 6, 4), sampler.affine)
    got = sampler.image(sampler.source.turn(ramp(SHAPE, affine)))
    whole = sampler.image(np.ones(sampler.source.turn(np.empty(SHAPE)).shape)) > 1 - 1e-6
    assert whole.any()
    np.testing.assert_allclose(got[whole], expected[whole], rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(world((6, 6, 4), sampler.affine).mean((0, 1, 2)), world(SHAPE, affine).mean((0, 1, 2)))


def test_an_oblique_ramp_stays_what_it_is() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix() * [1.0, 1.2, 0.9]
    affine[:3, 3] = (-4.0, 9.0, 1.0)
    sampler = GridSampler((40, 40, 40), affine, (8, 8, 6), (1.5, 1.5, 2.4))
    assert sampler.source.is_oblique
    got = sampler.image(sampler.source.turn(ramp((40, 40, 40), affine)))
    np.testing.assert_allclose(got, ramp((8, 8, 6), sampler.affine), atol=1e-3)


def test_the_oblique_way_agrees_with_the_straight_one_for_a_slight_tilt() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(48, 48, 48)), 3).astype(np.float32)
    label = (smooth > np.median(smooth)).astype(np.uint8) + 2 * (smooth > np.percentile(smooth, 90))
    tilted = np.eye(4)
    tilted[:3, :3] = Rotation.from_euler("z", 0.12, degrees=True).as_matrix()
    straight = GridSampler(smooth.shape, np.eye(4), (16, 16, 12), (1.5, 1.5, 2.4))
    oblique = GridSampler(smooth.shape, tilted, (16, 16, 12), (1.5, 1.5, 2.4))
    assert oblique.source.is_oblique
    difference = oblique.image(smooth) - straight.image(smooth)
    assert np.abs(difference).mean() < 0.02 * smooth.std()
    assert (oblique.label(label, 4) == straight.label(label, 4)).mean() > 0.97


@pytest.mark.parametrize("step", [(1.5, 1.5, 2.4), (1.0, 3.0, 0.7)])
def test_the_axis_matrices_agree_with_smoothing_and_interpolating_the_volume(step: tuple[float, ...]) -> None:
    image = np.random.default_rng(1).normal(size=(44, 50, 40)).astype(np.float32)
    sampler = GridSampler(image.shape, np.eye(4), (20, 12, 14), step)
    sigma = np.sqrt(np.maximum(np.square(step) - 1, 0) / 6)
    at = world((20, 12, 14), sampler.affine)
    reference = ndimage.map_coordinates(
        ndimage.gaussian_filter(image, sigma, mode="constant"), np.moveaxis(at, -1, 0), order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(sampler.image(image), reference, atol=1e-4)


def test_antialiasing_is_close_to_that_of_pytorch() -> None:
    image = np.random.default_rng(1).normal(size=(60, 90, 3)).astype(np.float32)
    ours = GridSampler(image.shape, np.eye(4), (40, 45, 3), (1.5, 2.0, 1.0)).image(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(tensor, size=(40, 45), mode="bilinear", antialias=True)
    inside = (slice(4, -4), slice(4, -4))
    correlation = np.corrcoef(ours[inside].ravel(), theirs[0].permute(1, 2, 0).numpy()[inside].ravel())[0, 1]
    assert correlation > 0.98


def test_beyond_the_scan_there_is_background() -> None:
    ones = np.ones((20, 20, 20), np.float32)
    sampler = GridSampler(ones.shape, np.eye(4), (40, 40, 40), (1.0, 1.0, 1.0))
    image = sampler.image(ones)
    assert np.array_equal(image > 0, np.pad(ones, 10) > 0)
    assert np.array_equal(sampler.label(ones.astype(np.uint8) * 2, 4), np.pad(ones, 10).astype(np.uint8) * 2)


def test_rows_of_the_weights_sum_to_one_inside_of_the_scan() -> None:
    at, weights = axis_weights(240, 1.0, 128, 1.5, antialias=True)
    assert weights.shape == (128, at.stop - at.start)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_labels_keep_their_volume() -> None:
    x, y, z = np.meshgrid(np.arange(90), np.arange(90), np.arange(90), indexing="ij")
    radius = np.sqrt((x - 44.2) ** 2 + (y - 45.1) ** 2 + (z - 43.7) ** 2)
    label = np.select([radius < 8, radius < 14, radius < 25], [1, 3, 2], 0).astype(np.uint8)
    on_grid = GridSampler(label.shape, np.eye(4), (60, 60, 38), (1.5, 1.5, 2.4)).label(label, 4)
    before = np.bincount(label.ravel(), minlength=4)[1:]
    after = np.bincount(on_grid.ravel(), minlength=4)[1:] * 1.5 * 1.5 * 2.4
    np.testing.assert_allclose(after, before, rtol=0.03)
