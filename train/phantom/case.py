"""One procedural case, a pure function of (seed, case)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ...engine.anatomy.anatomies import TRAINING
from .contrast import draw_contrast, paint_healthy, paint_tumour
from .fields import SHAPE
from .head import Voxels, draw_head, draw_voxels, push_aside
from .scanner import acquire, draw_edge, draw_protocol
from .tumour import grow, mass_effect, plan_tumour

VERSION = 2  # raise it when equal arguments give other voxels
_LEAST_SIGNAL = 0.04  # of the edge's fading: what is darker is no part of a tumour
MODALITIES = ("t1", "t1ce", "t2", "flair")
# voxel to mm in RAS+, the same field of view as BraTS's LPS files
AFFINE = np.array([[1, 0, 0, -239], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)


@dataclass(frozen=True)
class Phantom:
    """A case on the BraTS grid, voxels of 1 mm, RAS+."""

    image: NDArray[np.int16]  # (4, 240, 240, 155): t1 t1ce t2 flair, background exactly 0
    label: NDArray[np.uint8]  # (240, 240, 155): 0, 1 NCR, 2 ED, 3 ET
    affine: NDArray[np.float64]  # (4, 4)
    anatomy: int  # which of `anatomies.load_anatomy` it was made of


@dataclass(frozen=True)
class Reference:
    """What a phantom would be on a scanner without noise, and its healthy tissue."""

    image: NDArray[np.int16]  # as that of the phantom
    white: NDArray[np.float32]  # (240, 240, 155): share of white matter
    fluid: NDArray[np.float32]  # the same of fluid and choroid plexus
    affine: NDArray[np.float64]  # (4, 4)


def make_phantom(seed: int, case: int, anatomies: Sequence[int] = TRAINING) -> Phantom:
    """Make case number `case` of the cohort `seed` (both >= 0) on one of `anatomies`; equal arguments, equal voxels."""
    return _made(seed, case, anatomies, noisy=True)[0]


def make_reference(seed: int, case: int, anatomies: Sequence[int] = TRAINING) -> Reference:
    """What the phantom of these arguments is without noise: every other draw is the same."""
    phantom, voxels = _made(seed, case, anatomies, noisy=False)
    shares = np.zeros((2, *SHAPE), np.float32)
    fluid = voxels.csf + voxels.ventricle + voxels.choroid
    shares[(slice(None), *voxels.box)] = [voxels.volume(voxels.white), voxels.volume(fluid)]
    return Reference(phantom.image, shares[0], shares[1], phantom.affine)


def _made(seed: int, case: int, anatomies: Sequence[int], *, noisy: bool) -> tuple[Phantom, Voxels]:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, case])))
    anatomy = int(anatomies[int(rng.integers(len(anatomies)))])
    with threadpool_limits(1, user_api="blas"):
        protocol = draw_protocol(rng)
        protocol = protocol if noisy else replace(protocol, noise=(0.0,) * len(MODALITIES))
        contrast = draw_contrast(rng, protocol.thick)
        head = draw_head(rng, anatomy)
        plan = plan_tumour(rng, head)
        voxels = draw_voxels(rng, push_aside(head, mass_effect(plan, head)), contrast.means)
        growth = grow(rng, plan, voxels)
        painted = paint_healthy(rng, contrast, voxels)
        paint_tumour(rng, painted, growth, contrast, voxels)
        image = np.zeros((len(MODALITIES), *SHAPE), np.int16)
        edge = draw_edge(rng, voxels.brain)
        image[(slice(None), *voxels.box)] = acquire(rng, protocol, painted, edge, voxels.box)
    label = np.zeros(SHAPE, np.uint8)
    label[voxels.box][growth.box] = np.where(edge[growth.box] > _LEAST_SIGNAL, growth.labels, np.uint8(0))
    return Phantom(image, label, AFFINE.copy(), anatomy), voxels
