"""The cohort's distribution against brute force: conditional draws, distances, and that the rules are kept."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sbldm.engine.conditions.basis import Basis, log_ratios, ratios_along, shares_of
from sbldm.engine.conditions.columns import BINARY_COLUMNS, COLUMNS, sphere_surface_cm2
from sbldm.engine.conditions.distribution import ATTEMPTS, CohortDistribution, fit
from sbldm.engine.conditions.rules import acceptable
from sbldm.engine.decode import decode
from sbldm.engine.errors import InvalidInputError

VIEW = (192.0, 192.0, 153.6)


def cohort_rows(cases: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    volume = np.exp(rng.normal(3.3, 0.8, cases))
    sphericity = np.clip(rng.normal(0.6, 0.08, cases) - 0.03 * (np.log(volume) - 3.3), 0.2, 0.95)
    centre = rng.uniform(0.3, 0.7, (cases, 3))
    stretch = np.exp(rng.normal(0.25, 0.12, (cases, 3)))
    sides = np.minimum(np.cbrt(6000 * volume / math.pi)[:, None] * stretch / np.array(VIEW), 1)
    shares = rng.dirichlet([2, 6, 2], cases)
    shares[: cases // 20, 2] = 0
    shares /= shares.sum(axis=1, keepdims=True)
    return np.column_stack([volume, sphere_surface_cm2(volume) / sphericity, sphericity, centre, sides, shares])


ROWS = cohort_rows(400)
COHORT = fit(ROWS, COLUMNS, VIEW)
EMPTY = np.full(12, np.nan)


def asking(**cells: float) -> np.ndarray:
    row = EMPTY.copy()
    for name, value in cells.items():
        row[COLUMNS.index(name)] = value
    return row


def drawn(row: np.ndarray, count: int, cohort: CohortDistribution = COHORT) -> np.ndarray:
    return np.array([cohort.complete_sample(row, 7, sample) for sample in range(count)])


def test_the_basis_is_invertible() -> None:
    basis = Basis(COLUMNS, VIEW)
    with_all_tissues = ROWS[ROWS[:, 9:].min(axis=1) > 0.002]
    np.testing.assert_allclose(basis.rows(basis.points(with_all_tissues)), with_all_tissues, rtol=1e-9)


def test_observations_are_what_the_rows_say() -> None:
    basis = Basis(COLUMNS, VIEW)
    points = basis.points(ROWS)
    for hidden in ([], [0], [2], [0, 1], [1, 2, 4], [6, 7], [9], [11, 0]):
        rows = ROWS.copy()
        rows[:, hidden] = np.nan
        observed, values = basis.observations(rows)
        np.testing.assert_allclose(points @ observed.T, values, atol=1e-9)


def test_an_absent_tissue_is_drawn_as_zero() -> None:
    assert shares_of(log_ratios(np.array([[0.4, 0.6, 0.0]])) - [[0, 0.5]])[0, 2] == 0


def test_the_distribution_survives_json() -> None:
    assert decode(CohortDistribution, json.loads(json.dumps(asdict(COHORT))), "cohort") == COHORT
    assert COHORT.problems() == []


def test_numbers_that_are_no_distribution_are_told() -> None:
    negative = tuple(tuple(-value for value in row) for row in COHORT.covariance)
    for broken in (
        replace(COHORT, mean=COHORT.mean[:-1]),
        replace(COHORT, covariance=COHORT.covariance[:-1]),
        replace(COHORT, covariance=(*COHORT.covariance, (1.0,))),
        replace(COHORT, covariance=negative),
        replace(COHORT, distance_limit=0.0),
    ):
        assert len(broken.problems()) == 1


def test_samples_look_like_the_cohort() -> None:
    made = COHORT.sample(400, seed=3)
    assert acceptable(made, COLUMNS, VIEW).all()
    for quantile in (0.1, 0.5, 0.9):
        ratio = np.quantile(made[:, :9], quantile, axis=0) / np.quantile(ROWS[:, :9], quantile, axis=0)
        assert ratio == pytest.approx(np.ones(9), abs=0.25)
    joint = [np.corrcoef(np.log(rows[:, 0]), np.log(rows[:, 6]))[0, 1] for rows in (made, ROWS)]
    assert joint[0] == pytest.approx(joint[1], abs=0.1)
    np.testing.assert_allclose(made[:, 9:].sum(axis=1), 1)


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    np.testing.assert_array_equal(COHORT.sample(3, 5), COHORT.sample(8, 5)[:3])
    np.testing.assert_array_equal(COHORT.complete_sample(EMPTY, 5, 2), COHORT.sample(3, 5)[2])
    assert not np.allclose(COHORT.sample(1, 5), COHORT.sample(1, 6))


def test_missing_cells_follow_the_conditional_distribution() -> None:
    """Against a regression of the basis' coordinates by brute force, for a volume, a box side and a surface."""
    row = asking(surface_cm2=110.0, w=0.3)
    basis = COHORT.basis
    mean, covariance = np.array(COHORT.mean), np.array(COHORT.covariance)
    rng = np.random.default_rng(1)
    points = rng.multivariate_normal(mean, covariance, 400_000)
    rows = basis.rows(points)
    near = (np.abs(np.log(rows[:, 1] / 110)) < 0.05) & (np.abs(np.log(rows[:, 6] / 0.3)) < 0.05)
    expected, made = rows[near], drawn(row, 500)
    assert near.sum() > 2000
    for name in ("volume_ml", "sphericity", "h"):
        k = COLUMNS.index(name)
        assert np.log(made[:, k]).mean() == pytest.approx(np.log(expected[:, k]).mean(), abs=0.05)
        assert np.log(made[:, k]).std() == pytest.approx(np.log(expected[:, k]).std(), rel=0.2)
    np.testing.assert_array_equal(made[:, [1, 6]], np.tile([110.0, 0.3], (500, 1)))
    np.testing.assert_allclose(made[:, 1] * made[:, 2], sphere_surface_cm2(made[:, 0]), rtol=1e-6)


def test_one_share_draws_how_the_rest_is_split() -> None:
    made = drawn(asking(et_share=0.3), 400)
    points = np.random.default_rng(1).multivariate_normal(COHORT.mean, COHORT.covariance, 400_000)
    shares = COHORT.basis.rows(points)[:, 9:]
    near = shares[np.abs(shares[:, 2] - 0.3) < 0.01]
    np.testing.assert_allclose(made[:, 9:].sum(axis=1), 1)
    np.testing.assert_array_equal(made[:, 11], 0.3)
    assert len(near) > 1000
    assert made[:, 9].mean() == pytest.approx(near[:, 0].mean(), abs=0.03)
    assert made[:, 9].std() == pytest.approx(near[:, 0].std(), rel=0.25)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_share_fixes_a_curve_of_ratios(position: int) -> None:
    odds = np.linspace(-3, 3, 7)
    shares = shares_of(ratios_along(0.3, position, odds))
    others = np.delete(shares, position, axis=1)
    np.testing.assert_allclose(shares[:, position], 0.3)
    np.testing.assert_allclose(np.log(others[:, 0] / others[:, 1]), odds)


def test_two_shares_give_the_third() -> None:
    made = drawn(asking(ncr_share=0.25, ed_share=0.6), 3)
    np.testing.assert_allclose(made[:, 11], 0.15)


def test_volume_follows_from_surface_and_sphericity() -> None:
    made = drawn(asking(surface_cm2=100.0, sphericity=0.6), 3)
    np.testing.assert_allclose(sphere_surface_cm2(made[:, 0]), 60)


def test_a_complete_row_is_left_alone() -> None:
    np.testing.assert_array_equal(drawn(ROWS[0], 1)[0], ROWS[0])


cell = {
    "volume_ml": st.floats(0.1, 1415),
    "surface_cm2": st.floats(1, 5000),
    "sphericity": st.floats(0.01, 1),
    **dict.fromkeys("xyz", st.floats(0, 1)),
    **dict.fromkeys("whd", st.floats(0.005, 1)),
    **dict.fromkeys(COLUMNS[9:], st.floats(0, 1)),
}


@settings(max_examples=150, deadline=None)
@given(cells=st.fixed_dictionaries({}, optional=cell), sample=st.integers(0, 2**40))
def test_whatever_is_asked_for_is_kept_and_completed_by_the_rules(cells: dict[str, float], sample: int) -> None:
    row = asking(**cells)
    assume(acceptable(row[None], COLUMNS, VIEW)[0])
    full = COHORT.complete_sample(row, 1, sample)
    assert np.isfinite(full).all()
    assert acceptable(full[None], COLUMNS, VIEW)[0]
    asked = ~np.isnan(row)
    np.testing.assert_array_equal(full[asked], row[asked])


def test_distance_of_complete_rows_is_that_of_the_points() -> None:
    distance, limit = COHORT.mahalanobis(ROWS)
    misfit = COHORT.basis.points(ROWS) - COHORT.mean
    expected = np.sqrt(np.einsum("ni,ij,nj->n", misfit, np.linalg.inv(COHORT.covariance), misfit))
    np.testing.assert_allclose(distance, expected)
    np.testing.assert_array_equal(limit, COHORT.distance_limit)
    assert (distance > limit).sum() <= 1


def test_distance_of_one_number_is_its_deviation() -> None:
    rows = np.array([asking(volume_ml=500.0), asking(volume_ml=30.0), EMPTY])
    distance, limit = COHORT.mahalanobis(rows)
    deviations = np.abs(np.log([500, 30]) - COHORT.mean[0]) / math.sqrt(COHORT.covariance[0][0])
    assert distance == pytest.approx([*deviations, 0])
    assert limit[0] < COHORT.distance_limit
    assert (distance > limit).tolist() == [True, False, False]


def test_the_limit_is_the_cohorts_own_percentile_once_there_are_enough_cases() -> None:
    rows = cohort_rows(2000, seed=4)
    cohort = fit(rows, COLUMNS, VIEW)
    assert (cohort.mahalanobis(rows)[0] > cohort.distance_limit).sum() == 2


@pytest.mark.parametrize("cases", [1, 2, 4])
def test_a_handful_of_cases_still_makes_a_distribution(cases: int) -> None:
    cohort = fit(ROWS[50 : 50 + cases], COLUMNS, VIEW)
    assert cohort.problems() == []
    assert acceptable(cohort.sample(5, 0), COLUMNS, VIEW).all()


def test_a_model_with_one_label_has_no_shares() -> None:
    cohort = fit(ROWS[:, :9], BINARY_COLUMNS, VIEW)
    assert cohort.normals_per_row == ATTEMPTS * 9
    assert acceptable(cohort.sample(5, 0), BINARY_COLUMNS, VIEW).all()
    assert cohort.mahalanobis(ROWS[:, :9])[0].shape == (400,)


@pytest.mark.parametrize("rows", [np.empty((0, 12)), np.full((3, 12), np.nan), np.zeros((2, 12))])
def test_a_cohort_without_numbers_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="at least one case"):
        fit(rows, COLUMNS, VIEW)
