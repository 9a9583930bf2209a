"""Integer statistics of a finished image, from which its faults follow (reference of `statistics.cu`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .assemble import INT16_SCALE

COLUMNS = ("foreground", "minimum", "maximum", "brightest")
"""What a row holds: voxels above 0, their smallest and largest value, voxels of `INT16_SCALE`.

Without any voxel above 0: 0, 32767, 0, 0.
"""

_NO_MINIMUM = 2**15 - 1


def image_statistics(image: NDArray[np.int16]) -> NDArray[np.int32]:
    """Rows (M, 4) of an image (M, X, Y, Z), as `COLUMNS` names them."""
    rows = np.empty((len(image), len(COLUMNS)), np.int32)
    for row, modality in zip(rows, image, strict=True):
        foreground = modality[modality > 0]
        row[0], row[1] = foreground.size, foreground.min(initial=_NO_MINIMUM)
        row[2], row[3] = foreground.max(initial=0), np.count_nonzero(foreground == INT16_SCALE)
    return rows
