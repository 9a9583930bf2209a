"""The basis in which tumour characteristics are nearly independent and normally distributed.

Coordinates: log volume; log sphericity; logit of the centre; log of each box side over the diameter of the sphere of
the same volume; for models with tissue labels log(NCR / ED) and log(ET / ED) (additive log-ratios, Aitchison 1982, with
a floor for a tissue that is absent). The surface is no coordinate: it follows from volume and sphericity. The logarithm
of every column but centre and shares is linear in these coordinates, so given cells are linear observations of a normal
vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from .columns import BINARY_COLUMNS, COLUMNS, SHARE_COLUMNS, sphere_surface_cm2
from .rules import FieldOfView

SHARE_FLOOR = 1e-3  # share that an absent tissue counts as; drawn shares below it become 0
_PLACE_FLOOR = 1e-4
_VOLUME, _SPHERICITY, _CENTRE, _SIDE, _RATIO = 0, 1, 2, 5, 8  # first coordinate of each kind
_SURFACE_OF_1_ML = float(sphere_surface_cm2(np.float64(1.0)))  # pyright: ignore[reportArgumentType]
_DIAMETER_OF_1_ML_MM = (6000 / math.pi) ** (1 / 3)

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Basis:
    """Coordinates of condition rows with these columns and this field of view."""

    columns: tuple[str, ...]
    field_of_view_mm: FieldOfView

    def __post_init__(self) -> None:
        if set(self.columns) not in (set(COLUMNS), set(BINARY_COLUMNS)):
            raise InvalidInputError(f"condition columns {self.columns}: must be {COLUMNS}, or {BINARY_COLUMNS}")

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return 10 if self.has_shares else 8

    @cached_property
    def has_shares(self) -> bool:
        """Whether the model has tissue labels."""
        return len(self.columns) == len(COLUMNS)

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each column in a row."""
        return {name: k for k, name in enumerate(self.columns)}

    @cached_property
    def shares(self) -> list[int]:
        """Positions of the shares in a row: NCR, ED, ET."""
        return [self.index[name] for name in SHARE_COLUMNS] if self.has_shares else []

    @cached_property
    def _side_of_1_ml(self) -> Vector:
        """Log of the box side of a sphere of 1 ml, as a share of the field of view: (3,)."""
        return np.log(_DIAMETER_OF_1_ML_MM / np.asarray(self.field_of_view_mm))

    def points(self, rows: Vector) -> Vector:
        """Coordinates (N, size) of complete rows (N, K)."""
        volume = np.log(rows[:, self.index["volume_ml"]])
        sides = np.log(rows[:, [self.index[name] for name in "whd"]]) - volume[:, None] / 3 - self._side_of_1_ml
        parts = [volume[:, None], np.log(rows[:, [self.index["sphericity"]]])]
        parts += [_logit(rows[:, [self.index[name] for name in "xyz"]], _PLACE_FLOOR), sides]
        if self.has_shares:
            parts.append(log_ratios(rows[:, self.shares]))
        return np.hstack(parts)

    def rows(self, points: Vector) -> Vector:
        """Complete rows (N, K) of coordinates (N, size); a share below SHARE_FLOOR becomes 0."""
        volume = np.exp(points[:, _VOLUME])
        sphericity = np.exp(points[:, _SPHERICITY])
        rows = np.empty((len(points), len(self.columns)))
        rows[:, self.index["volume_ml"]] = volume
        rows[:, self.index["sphericity"]] = sphericity
        rows[:, self.index["surface_cm2"]] = sphere_surface_cm2(volume) / sphericity
        rows[:, [self.index[name] for name in "xyz"]] = 1 / (1 + np.exp(-points[:, _CENTRE : _CENTRE + 3]))
        sides = points[:, _SIDE : _SIDE + 3] + points[:, [_VOLUME]] / 3 + self._side_of_1_ml
        rows[:, [self.index[name] for name in "whd"]] = np.exp(sides)
        if self.has_shares:
            rows[:, self.shares] = shares_of(points[:, _RATIO:])
        return rows

    def observations(self, rows: Vector) -> tuple[Vector, Vector]:
        """What rows (N, K) that give the same cells say: H (m, size) and y (N, m) with H @ point = y.

        Two given shares give the third. One share alone is no linear observation and is left out here. With volume,
        sphericity and surface all given the surface, which follows, is left out.
        """
        given = {name for name, k in self.index.items() if not np.isnan(rows[0, k])}
        matrix: list[Vector] = []
        values: list[Vector] = []

        def observe(coordinates: dict[int, float], value: Vector) -> None:
            matrix.append(np.zeros(self.size))
            matrix[-1][list(coordinates)] = list(coordinates.values())
            values.append(value)

        def cell(name: str) -> Vector:
            return rows[:, self.index[name]]

        if "volume_ml" in given:
            observe({_VOLUME: 1}, np.log(cell("volume_ml")))
        if "sphericity" in given:
            observe({_SPHERICITY: 1}, np.log(cell("sphericity")))
        if "surface_cm2" in given and not {"volume_ml", "sphericity"} <= given:
            observe({_VOLUME: 2 / 3, _SPHERICITY: -1}, np.log(cell("surface_cm2") / _SURFACE_OF_1_ML))
        for axis, name in enumerate("xyz"):
            if name in given:
                observe({_CENTRE + axis: 1}, _logit(cell(name), _PLACE_FLOOR))
        for axis, name in enumerate("whd"):
            if name in given:
                observe({_SIDE + axis: 1, _VOLUME: 1 / 3}, np.log(cell(name)) - self._side_of_1_ml[axis])
        if len(given & set(SHARE_COLUMNS)) >= 2:
            for k, ratio in enumerate(log_ratios(fill_third_share(rows[:, self.shares])).T):
                observe({_RATIO + k: 1}, ratio)
        stacked = np.stack(values, axis=1) if values else np.zeros((len(rows), 0))
        return np.array(matrix).reshape(-1, self.size), stacked


def log_ratios(shares: Vector) -> Vector:
    """log(NCR / ED) and log(ET / ED), (N, 2), of shares (N, 3) in the order NCR, ED, ET."""
    logs = np.log(np.maximum(shares, SHARE_FLOOR))
    return logs[:, [0, 2]] - logs[:, [1]]


def shares_of(ratios: Vector) -> Vector:
    """Shares (N, 3) of log-ratios (N, 2); below SHARE_FLOOR they become 0."""
    logs = np.stack([ratios[:, 0], np.zeros(len(ratios)), ratios[:, 1]], axis=1)
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[shares < SHARE_FLOOR] = 0
    return shares / shares.sum(axis=1, keepdims=True)


def fill_third_share(shares: Vector) -> Vector:
    """Shares (N, 3) whose one empty cell, if there is one, is what the others leave."""
    rest = np.maximum(0, 1 - np.nansum(shares, axis=1, keepdims=True))
    return np.where(np.isnan(shares), rest, shares)


def ratios_along(share: float, position: int, log_odds: Vector) -> Vector:
    """Log-ratios (N, 2) where one share is fixed and log_odds (N,) are those of the other two (first over second).

    In (logit share, log odds) the volume element is that of the log-ratios (the determinant of the map is 1).
    """
    share = min(max(share, SHARE_FLOOR), 1 - SHARE_FLOOR)
    others = [k for k in range(3) if k != position]
    logs = np.empty((len(log_odds), 3))
    logs[:, position] = math.log(share)
    logs[:, others[0]] = math.log1p(-share) - np.logaddexp(0, -log_odds)
    logs[:, others[1]] = math.log1p(-share) - np.logaddexp(0, log_odds)
    return logs[:, [0, 2]] - logs[:, [1]]


def _logit(values: Vector, floor: float) -> Vector:
    inside = np.clip(values, floor, 1 - floor)
    return np.log(inside / (1 - inside))
