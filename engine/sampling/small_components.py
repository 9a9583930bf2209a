"""Small components: what a model labels here and there beside the tumour, or draws beside the brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALL_SHARE = 0.05  # of all labelled voxels; a smaller piece goes
_TOUCHING = np.ones((3, 3, 3), dtype=bool)


def drop_small_components(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label (x, y, z), every 26-connected piece below `SMALL_SHARE` set to 0; the largest piece always stays."""
    components, pieces = ndimage.label(label > 0, structure=_TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    if pieces < 2:
        return label
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    small = sizes < SMALL_SHARE * sizes.sum()
    small[[0, sizes.argmax()]] = False
    return np.where(small[components], np.uint8(0), label)


def drop_outside_brain(image: NDArray[np.int16], label: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The image (modality, x, y, z), 0 outside the largest face-connected piece that is drawn or labelled (x, y, z)."""
    pieces, number = ndimage.label((image > 0).any(axis=0) | (label > 0))  # pyright: ignore[reportGeneralTypeIssues]
    if number < 2:
        return image
    brain = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return image * brain
