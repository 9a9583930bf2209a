"""The condition table in memory: reuse of rows, ids, normalisation, and the rules of its geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine.conditions.columns import (
    BINARY_COLUMNS,
    COLUMNS,
    Conditions,
    blank,
    fit_columns,
    normalise,
    request_of_sample,
    sphere_surface_cm2,
    sphere_volume_ml,
)
from sbldm.engine.conditions.rules import acceptable, violations
from sbldm.engine.output.measure import measure_tumour

VIEW = (192.0, 192.0, 153.6)


def table(*ids: str) -> Conditions:
    values = np.full((len(ids), len(COLUMNS)), np.nan)
    values[:, 0] = np.arange(len(ids)) + 1
    return Conditions(COLUMNS, ids, values, tuple(range(2, 2 + len(ids))), "cond.csv")


def ids(conditions: Conditions, count: int) -> tuple[str, ...]:
    return tuple(request_of_sample(conditions, sample)[0] for sample in range(count))


def row(**cells: float) -> np.ndarray:
    return np.array([[cells.get(name, math.nan) for name in COLUMNS]])


def broken(**cells: float) -> list[str]:
    return [violation.column for violation in violations(row(**cells), COLUMNS, VIEW)]


def test_more_samples_reuse_the_rows_in_order() -> None:
    given = table("a", "", "c")
    assert ids(given, 8) == ("a", "1", "c", "a-2", "4", "c-2", "a-3", "7")
    assert [request_of_sample(given, sample)[1][0] for sample in range(8)] == [1, 2, 3, 1, 2, 3, 1, 2]


def test_a_made_id_makes_way_for_a_given_one() -> None:
    assert ids(table("a", "a-2", "4", "", "4_"), 9) == ("a", "a-2", "4", "3", "4_", "a-2_", "a-2-2", "4-2", "8")


@settings(deadline=None)
@given(names=st.lists(st.text("a-_23", max_size=4), min_size=1, max_size=6), count=st.integers(1, 40))
def test_ids_differ(names: list[str], count: int) -> None:
    conditions = table(*(name if name not in names[:k] else "" for k, name in enumerate(names)))
    made = ids(conditions, count)
    assert len(set(made)) == count


def test_blank_conditions_ask_for_nothing() -> None:
    empty = blank(BINARY_COLUMNS, 3)
    assert np.isnan(empty.values).all()
    assert empty.values.shape == (3, 9)
    assert ids(empty, 4) == ("0", "1", "2", "3")


def test_normalisation_gives_zero_mean_and_unit_deviation_in_the_log() -> None:
    rng = np.random.default_rng(0)
    rows = np.exp(rng.normal(0, 1, (50, 2)))
    columns = fit_columns(rows, ("volume_ml", "x"))
    assert [column.log for column in columns] == [True, False]
    normal = normalise(rows, columns)
    assert normal.dtype == np.float32
    assert normal.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert normal.std(axis=0) == pytest.approx([1, 1], rel=1e-5)
    assert normal[0, 0] == pytest.approx((math.log(rows[0, 0]) - columns[0].mean) / columns[0].std, rel=1e-5)


def test_a_column_that_never_varies_is_only_centred() -> None:
    columns = fit_columns(np.full((4, 1), 0.25), ("x",))
    assert normalise(np.array([[0.25], [1.25]]), columns).tolist() == [[0], [1]]


def test_sphere_formulas() -> None:
    assert float(sphere_surface_cm2(np.float64(4 / 3 * math.pi * 8))) == pytest.approx(4 * math.pi * 4)
    assert float(sphere_volume_ml(np.float64(4 * math.pi * 4))) == pytest.approx(4 / 3 * math.pi * 8)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("value", [-0.1, -5.0, 1e9])
def test_every_column_has_a_range(name: str, value: float) -> None:
    assert (name in broken(**{name: value})) == (value < 0 or name != "surface_cm2")


@pytest.mark.parametrize(
    ("cells", "columns"),
    [
        ({"volume_ml": 0.1}, []),
        ({"volume_ml": 0.0999}, ["volume_ml"]),
        ({"volume_ml": 1415.5}, []),
        ({"volume_ml": 1415.6}, ["volume_ml"]),
        ({"sphericity": 1}, []),
        ({"sphericity": 0}, ["sphericity"]),
        ({"w": 1, "h": 1, "d": 1}, []),
        ({"w": 0.01, "h": 0.01, "d": 0.01}, ["w, h, d"]),
        ({"volume_ml": 6.2, "w": 0.1, "h": 0.1, "d": 0.1}, []),  # the box has 5.66 ml
        ({"volume_ml": 6.3, "w": 0.1, "h": 0.1, "d": 0.1}, ["volume_ml"]),
        ({"surface_cm2": 40, "sphericity": 0.9, "w": 0.1, "h": 0.1, "d": 0.1}, ["surface_cm2"]),
        ({"volume_ml": 30, "surface_cm2": 60, "sphericity": 0.778}, []),
        ({"volume_ml": 30, "surface_cm2": 60, "sphericity": 0.85}, []),
        ({"volume_ml": 30, "surface_cm2": 60, "sphericity": 0.87}, ["sphericity"]),
        ({"volume_ml": 30, "surface_cm2": 60, "sphericity": 0.66}, ["sphericity"]),
        ({"volume_ml": 30, "surface_cm2": 30}, ["surface_cm2"]),  # less than a sphere's 46.7
        ({"surface_cm2": 0.5}, ["surface_cm2"]),
        ({"surface_cm2": 5000, "sphericity": 0.9}, ["surface_cm2"]),
        ({"volume_ml": 50, "h": 0.2, "d": 0.2, "x": 0.05}, ["x"]),  # at least 0.22 wide
        ({"volume_ml": 50, "h": 0.2, "d": 0.2, "x": 0.12}, []),
        ({"ncr_share": 0.2, "ed_share": 0.5, "et_share": 0.3005}, []),
        ({"ncr_share": 0.2, "ed_share": 0.5, "et_share": 0.302}, ["ncr_share, ed_share, et_share"]),
        ({"ncr_share": 0.6, "ed_share": 0.5}, ["ncr_share, ed_share, et_share"]),
        ({"ncr_share": 0.6, "ed_share": 0.1}, []),
    ],
)
def test_rules(cells: dict[str, float], columns: list[str]) -> None:
    assert broken(**cells) == columns


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spacing=st.sampled_from([(1.0, 1.0, 1.0), (1.5, 1.5, 2.4)]))
def test_what_is_measured_on_a_compact_mask_keeps_the_rules(seed: int, spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    shape = (24, 20, 16)
    grids = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    label = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(1, 4)):
        centre, radii = rng.uniform(0, shape), rng.uniform(2.5, 9, 3)
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grids, centre, radii, strict=True)) <= 1
        label[inside] = rng.integers(1, 4)
    measured = measure_tumour(label, spacing)
    view = tuple(n * s for n, s in zip(shape, spacing, strict=True))
    allowed = 0.1 <= measured.volume_ml <= math.prod(view) / 4000
    assert acceptable(measured.vector(COLUMNS)[None], COLUMNS, view)[0] == allowed
