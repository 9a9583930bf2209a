"""The brain's outermost layer where it holds next to nothing: what resampling after skull-stripping leaves behind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from ...engine.scans.prepare import LEVELS

FAINT = 0.05  # of each modality's scale


def without_faint_shell(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The stored image (modality, x, y, z) with background where its outermost layer is faint in every modality.

    Only voxels that touch the background by a face go, and none of the tumour (label, (x, y, z), not 0).
    """
    brain = image.any(axis=0)
    inner = np.asarray(binary_erosion(brain), bool)
    faint = brain & ~inner & (image.max(axis=0) < FAINT * LEVELS) & (label == 0)
    return np.where(faint, np.uint8(0), image)
