"""Requests unlike the training cohort are told by cell and by distance."""

from __future__ import annotations

import numpy as np
import pytest
from sbldm.engine.conditions.columns import BINARY_COLUMNS, COLUMNS, Conditions
from sbldm.engine.conditions.distribution import fit
from sbldm.engine.conditions.unusual import MAX_WARNINGS, UnusualRows, column_ranges

from tests.engine.conditions.test_distribution import COHORT, ROWS, VIEW, asking

OWN = [COLUMNS.index(name) for name in ("volume_ml", "sphericity", "x", "y", "z")]
FITTED = [COLUMNS.index(name) for name in ("surface_cm2", "w", "h", "d")]


def asked(*rows: np.ndarray) -> Conditions:
    return Conditions(COLUMNS, ("",) * len(rows), np.array(rows), tuple(range(2, len(rows) + 2)), "cond.csv")


def unusual_rows(conditions: Conditions) -> list[str]:
    watch = UnusualRows(COHORT)
    watch.add(conditions, watch.measure(conditions))
    return watch.messages(conditions.source)


def test_ranges_are_the_cohorts_own_or_those_of_its_fit() -> None:
    ranges = column_ranges(COHORT)
    assert ranges[OWN, 0] == pytest.approx(ROWS[:, OWN].min(axis=0))
    assert ranges[OWN, 1] == pytest.approx(ROWS[:, OWN].max(axis=0))
    outside = (ROWS[:, FITTED] < ranges[FITTED, 0]) | (ROWS[:, FITTED] > ranges[FITTED, 1])
    assert outside.mean() < 0.01
    drawn = COHORT.sample(2000, 3)[:, FITTED]  # 0.1 % of each lie beyond either end
    assert ranges[FITTED, 0] == pytest.approx(np.quantile(drawn, 0.001, axis=0), rel=0.25)
    assert ranges[FITTED, 1] == pytest.approx(np.quantile(drawn, 0.999, axis=0), rel=0.25)
    shares = ROWS[:, 9:]
    assert (shares >= ranges[9:, 0]).all()
    assert (shares <= ranges[9:, 1]).all()


def test_a_model_without_tissues_has_ranges_of_its_columns() -> None:
    cohort = fit(ROWS[:, :9], BINARY_COLUMNS, VIEW)
    assert column_ranges(cohort) == pytest.approx(column_ranges(COHORT)[:9], rel=0.05)


def test_a_row_far_from_the_cohort_is_named() -> None:
    values = np.array([asking(volume_ml=30.0), asking(volume_ml=900.0, w=0.9)] + [asking(x=0.001)] * 30)
    conditions = Conditions(COLUMNS, ("a", "b", *[""] * 30), values, tuple(range(2, 34)), "cond.csv")
    messages = unusual_rows(conditions)
    assert len(messages) == MAX_WARNINGS + 1
    assert messages[0].startswith("cond.csv:3: id b is far from the 400 training cases: Mahalanobis distance")
    largest = ROWS[:, 0].max()
    assert f"; volume_ml is 900, theirs {ROWS[:, 0].min():.3g} to {largest:.3g}; " in messages[0]
    assert messages[-1] == "cond.csv: 31 rows far from the training cases in all"


def test_a_cell_beyond_the_cohort_is_told_though_its_distance_is_usual() -> None:
    """The cohort's centres end at 0.3 and 0.7: 0.74 is one deviation more than its farthest, and near by distance."""
    usual, beyond = asking(x=0.69, volume_ml=30.0), asking(x=0.74, volume_ml=30.0)
    distance, limit = COHORT.mahalanobis(np.array([usual, beyond]))
    assert (distance < limit).all()
    (message,) = unusual_rows(asked(usual, beyond))
    assert message == (
        "cond.csv:3: outside of the 400 training cases: x is 0.74, theirs 0.302 to 0.697; the model may not follow it"
    )


def test_a_cohort_measured_and_asked_for_again_is_within_itself() -> None:
    rounded = np.array([[float(f"{value:.6g}") for value in row[:6]] for row in ROWS])
    rows = np.hstack([rounded, np.full((len(ROWS), 6), np.nan)])
    rows[:, 1] = np.nan
    told = unusual_rows(asked(*rows))
    assert not [message for message in told if "theirs" in message]


def test_empty_cells_are_not_outside() -> None:
    assert unusual_rows(asked(np.full(12, np.nan))) == []
