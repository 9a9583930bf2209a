"""One procedural case, a pure function of (seed, case)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from .anatomy import draw_head, draw_tissue, push_aside
from .fields import SHAPE
from .signal import draw_image
from .tumour import grow, mass_effect, plan_tumour

MODALITIES = ("t1", "t1ce", "t2", "flair")
# voxel to mm in RAS+, the same field of view as BraTS's LPS files
AFFINE = np.array([[1, 0, 0, -239], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)


@dataclass(frozen=True)
class Phantom:
    """A case on the BraTS grid, voxels of 1 mm, RAS+."""

    image: NDArray[np.int16]  # (4, 240, 240, 155): t1 t1ce t2 flair, background exactly 0
    label: NDArray[np.uint8]  # (240, 240, 155): 0, 1 NCR, 2 ED, 3 ET
    affine: NDArray[np.float64]  # (4, 4)


def make_phantom(seed: int, case: int) -> Phantom:
    """Make case number `case` of the cohort `seed` (both >= 0); the same arguments give the same voxels.

    Raises InvalidInputError if nilearn, which carries the template, is not installed.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, case])))
    with threadpool_limits(1, user_api="blas"):
        head = draw_head(rng)
        plan = plan_tumour(rng, head)
        outward, effacement = mass_effect(plan, head)
        tissue = draw_tissue(rng, push_aside(head, outward), effacement)
        growth = grow(rng, plan, tissue)
        image = np.zeros((len(MODALITIES), *SHAPE), np.int16)
        image[(slice(None), *tissue.box)] = draw_image(rng, tissue, growth, plan.kind)
    label = np.zeros(SHAPE, np.uint8)
    label[tissue.box][growth.box] = growth.labels
    return Phantom(image, label, AFFINE.copy())
