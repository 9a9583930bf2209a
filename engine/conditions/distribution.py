"""How tumours of the training cohort are distributed: draws missing conditions and tells unusual ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, chdtri, ndtr

from ...kernels.noise import CONDITION_DRAW, standard_normal
from ..errors import InvalidInputError
from .basis import SHARE_FLOOR, Basis, fill_third_share, ratios_along
from .repair import follow_surface, repair
from .rules import FieldOfView, acceptable

PERCENTILE = 0.999
ATTEMPTS = 64  # candidates that a row with missing cells is chosen from
_LEAST_DEVIATION = 0.05  # of a coordinate, so that a cohort of equal cases still has a density
_ENOUGH_CASES = 1000  # from here on the 99.9th percentile is the cohort's own
_LOG_ODDS = np.linspace(-14, 14, 561)  # grid on which one given share splits the rest

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class CohortDistribution:
    """A multivariate normal over the coordinates of `engine/cohort_basis.py`; part of bundle.json."""

    columns: tuple[str, ...]  # condition columns of the table it was fitted from
    field_of_view_mm: tuple[float, float, float]  # what centre and box are shares of
    cases: int
    mean: tuple[float, ...]  # (B,) in the basis
    covariance: tuple[tuple[float, ...], ...]  # (B, B)
    low: tuple[float, ...]  # smallest and largest of the cohort in the basis; draws stay inside
    high: tuple[float, ...]
    distance_limit: float  # 99.9th percentile of the cohort's Mahalanobis distances

    def problems(self) -> list[str]:
        """What makes these numbers no distribution; empty if nothing does."""
        size = self.basis.size
        shapes = {"mean": self._mean.shape, "low": np.shape(self.low), "high": np.shape(self.high)}
        found = [f"cohort.{name}: {size} numbers are needed" for name, shape in shapes.items() if shape != (size,)]
        square = len(self.covariance) == size and all(len(row) == size for row in self.covariance)
        if not square or not np.isfinite(self._covariance).all():
            found.append(f"cohort.covariance: {size} rows of {size} finite numbers are needed")
        elif not np.allclose(self._covariance, self._covariance.T) or np.linalg.eigvalsh(self._covariance).min() <= 0:
            found.append("cohort.covariance: must be symmetric and positive definite")
        if not (np.isfinite(self.distance_limit) and self.distance_limit > 0):
            found.append("cohort.distance_limit: must be a positive number")
        return found

    @cached_property
    def basis(self) -> Basis:
        """The coordinates."""
        return Basis(self.columns, self.field_of_view_mm)

    @property
    def normals_per_row(self) -> int:
        """How many standard normals `complete` takes for a row."""
        return ATTEMPTS * (self.basis.size + 1)

    @cached_property
    def _mean(self) -> Vector:
        return np.array(self.mean)

    @cached_property
    def _covariance(self) -> Vector:
        return np.array(self.covariance, dtype=np.float64)

    @cached_property
    def _factor(self) -> Vector:
        return np.asarray(np.linalg.cholesky(self._covariance), dtype=np.float64)

    def complete(self, row: Vector, normals: NDArray[np.floating]) -> Vector:
        """A row (K,) with its NaN cells drawn given the others, which keep their values.

        Conditional normals by Matheron's rule: a draw of the joint distribution is moved by the regression of its
        misfit to what is given. Of ATTEMPTS such draws the first is taken that keeps the rules of the condition table
        and lies within the cohort; if what is given lets none do so, the first that keeps the rules; if none does,
        the first, repaired.

        Args:
            row: a row that breaks no rule of `condition_rules`.
            normals: standard normals (normals_per_row,).
        """
        if not np.any(np.isnan(row)):
            return row.astype(np.float64)
        table = normals.astype(np.float64).reshape(ATTEMPTS, self.basis.size + 1)
        points = self._mean + table[:, :-1] @ self._factor.T
        observed, values = self._given(row, ndtr(table[:, -1]))
        if len(observed):
            points += (values - points @ observed.T) @ self._gain(observed).T
        candidates = self._filled(row, self.basis.rows(points))
        keeps_rules = acceptable(candidates, self.columns, self.field_of_view_mm)
        if not keeps_rules.any():
            return repair(row, candidates[0], self.columns, self.field_of_view_mm)
        free = np.array([not np.any(observed[:, k]) for k in range(self.basis.size)])
        inside = ((points >= self.low) & (points <= self.high) | ~free).all(axis=1)
        near = self._distances(points) <= self.distance_limit
        return candidates[int(np.argmax(4 * keeps_rules + 2 * inside + near))]

    def complete_sample(self, row: Vector, seed: int, sample: int) -> Vector:
        """`complete` with the normals that the contract gives to a run's seed and a sample's number."""
        return self.complete(row, standard_normal(seed, sample, CONDITION_DRAW, self.normals_per_row))

    def sample(self, count: int, seed: int) -> Vector:
        """Rows (count, K) of samples 0 to count - 1, drawn from the whole distribution."""
        empty = np.full(len(self.columns), np.nan)
        rows = [self.complete_sample(empty, seed, sample) for sample in range(count)]
        return np.array(rows).reshape(count, len(self.columns))

    def mahalanobis(self, rows: Vector) -> tuple[Vector, Vector]:
        """Distance of what each row (N, K) gives from the cohort, and the limit for as many numbers: (N,), (N,).

        The limit of a row that gives all is `distance_limit`; with fewer degrees of freedom it is the distance with
        the same tail probability of the chi-squared distribution, or with 0.1 % where that is less. A row that gives
        nothing has distance 0.
        """
        distance, limit = np.zeros(len(rows)), np.full(len(rows), self.distance_limit)
        tail = max(float(chdtrc(self.basis.size, self.distance_limit**2)), 1 - PERCENTILE)
        kinds = np.isnan(rows) @ (1 << np.arange(rows.shape[1]))
        for kind in np.unique(kinds).tolist():
            members = np.flatnonzero(kinds == kind)
            observed, values = self._linear(rows[members])
            if len(observed):
                misfit = values - observed @ self._mean
                inverse = np.linalg.inv(observed @ self._covariance @ observed.T)
                distance[members] = np.sqrt(np.einsum("ni,ni->n", misfit @ inverse, misfit))
                if len(observed) < self.basis.size:
                    limit[members] = np.sqrt(chdtri(len(observed), tail))
        return distance, limit

    def _gain(self, observed: Vector) -> Vector:
        cross = self._covariance @ observed.T
        return cross @ np.linalg.inv(observed @ cross)

    def _distances(self, points: Vector) -> Vector:
        return np.linalg.norm(np.linalg.solve(self._factor, (points - self._mean).T), axis=0)

    def _given(self, row: Vector, uniforms: Vector) -> tuple[Vector, Vector]:
        """Linear observations of a row: H (m, B) and y (ATTEMPTS, m); one share alone draws how the rest is split."""
        observed, values = self.basis.observations(row[None])
        values = np.repeat(values, ATTEMPTS, axis=0)
        shares = row[self.basis.shares]
        if np.count_nonzero(~np.isnan(shares)) != 1:
            return observed, values
        mean, covariance = self._mean, self._covariance
        if len(observed):
            gain = self._gain(observed)
            mean = mean + gain @ (values[0] - observed @ mean)
            covariance = covariance - gain @ observed @ covariance
        position = int(np.flatnonzero(~np.isnan(shares))[0])
        ratios = ratios_along(shares[position], position, _LOG_ODDS)
        misfit = ratios - mean[-2:]
        density = -np.einsum("ni,ij,nj->n", misfit, np.linalg.inv(covariance[-2:, -2:]), misfit) / 2
        cumulative = np.cumsum(np.exp(density - density.max()))
        odds = np.interp(uniforms, cumulative / cumulative[-1], _LOG_ODDS)
        split = ratios_along(shares[position], position, odds)
        return np.vstack([observed, np.eye(self.basis.size)[-2:]]), np.hstack([values, split])

    def _linear(self, rows: Vector) -> tuple[Vector, Vector]:
        """Linear observations of rows that give the same cells; the logit of one share alone is linearised."""
        observed, values = self.basis.observations(rows)
        shares = rows[:, self.basis.shares]
        position = np.flatnonzero(~np.isnan(shares[0]))
        if len(position) != 1:
            return observed, values
        level, slope = _linear_logit(self._mean[-2:], int(position[0]))
        share = np.clip(shares[:, position], SHARE_FLOOR, 1 - SHARE_FLOOR)
        value = np.log(share / (1 - share)) - level + slope @ self._mean[-2:]
        return np.vstack([observed, np.concatenate([np.zeros(self.basis.size - 2), slope])]), np.hstack([values, value])

    def _filled(self, row: Vector, candidates: Vector) -> Vector:
        """Candidates (N, K) with the given cells put in and what follows from them made to follow."""
        rows = np.where(np.isnan(row), candidates, row)
        follow_surface(row, rows, self.basis.index)
        shares = row[self.basis.shares]
        given = ~np.isnan(shares)
        if given.sum() == 1:
            split = np.where(given, 0, candidates[:, self.basis.shares]) + np.where(given, 0, 1e-12)
            split *= (1 - shares[given]) / split.sum(axis=1, keepdims=True)
            rows[:, self.basis.shares] = np.where(given, shares, split)
        elif given.sum() == 2:
            rows[:, self.basis.shares] = fill_third_share(shares[None])
        return rows


def fit(rows: Vector, columns: Sequence[str], field_of_view_mm: FieldOfView) -> CohortDistribution:
    """Fit the distribution to a training cohort's measured rows (cases, K), complete.

    The covariance is shrunk towards its diagonal by the analytic intensity of Schaefer and Strimmer (2005,
    doi 10.2202/1544-6115.1175). Below 1000 cases the distance limit is at least that of the normal distribution,
    because distances to a mean that the same few cases made are too short.

    Raises:
        InvalidInputError: no cases, or a number that is missing or has no logarithm.
    """
    basis = Basis(tuple(columns), field_of_view_mm)
    with np.errstate(all="ignore"):
        points = basis.points(np.asarray(rows, dtype=np.float64).reshape(-1, len(basis.columns)))
    if not len(points) or not np.isfinite(points).all():
        raise InvalidInputError("the cohort needs at least one case, and every case all its numbers above 0")
    mean, covariance = points.mean(axis=0), _shrunk_covariance(points)
    misfit = np.linalg.solve(np.linalg.cholesky(covariance), (points - mean).T)
    limit = float(np.quantile(np.linalg.norm(misfit, axis=0), PERCENTILE))
    if len(points) < _ENOUGH_CASES:
        limit = max(limit, float(np.sqrt(chdtri(basis.size, 1 - PERCENTILE))))
    return CohortDistribution(
        basis.columns,
        field_of_view_mm,
        len(points),
        tuple(mean.tolist()),
        tuple(tuple(row) for row in covariance.tolist()),
        tuple(points.min(axis=0).tolist()),
        tuple(points.max(axis=0).tolist()),
        limit,
    )


def _shrunk_covariance(points: Vector) -> Vector:
    cases, size = points.shape
    centred = points - points.mean(axis=0)
    deviations = np.maximum(centred.std(axis=0, ddof=1 if cases > 1 else 0), _LEAST_DEVIATION)
    if cases < 3:
        return np.diag(deviations**2)
    scaled = centred / deviations
    products = np.einsum("ni,nj->nij", scaled, scaled)
    correlation = products.sum(axis=0) / (cases - 1)
    spread = ((products - products.mean(axis=0)) ** 2).sum(axis=0) * cases / (cases - 1) ** 3
    off = ~np.eye(size, dtype=bool)
    strength = (correlation[off] ** 2).sum()
    intensity = float(np.clip(spread[off].sum() / strength, 0.01, 1)) if strength > 0 else 1.0
    correlation = np.where(off, (1 - intensity) * correlation, 1.0)
    return correlation * np.outer(deviations, deviations)


def _linear_logit(ratios: Vector, position: int) -> tuple[float, Vector]:
    """Logit of one share at log-ratios (2,) and its gradient (2,)."""
    logs = np.array([ratios[0], 0.0, ratios[1]])
    others = np.delete(np.exp(logs), position)
    level = logs[position] - float(np.log(others.sum()))
    gradient = np.eye(3)[position]
    gradient[np.arange(3) != position] = -others / others.sum()
    return level, gradient[[0, 2]]
