"""The draft of an image: what each tissue looks like on average, painted where it is.

Encoded like an image it tells the denoiser where cortex, white matter, fluid and the tumour lie; how a scan of them
looks is the denoiser's to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..blocks import bounding_box

FloatArray = NDArray[np.float32]

HEALTHY = ("white", "grey", "fluid")
"""The healthy tissues of a draft, in the order of shares; the tumour's follow them."""

STEPS = 255  # of the 0..1 range of a stored image


class Levels(NamedTuple):
    """Sums that mean signals of tissues are made of."""

    total: NDArray[np.float64]  # (tissue, modality) of signal
    weight: NDArray[np.float64]  # (tissue,) of voxels

    def means(self) -> NDArray[np.float64]:
        """(tissue, modality) 0..1; what was never seen has the signal of grey matter."""
        grey = self.total[1] / max(self.weight[1], 1e-9)
        return np.where(self.weight[:, None] > 0, self.total / np.maximum(self.weight, 1e-9)[:, None], grey)


def levels_of(image: FloatArray, shares: FloatArray, label: NDArray[np.uint8], tissues: int) -> Levels:
    """What the tissues of one case look like.

    Args:
        image: (modality, x, y, z) 0..1.
        shares: (3, x, y, z) of `HEALTHY`.
        label: (x, y, z), 1 to `tissues` in the tumour.
        tissues: how many the tumour has.
    """
    seen = _all_shares(shares, label, tissues).reshape(len(HEALTHY) + tissues, -1).astype(np.float64)
    return Levels(seen @ image.reshape(len(image), -1).T.astype(np.float64), seen.sum(axis=1))


def painted(shares: FloatArray, label: NDArray[np.uint8], levels: Sequence[Sequence[float]]) -> FloatArray:
    """A draft (z, modality, x, y) in -1..1, in the steps of a stored image.

    Args:
        shares: (3, x, y, z) of `HEALTHY`, 0 outside the brain.
        label: (x, y, z), above 0 in the tumour.
        levels: (tissue, modality) 0..1, `HEALTHY` first.
    """
    table = np.asarray(levels, np.float32)
    x, y, z = bounding_box(shares.any(axis=0) | (label > 0))
    image = np.einsum("sxyz,sm->mxyz", shares[:, x, y, z], table[: len(HEALTHY)])
    for number, signals in enumerate(table[len(HEALTHY) :], start=1):
        image[:, label[x, y, z] == number] = signals[:, None]
    np.clip(image, 0, 1, out=image)
    image *= np.float32(STEPS)
    np.rint(image, out=image)
    image *= np.float32(2 / STEPS)
    image -= np.float32(1)
    draft = np.full((label.shape[2], table.shape[1], *label.shape[:2]), -1, np.float32)
    draft[z, :, x, y] = np.moveaxis(image, -1, 0)
    return draft


def _all_shares(shares: FloatArray, label: NDArray[np.uint8], tissues: int) -> FloatArray:
    """(3 + tissues, x, y, z): healthy tissue outside the tumour, its tissues inside."""
    inside = [(label == number).astype(np.float32) for number in range(1, tissues + 1)]
    return np.stack([*(shares * (label == 0)), *inside])
