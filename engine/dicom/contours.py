"""The outline of a mask in a slice as closed polygons, which hold the centres of its pixels and no others.

A region with holes is one polygon: a channel without width joins each hole to what is around it, the "keyhole" that
PS3.3, C.8.8.6.3 has for CLOSED_PLANAR contours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

Ring = NDArray[np.float64]  # (points, 2): row, column; the last point is joined to the first


def outlines(mask: NDArray[np.bool_]) -> list[Ring]:
    """The outline of each region (pixels that share an edge) of a mask (row, column), midway between pixel centres."""
    regions, _ = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    found: list[Ring] = []
    for number, place in enumerate(ndimage.find_objects(regions), start=1):
        region = np.pad(regions[place] == number, 1)
        rings = [ring[:-1] for ring in find_contours(region, 0.5, positive_orientation="high")]
        outer = max(rings, key=lambda ring: np.ptp(ring[:, 0]))  # holes lie inside of it
        holes = [ring for ring in rings if ring is not outer]
        joined = outer
        for hole in sorted(holes, key=lambda ring: ring[:, 1].min()):
            joined = _with_channel(joined, hole)
        corner = np.array([place[0].start - 1, place[1].start - 1])
        found.append(_without_points_on_lines(joined) + corner)
    return found


def _with_channel(ring: Ring, hole: Ring) -> Ring:
    """`ring` and a hole in it, joined by a line to the left of the hole's leftmost side.

    Holes further left are in `ring` by now, so that nothing else lies on the line. Its row is a quarter of a pixel off
    a row of centres, so it meets no centre and no corner of another ring.
    """
    start = int(hole[:, 1].argmin())
    hole = np.roll(hole, -start, axis=0)
    along = hole[1] - hole[0]  # leads one half or a whole row up or down
    door = hole[0] + along * 0.25 / abs(along[0])
    row, column = door
    ends = np.roll(ring, -1, axis=0)
    crosses = np.flatnonzero((ring[:, 0] <= row) != (ends[:, 0] <= row))
    share = (row - ring[crosses, 0]) / (ends[crosses, 0] - ring[crosses, 0])
    columns = ring[crosses, 1] + share * (ends[crosses, 1] - ring[crosses, 1])
    nearest = int(np.where(columns < column, columns, -np.inf).argmax())
    gate, edge = [row, columns[nearest]], crosses[nearest] + 1
    return np.concatenate([ring[:edge], [gate, door], hole[1:], hole[:1], [door, gate], ring[edge:]])


def _without_points_on_lines(ring: Ring) -> Ring:
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    goes_on = (before * after).sum(axis=1) > 0
    return ring[(turns != 0) | ~goes_on]
