"""How a brain is deformed: a smooth flow, wider or narrower ventricles, a tumour that pushes tissue aside.

Displacements are (3, X, Y, Z) in mm at the nodes of a grid: from a place in the deformed brain to the one it came from.
Drafts and phantoms interpolate between nodes each in their own way (`Displaced`); the rest is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .splines import FloatArray

WARP = ((44.0, 2.6), (18.0, 1.2))
"""(spacing mm, deviation mm) of the velocity: structures of 30 and 12 mm."""

Displaced = Callable[[FloatArray, FloatArray], FloatArray]
"""A field (3, X, Y, Z) at the nodes and millimetres of the same shape -> the field at the nodes that far away."""

_SQUARINGS = 3
_REACH = 1.6  # radii of the core beyond its edge over which a push falls to 1/e


def flow(velocity: FloatArray, displaced: Displaced) -> FloatArray:
    """Displacement of the flow of a stationary velocity (3, X, Y, Z) in mm, by scaling and squaring.

    Source: Arsigny et al., "A Log-Euclidean Framework for Statistics on Diffeomorphisms", MICCAI 2006.
    """
    found = velocity / np.float32(2**_SQUARINGS)
    for _ in range(_SQUARINGS):
        found = followed(found, found, displaced)
    return found


def followed(first: FloatArray, by: FloatArray, displaced: Displaced) -> FloatArray:
    """The displacement that is `by`, then `first`."""
    return displaced(first, by) + by


def against_slope(values: NDArray[Any], millimetres: float) -> FloatArray:
    """Displacement that moves what `values` (X, Y, Z) hold outward, by `millimetres` where they are steepest."""
    slope = np.stack([np.gradient(values, axis=axis) for axis in range(3)]).astype(np.float32, copy=False)
    return slope * np.float32(millimetres / max(float(np.sqrt(np.square(slope).sum(axis=0)).max()), 1e-6))


def pushed_outward(positions: FloatArray, centre: NDArray[np.float32], radius: float, push: float) -> FloatArray:
    """How far a tumour's core moves tissue outward: most at its edge, falling off exponentially beyond it.

    Args:
        positions: (3, X, Y, Z) of the nodes, mm.
        centre: (3,) of the core, mm.
        radius: of the core, mm.
        push: displacement at its edge over `radius`.
    """
    away = positions - centre[:, None, None, None]
    distance = np.sqrt(np.square(away).sum(axis=0)) + np.float32(1e-3)
    ratio = distance / np.float32(radius)
    return away / distance * (push * radius * np.where(ratio < 1, ratio, np.exp((1 - ratio) / _REACH)))
