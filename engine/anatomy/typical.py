"""Where a brain lies in a scan of which nothing but its grid is known."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .anatomies import TRAINING, Tissue
from .draw import Field
from .pose import POSE_NUMBERS, Pose


@lru_cache(maxsize=2)
def typical_brain(field: Field, margin_mm: float = 0.0) -> NDArray[np.bool_]:
    """(x, y, z) of a brain in its mean pose about the middle of the field, ventricles included; read-only.

    `margin_mm` widens it.
    """
    fov_mm = np.array(field.shape) * np.array(field.spacing_mm)
    pose = Pose.of(np.zeros(POSE_NUMBERS, np.float32), TRAINING, fov_mm)
    inside = (pose.tissues() != Tissue.OUTSIDE).astype(np.float32)
    brain = ndimage.map_coordinates(inside, pose.voxels(field.voxel_positions()), order=1) > 0.5
    if margin_mm:
        brain = np.asarray(ndimage.distance_transform_edt(~brain, field.spacing_mm)) <= margin_mm
    brain.flags.writeable = False
    return brain
