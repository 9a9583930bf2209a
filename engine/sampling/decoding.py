"""From clean latents to images and labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import INT16_SCALE

DECODER_SLICES = 16  # slices a decoder call; the time per slice is flat from 1 to 16 on a CPU
SATURATED_SHARE = 0.5  # of the foreground at the largest value: no image
NOT_FINITE = "the networks returned values that are not finite"


def image_fault(image: NDArray[np.int16]) -> str | None:
    """Why an image (modality, x, y, z) is no image: blank, or saturated in some modality; None for a good one."""
    for number, modality in enumerate(image):
        foreground = modality[modality > 0]
        if foreground.size == 0 or foreground.min() == foreground.max():
            return f"modality {number} is blank"
        if (foreground == INT16_SCALE).mean() > SATURATED_SHARE:
            return f"modality {number} is saturated"
    return None
