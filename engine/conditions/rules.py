"""What condition rows may say: the range of every column, and what one cell implies for the others.

Each rule is necessary for a mask to exist, with 10 % tolerance, so what is measured on real tumours passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .columns import SHARE_COLUMNS, sphere_surface_cm2, sphere_volume_ml, view_volume_ml

MIN_VOLUME_ML = 0.1
TOLERANCE = 1.1  # measured geometry disagrees by 10 %
SHARE_TOLERANCE = 0.001
MESH_LOSS = 0.1  # the mesh of a small mask encloses less than its voxels: sphericity may be lower by this / ml^(2/3)

Rows = NDArray[np.float64]
FieldOfView = tuple[float, float, float]


@dataclass(frozen=True)
class Violation:
    """A rule that some rows break."""

    column: str  # the cell at fault, or several joined by ", "
    rows: NDArray[np.intp]
    value: Callable[[int], str]  # row -> the value that is wrong
    allowed: Callable[[int], str]  # row -> what is allowed there


@dataclass(frozen=True)
class Range:
    """The values that a column may take."""

    low: float
    high: float
    low_included: bool
    unit: str

    def outside(self, values: Rows) -> NDArray[np.bool_]:
        """True where a value (not NaN) is out of range."""
        too_low = values < self.low if self.low_included else values <= self.low
        return too_low | (values > self.high)

    def __str__(self) -> str:
        low = f"{self.low:g}" if self.low_included else f"above {self.low:g}"
        text = f"{low} to {self.high:g}" if math.isfinite(self.high) else low
        return f"{text} {self.unit}".rstrip()


def column_ranges(columns: Sequence[str], field_of_view_mm: FieldOfView) -> dict[str, Range]:
    """The range of each column, for a model with this field of view."""
    share = Range(0, 1, True, "")
    side = Range(0, 1, False, "of the field of view")
    place = Range(0, 1, True, "of the field of view")
    ranges = {
        "volume_ml": Range(MIN_VOLUME_ML, max_volume_ml(field_of_view_mm), True, "ml (a quarter of the field of view)"),
        "surface_cm2": Range(0, math.inf, False, "cm2"),
        "sphericity": Range(0, 1, False, ""),
        **dict.fromkeys("xyz", place),
        **dict.fromkeys("whd", side),
        **dict.fromkeys(SHARE_COLUMNS, share),
    }
    return {name: ranges[name] for name in columns}


def max_volume_ml(field_of_view_mm: FieldOfView) -> float:
    """The largest tumour: a quarter of the field of view."""
    return view_volume_ml(field_of_view_mm) / 4


def violations(values: Rows, columns: Sequence[str], field_of_view_mm: FieldOfView) -> list[Violation]:
    """Every broken rule of the rows (N, K), NaN where a cell is empty. A cell out of range is left out of the others.

    Shape rules: a volume fits its box; sphericity follows from volume and surface; no surface is smaller than that of
    a sphere; the centre is at least half the tumour's smallest extent (its volume over the box's cross-section) from
    the border of the field of view; shares sum to 1.
    """
    found = []
    within = np.array(values, dtype=np.float64)
    for k, (name, allowed) in enumerate(column_ranges(columns, field_of_view_mm).items()):
        outside = allowed.outside(within[:, k])
        found += _violation(name, outside, _shower(values[:, k]), lambda _, text=str(allowed): text)
        within[outside, k] = np.nan
    cells = {name: within[:, k] for k, name in enumerate(columns)}
    with np.errstate(all="ignore"):
        found += _surface_rules(cells, field_of_view_mm)
        found += _box_rule(cells, field_of_view_mm)
        found += _centre_rules(cells, field_of_view_mm)
        found += _share_rule(cells)
    return found


def acceptable(values: Rows, columns: Sequence[str], field_of_view_mm: FieldOfView) -> NDArray[np.bool_]:
    """True for each row (N, K) that breaks no rule."""
    good = np.ones(len(values), dtype=bool)
    for violation in violations(values, columns, field_of_view_mm):
        good[violation.rows] = False
    return good


def known_volume_ml(cells: dict[str, Rows]) -> Rows:
    """The volume that is given, or follows from surface and sphericity; else NaN."""
    volume, implied = cells["volume_ml"], cells["surface_cm2"] * cells["sphericity"]
    return volume if np.isnan(implied).all() else np.where(np.isnan(volume), sphere_volume_ml(implied), volume)


def box_share(cells: dict[str, Rows], but: str = "") -> Rows:
    """Product of the given box sides, 1 for those that are not given; `but` leaves one side out."""
    product = np.ones_like(cells["w"])
    for side in "whd".replace(but, ""):
        product = product * np.where(np.isnan(cells[side]), 1.0, cells[side])
    return product


def _violation(
    column: str, bad: NDArray[np.bool_], value: Callable[[int], str], allowed: Callable[[int], str]
) -> Iterator[Violation]:
    rows = np.flatnonzero(bad)
    if rows.size:
        yield Violation(column, rows, value, allowed)


def _shower(values: Rows) -> Callable[[int], str]:
    return lambda row: f"{values[row]:.12g}"


def _surface_rules(cells: dict[str, Rows], field_of_view_mm: FieldOfView) -> Iterator[Violation]:
    volume, surface, sphericity = cells["volume_ml"], cells["surface_cm2"], cells["sphericity"]
    if np.isnan(surface).all():
        return
    expected = sphere_surface_cm2(volume) / surface
    lowest = expected * np.maximum(0, 1 / TOLERANCE - MESH_LOSS / np.cbrt(volume) ** 2)
    yield from _violation(
        "sphericity",
        (sphericity > expected * TOLERANCE) | (sphericity < lowest),
        _shower(sphericity),
        lambda row: (
            f"{lowest[row]:.4g} to {min(1.0, expected[row] * TOLERANCE):.4g} follows from volume_ml "
            f"{volume[row]:g} and surface_cm2 {surface[row]:g}: pi^(1/3) (6 V)^(2/3) / A, 10 % tolerance"
        ),
    )
    smallest = sphere_surface_cm2(np.where(np.isnan(volume), MIN_VOLUME_ML, volume)) / TOLERANCE
    yield from _violation(
        "surface_cm2",
        np.isnan(sphericity) & (surface < smallest),
        _shower(surface),
        lambda row: f"at least {smallest[row]:.4g} cm2, a sphere's surface at this volume (or the smallest allowed)",
    )
    implied = sphere_volume_ml(surface * sphericity)
    low, high = MIN_VOLUME_ML / TOLERANCE, max_volume_ml(field_of_view_mm) * TOLERANCE
    yield from _violation(
        "surface_cm2",
        np.isnan(volume) & ((implied < low) | (implied > high)),
        _shower(surface),
        lambda row: (
            f"with sphericity {sphericity[row]:g} it encloses {implied[row]:.4g} ml; "
            f"{MIN_VOLUME_ML:g} to {max_volume_ml(field_of_view_mm):g} ml are allowed"
        ),
    )


def _box_rule(cells: dict[str, Rows], field_of_view_mm: FieldOfView) -> Iterator[Violation]:
    boxed = ~(np.isnan(cells["w"]) & np.isnan(cells["h"]) & np.isnan(cells["d"]))
    if not boxed.any():
        return
    volume, view = known_volume_ml(cells), view_volume_ml(field_of_view_mm)
    box = box_share(cells) * view
    given = ~np.isnan(cells["volume_ml"])
    too_large = boxed & (volume > box * TOLERANCE)
    yield from _violation(
        "volume_ml",
        too_large & given,
        _shower(volume),
        lambda row: f"at most {box[row]:.4g} ml, the volume of its box ({_sides(cells, row)} of {view:.5g} ml)",
    )
    yield from _violation(
        "surface_cm2",
        too_large & ~given,
        _shower(cells["surface_cm2"]),
        lambda row: (
            f"with the sphericity it encloses {volume[row]:.4g} ml, at most {box[row]:.4g} ml fit its box "
            f"({_sides(cells, row)} of {view:.5g} ml)"
        ),
    )
    yield from _violation(
        "w, h, d",
        np.isnan(volume) & (box * TOLERANCE < MIN_VOLUME_ML),
        lambda row: _sides(cells, row),
        lambda row: f"a box of at least {MIN_VOLUME_ML:g} ml, this one has {box[row]:.3g} ml",
    )


def _centre_rules(cells: dict[str, Rows], field_of_view_mm: FieldOfView) -> Iterator[Violation]:
    volume = known_volume_ml(cells)
    share = np.where(np.isnan(volume), MIN_VOLUME_ML, volume) / view_volume_ml(field_of_view_mm)
    for axis, side in zip("xyz", "whd", strict=True):
        centre = cells[axis]
        if np.isnan(centre).all():
            continue
        half = share / box_share(cells, but=side) / 2
        distance = np.minimum(centre, 1 - centre)
        yield from _violation(
            axis,
            (distance < half / TOLERANCE) & (half <= 0.5),
            _shower(centre),
            lambda row, half=half: (
                f"{half[row]:.4g} to {1 - half[row]:.4g}: nearer the border a tumour of that volume and box leaves the "
                "field of view"
            ),
        )


def _share_rule(cells: dict[str, Rows]) -> Iterator[Violation]:
    names = [name for name in SHARE_COLUMNS if name in cells]
    if not names:
        return
    shares = np.stack([cells[name] for name in names], axis=1)
    if np.isnan(shares).all():
        return
    total = np.nansum(shares, axis=1)
    complete = ~np.any(np.isnan(shares), axis=1)
    bad = (total > 1 + SHARE_TOLERANCE) | (complete & (total < 1 - SHARE_TOLERANCE))
    yield from _violation(
        ", ".join(names),
        bad,
        lambda row: f"sum {total[row]:g}",
        lambda row: (
            f"sum 1 within {SHARE_TOLERANCE:g}" + ("" if complete[row] else " with the empty ones, so at most 1")
        ),
    )


def _sides(cells: dict[str, Rows], row: int) -> str:
    given = [f"{side} {cells[side][row]:g}" for side in "whd" if not np.isnan(cells[side][row])]
    return ", ".join(given)
