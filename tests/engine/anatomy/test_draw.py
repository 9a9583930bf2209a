"""Brains that are drawn around tumours."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.anatomy.anatomies import TRAINING, load_anatomy
from sbldm.engine.anatomy.draw import CANDIDATES, Field, _blurred, _near_tissue, drawn_shares
from sbldm.kernels.noise import standard_normal
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter1d
from scipy.special import ndtri

FIELD = Field((64, 64, 32), (3.0, 3.0, 4.8))
VOXEL_ML = 3.0 * 3.0 * 4.8 / 1000


def ball(centre_mm: tuple[float, float, float], radius_mm: float, tissue: int) -> NDArray[np.uint8]:
    """A label with one tissue within a radius of a place that is counted from the middle of the field."""
    away = FIELD.voxel_positions() - np.array(centre_mm)[:, None, None, None]
    return np.where(np.sqrt((away**2).sum(axis=0)) < radius_mm, tissue, 0).astype(np.uint8)


def held(shares: NDArray[np.float32], label: NDArray[np.uint8]) -> float:
    return float((shares.sum(axis=0) > 0)[label > 0].mean())


def drawn(sample: int, label: NDArray[np.uint8]) -> NDArray[np.float32]:
    return drawn_shares(standard_normal(5, sample, 9, FIELD.numbers), label, FIELD)


@pytest.mark.parametrize("sample", range(3))
def test_shares_are_those_of_one_brain_within_the_field(sample: int) -> None:
    shares = drawn(sample, np.zeros(FIELD.shape, np.uint8))
    whole = shares.sum(axis=0)
    assert np.all((np.abs(whole - 1) < 1e-5) | (whole == 0))
    assert shares.min() >= 0
    white, grey, fluid = (float(share.sum()) * VOXEL_ML for share in shares)
    assert 1200 < white + grey + fluid < 2100
    assert 0.3 < grey / white < 2.2
    assert 0.05 < fluid / (white + grey + fluid) < 0.35
    edges = [whole.take(at, axis) for axis in range(3) for at in (0, -1)]
    assert sum(int((edge > 0).sum()) for edge in edges) < 60


def test_equal_numbers_give_equal_brains_and_others_another() -> None:
    label = ball((30.0, 10.0, 10.0), 15.0, 2)
    assert drawn(1, label).tobytes() == drawn(1, label).tobytes()
    assert drawn(1, label).tobytes() != drawn(2, label).tobytes()


@pytest.mark.parametrize("place", [(40.0, 20.0, 10.0), (-35.0, -55.0, 5.0), (20.0, 45.0, 15.0)])
def test_a_tumour_lies_in_its_brain(place: tuple[float, float, float]) -> None:
    label = ball(place, 14.0, 2)
    assert min(held(drawn(sample, label), label) for sample in range(3)) > 0.95


def test_the_core_pushes_tissue_aside_and_less_so_far_from_it() -> None:
    """Oedema of the same place and pose pushes nothing."""
    place = (30.0, 0.0, 15.0)
    lying, pushed = drawn(3, ball(place, 24.0, 2)), drawn(3, ball(place, 24.0, 3))
    distance = np.sqrt(((FIELD.voxel_positions() - np.array(place)[:, None, None, None]) ** 2).sum(axis=0))
    changed = np.abs(lying - pushed).sum(axis=0)
    brain = (lying.sum(axis=0) > 0) & (pushed.sum(axis=0) > 0)
    near, far = (changed[brain & where].mean() for where in ((distance > 24) & (distance < 40), distance > 90))
    assert near > 0.25
    assert far < 0.4 * near


def test_the_pose_that_holds_most_of_the_tumour_is_taken() -> None:
    """At the edge of brains some poses hold nothing of a tumour."""
    label = ball((0.0, 78.0, -5.0), 6.0, 2)
    assert label.any()
    best = [held(drawn(sample, label), label) for sample in range(8)]
    first = [held(drawn_shares(_only_first(sample), label, FIELD), label) for sample in range(8)]
    assert np.mean(best) > np.mean(first)


def _only_first(sample: int) -> NDArray[np.float32]:
    """Numbers whose candidates are all the first."""
    numbers = standard_normal(5, sample, 9, FIELD.numbers).copy()
    poses = numbers[: CANDIDATES * 14].reshape(CANDIDATES, 14)
    poses[:] = poses[0]
    return numbers


def test_every_training_anatomy_is_drawn_and_no_other() -> None:
    """The shape of what is drawn tells which anatomy it was: equal numbers but for the first."""
    coarse = Field((32, 32, 16), (6.0, 6.0, 9.6))
    label = np.zeros(coarse.shape, np.uint8)
    seen = set()
    for share in (1e-9, *(np.arange(len(TRAINING)) + 0.5) / len(TRAINING), 1 - 1e-9):
        numbers = standard_normal(5, 0, 9, coarse.numbers).copy()
        numbers[0] = ndtri(share)
        seen.add(drawn_shares(numbers, label, coarse).tobytes())
    assert len(seen) == len(TRAINING)
    assert load_anatomy(18) is not None


@pytest.mark.parametrize("place", [(30, 30, 30), (3, 12, 58), (0, 0, 0)])
def test_a_filter_in_a_box_is_the_filter(place: tuple[int, int, int]) -> None:
    """Byte for byte, near the edges of the volume, where the filter repeats what it sees, too."""
    mask = np.zeros((60, 64, 66), np.bool_)
    x, y, z = place
    mask[x : x + 12, y : y + 9, z : z + 8] = (
        np.random.default_rng(0).random(mask[x : x + 12, y : y + 9, z : z + 8].shape) > 0.5
    )
    expected, around = gaussian_filter(mask.astype(np.float32), 2.0), np.zeros(mask.shape, np.float32)
    found, first = _blurred(mask, 2.0)
    around[tuple(slice(at, at + n) for at, n in zip(first.ravel(), found.shape, strict=True))] = found
    assert around.tobytes() == expected.tobytes()


def test_nothing_of_a_brain_lies_where_no_tissue_is_near() -> None:
    tissues, random = load_anatomy(3), np.random.default_rng(1)
    at = random.uniform(-30, 180, (3, 60, 60, 60)).astype(np.float32)
    near = _near_tissue(tissues, at, 2)
    fine = uniform_filter1d((tissues > 0).astype(np.float32), 3, axis=2)
    seen = map_coordinates(fine, at, order=1, mode="constant") > 0
    assert not (seen & ~near).any()
    assert seen.any()
    assert near.mean() < 1.6 * seen.mean()
