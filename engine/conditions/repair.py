"""Make drawn conditions agree with what is given, where no draw did."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .columns import sphere_surface_cm2, sphere_volume_ml, view_volume_ml
from .rules import MIN_VOLUME_ML, FieldOfView, acceptable, box_share, max_volume_ml

_STEPS = 20


def repair(
    row: NDArray[np.float64], drawn: NDArray[np.float64], columns: tuple[str, ...], field_of_view_mm: FieldOfView
) -> NDArray[np.float64]:
    """A complete row (K,) that keeps the rules: `drawn` (K,) with the cells that `row` leaves empty moved into them.

    The volume is clipped to what the given cells leave room for, drawn box sides grow towards the field of view until
    the tumour fits, the drawn centre moves inwards. `row` must keep the rules itself.
    """
    index = {name: k for k, name in enumerate(columns)}
    empty = np.isnan(row)
    cells = {name: row[k : k + 1] for name, k in index.items()}
    fixed = drawn.copy()
    view = view_volume_ml(field_of_view_mm)
    room = [max_volume_ml(field_of_view_mm), float(box_share(cells)[0]) * view]
    for axis, side in zip("xyz", "whd", strict=True):
        if not empty[index[axis]]:
            border = min(row[index[axis]], 1 - row[index[axis]])
            room.append(2 * border * float(box_share(cells, but=side)[0]) * view)
    if not empty[index["surface_cm2"]]:
        room.append(float(sphere_volume_ml(row[index["surface_cm2"]])))
    if empty[index["volume_ml"]]:
        fixed[index["volume_ml"]] = max(MIN_VOLUME_ML, min(fixed[index["volume_ml"]], *room))
    follow_surface(row, fixed[None], index)
    sides = [index[name] for name in "whd" if empty[index[name]]]
    drawn_sides = np.clip(fixed[sides], 1e-6, 1)
    for step in range(_STEPS + 1):
        fixed[sides] = drawn_sides ** (1 - step / _STEPS)
        _centre_inside(fixed, empty, index, view)
        if acceptable(fixed[None], columns, field_of_view_mm)[0]:
            break
    return fixed


def follow_surface(row: NDArray[np.float64], rows: NDArray[np.float64], index: dict[str, int]) -> None:
    """Derive in place, in complete rows (N, K), what follows of volume, surface and sphericity for the given `row`."""
    volume, surface, sphericity = index["volume_ml"], index["surface_cm2"], index["sphericity"]
    if not np.isnan(row[surface]):
        if np.isnan(row[sphericity]):
            rows[:, sphericity] = np.minimum(1, sphere_surface_cm2(rows[:, volume]) / rows[:, surface])
    else:
        rows[:, sphericity] = np.minimum(1, rows[:, sphericity])
        rows[:, surface] = sphere_surface_cm2(rows[:, volume]) / rows[:, sphericity]


def _centre_inside(fixed: NDArray[np.float64], empty: NDArray[np.bool_], index: dict[str, int], view_ml: float) -> None:
    cells = {name: fixed[k : k + 1] for name, k in index.items()}
    for axis, side in zip("xyz", "whd", strict=True):
        if empty[index[axis]]:
            half = min(0.5, fixed[index["volume_ml"]] / view_ml / float(box_share(cells, but=side)[0]) / 2)
            fixed[index[axis]] = np.clip(fixed[index[axis]], half, 1 - half)
