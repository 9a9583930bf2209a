"""A label solved from distance maps has the numbers that were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sbldm.engine import mask_solver
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.mask_solver import _STRIDE, ROUNDS, _level, cut, noise_size, solve_mask, wanted_voxels
from sbldm.engine.output.measure import measure_tumour
from scipy import ndimage

SHAPE, SPACING = (64, 64, 32), (3.0, 3.0, 4.8)
COARSE = (32, 32, 32)  # z, x, y


def ball(centre: tuple[float, float, float], radius_mm: float) -> NDArray[np.float32]:
    """Signed distances (z, x, y) of a ball; the centre in shares of the field of view along x, y, z."""
    z, x, y = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in COARSE], indexing="ij")
    parts = zip((x, y, z), centre, (192.0, 192.0, 153.6), strict=True)
    return np.clip(np.sqrt(sum(((a - c) * f) ** 2 for a, c, f in parts)) - radius_mm, -20, 20).astype(np.float32)


def row(volume_ml: float, place: tuple[float, float, float], shares: tuple[float, float, float]) -> NDArray[np.float64]:
    """Conditions of a ball of that volume."""
    diameter = 2 * (3 * volume_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    surface = np.pi * diameter**2 / 100
    return np.array([volume_ml, surface, 1.0, *place, diameter / 192, diameter / 192, diameter / 153.6, *shares])


def noise(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(noise_size(SHAPE)).astype(np.float32)


@settings(max_examples=12, deadline=None)
@given(
    volume=st.floats(5.0, 200.0),
    ncr=st.floats(0.0, 0.6),
    rest=st.floats(0.05, 1.0),
    place=st.tuples(*[st.floats(0.4, 0.6)] * 3),
)
def test_volume_and_shares_hold_to_the_voxel(
    volume: float, ncr: float, rest: float, place: tuple[float, float, float]
) -> None:
    et = (1 - ncr) * rest
    wanted = row(volume, place, (ncr, 1 - ncr - et, et))
    maps = np.stack([ball((0.5, 0.5, 0.5), radius) for radius in (22.0, 16.0, 8.0)])
    found = solve_mask(maps, wanted, SHAPE, SPACING, noise()).measured
    voxel = np.prod(SPACING) / 1000
    assert abs(found.volume_ml - volume) <= 0.51 * voxel
    count = found.volume_ml / voxel
    for name, share in (("ncr_share", ncr), ("et_share", et), ("ed_share", 1 - ncr - et)):
        assert abs(getattr(found, name) - share) * count <= 1.01, name


def test_place_and_box_are_met_although_the_maps_lie_elsewhere() -> None:
    wanted = row(60.0, (0.55, 0.42, 0.5), (0.2, 0.5, 0.3))
    wanted[COLUMNS.index("w")] *= 1.25
    wanted[COLUMNS.index("d")] *= 0.85
    maps = np.stack([ball((0.5, 0.47, 0.53), radius) for radius in (26.0, 18.0, 9.0)])
    found = solve_mask(maps, wanted, SHAPE, SPACING, noise()).measured
    for name in ("x", "y", "z"):
        assert getattr(found, name) == pytest.approx(wanted[COLUMNS.index(name)], abs=0.01)
    for name, side in (("w", SHAPE[0]), ("h", SHAPE[1]), ("d", SHAPE[2])):
        assert getattr(found, name) == pytest.approx(wanted[COLUMNS.index(name)], abs=2.01 / side)


def test_a_long_flat_box_is_met_though_the_maps_show_a_ball() -> None:
    wanted = row(40.0, (0.5, 0.5, 0.5), (0.2, 0.5, 0.3))
    wanted[[COLUMNS.index(name) for name in "whd"]] *= (2.0, 1.0, 0.6)
    wanted[COLUMNS.index("surface_cm2")] *= 1.3
    maps = np.stack([ball((0.5, 0.5, 0.5), radius) for radius in (22.0, 16.0, 8.0)])
    found = solve_mask(maps, wanted, SHAPE, SPACING, noise()).measured
    for name, side in zip("whd", SHAPE, strict=True):
        assert getattr(found, name) == pytest.approx(wanted[COLUMNS.index(name)], abs=2.01 / side)


def test_no_other_round_is_tried_once_all_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.stack([ball((0.5, 0.5, 0.5), radius) for radius in (26.0, 18.0, 9.0)])
    wanted = solve_mask(maps, row(70.0, (0.5, 0.5, 0.5), (0.2, 0.5, 0.3)), SHAPE, SPACING, None).measured
    rounds = list[int]()
    monkeypatch.setattr(mask_solver, "cut", lambda *given: (rounds.append(1), cut(*given))[1])
    solve_mask(maps, wanted.vector(COLUMNS), SHAPE, SPACING, None)
    assert len(rounds) < ROUNDS


def test_a_larger_surface_is_made_by_roughness() -> None:
    maps = np.stack([ball((0.5, 0.5, 0.5), radius) for radius in (28.0, 18.0, 9.0)])
    smooth = row(90.0, (0.5, 0.5, 0.5), (0.2, 0.4, 0.4))
    base = solve_mask(maps, smooth, SHAPE, SPACING, noise())
    rough = smooth.copy()
    rough[COLUMNS.index("surface_cm2")] = 1.35 * base.measured.surface_cm2
    rough[[COLUMNS.index(name) for name in "whd"]] *= 1.15
    found = solve_mask(maps, rough, SHAPE, SPACING, noise())
    assert found.roughness_mm > base.roughness_mm
    assert found.measured.surface_cm2 == pytest.approx(rough[COLUMNS.index("surface_cm2")], rel=0.06)


def test_the_core_of_a_rough_tumour_is_smooth_and_its_rim_in_one_piece() -> None:
    shape, spacing = (128, 128, 64), (1.5, 1.5, 2.4)
    maps = np.stack([ball((0.5, 0.5, 0.5), radius) for radius in (28.0, 22.0, 19.0)])
    wanted = row(90.0, (0.5, 0.5, 0.5), (0.35, 0.5, 0.15))
    wanted[[COLUMNS.index(name) for name in "whd"]] *= 1.15
    wanted[COLUMNS.index("surface_cm2")] *= 1.6
    normals = np.random.default_rng(0).standard_normal(noise_size(shape)).astype(np.float32)
    smooth, rough = (solve_mask(maps, wanted, shape, spacing, drawn) for drawn in (None, normals))
    assert rough.measured.surface_cm2 > 1.4 * smooth.measured.surface_cm2
    cores = [measure_tumour(np.isin(one.label, (1, 3)).astype(np.uint8), spacing) for one in (rough, smooth)]
    assert cores[0].surface_cm2 < 1.1 * cores[1].surface_cm2
    _, pieces = ndimage.label(rough.label == 3)  # pyright: ignore[reportGeneralTypeIssues]
    assert pieces == 1


def test_the_label_is_a_function_of_its_arguments() -> None:
    maps = np.stack([ball((0.5, 0.5, 0.5), radius) for radius in (28.0, 18.0, 9.0)])
    wanted = row(90.0, (0.5, 0.5, 0.5), (0.2, 0.4, 0.4))
    wanted[COLUMNS.index("surface_cm2")] *= 1.5
    first, again, other = (solve_mask(maps, wanted, SHAPE, SPACING, noise(seed)).label for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_small_pieces_are_given_up_and_their_voxels_found_elsewhere() -> None:
    field = np.full((20, 20, 20), 10.0, np.float32)
    field[4:12, 4:12, 4:12] = -np.arange(512, dtype=np.float32).reshape(8, 8, 8) / 512 - 1
    field[17, 17, 17] = -5.0  # the lowest of all, alone
    label = cut(np.stack([field] * 3), (400, 100, 10))
    assert label[17, 17, 17] == 0
    assert [int((label == k).sum()) for k in (1, 2, 3)] == [10, 300, 90]


def test_tissues_without_voxels_are_left_out() -> None:
    assert wanted_voxels({"volume_ml": 10.0, "ncr_share": 0.0, "et_share": 0.0}, (1.0, 1.0, 1.0), 10**6) == (
        10000,
        0,
        0,
    )
    maps = np.stack([ball((0.5, 0.5, 0.5), radius) for radius in (22.0, 16.0, 8.0)])
    label = solve_mask(maps, row(40.0, (0.5, 0.5, 0.5), (0.0, 1.0, 0.0)), SHAPE, SPACING, noise()).label
    assert set(np.unique(label)) == {0, 2}


def test_of_equal_distances_as_many_as_are_wanted_are_taken() -> None:
    label = cut(np.zeros((3, 8, 8, 8), np.float32), (100, 50, 20))
    assert np.bincount(label.ravel()).tolist() == [8**3 - 100, 20, 50, 30]


@pytest.mark.parametrize("size", [1, 5, 400, 30_000])
def test_the_level_of_a_count_is_that_of_all_values(size: int) -> None:
    """Of equal ones too, and where the values that are looked at first are no sample of the others."""
    random = np.random.default_rng(size)
    for values in (random.standard_normal(size), random.integers(0, 5, size), np.arange(size) % _STRIDE):
        ordered = np.sort(values.astype(np.float32))
        for count in {1, size // 3 + 1, size - 1 or 1, size}:
            assert _level(values.astype(np.float32), count) == ordered[count - 1]


def test_small_pieces_are_given_up_for_the_lowest_voxels_elsewhere() -> None:
    """As in the whole field, whatever box the pieces lie in."""
    field = np.random.default_rng(0).standard_normal((20, 22, 18)).astype(np.float32)
    field = ndimage.gaussian_filter(field, 1.2).astype(np.float32)
    for count in (300, 900, 2500):
        allowed = np.ones(field.shape, bool)
        for _ in range(4):
            chosen = np.zeros(field.size, bool)
            order = np.argsort(np.where(allowed, field, np.inf), axis=None, kind="stable")
            chosen[order[:count]] = True
            chosen = chosen.reshape(field.shape)
            pieces, _ = ndimage.label(chosen, structure=np.ones((3, 3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
            sizes = np.bincount(np.asarray(pieces).ravel())
            small = sizes < 0.02 * count
            small[0] = False
            if not small.any():
                break
            allowed &= ~small[np.asarray(pieces)]
        made = cut(np.stack([field] * 3), (count, 0, 0))
        assert not small.any()
        np.testing.assert_array_equal(made > 0, chosen)
