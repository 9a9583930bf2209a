"""Copies of training cases, made on purpose: what an audit for copies has to find before its "none" means anything.

Nothing here imports PyTorch: worker processes make the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

DIM = 0.5
NOISE = 15  # of 255, deviation
SHIFT = 5  # voxels, along a random axis
ANGLE_DEG = 10.0  # about a random axis
BLUR_PIXELS = 1.5  # in plane; the same length along z

Image = NDArray[np.uint8]  # (modality, x, y, z), background 0


class Planter:
    """Copies of one case, as another case ("host") would hide them."""

    def __init__(self, case: Image, host: Image, spacing_mm: Sequence[float], rng: np.random.Generator) -> None:
        self._case, self._host, self._spacing, self._rng = case, host, np.array(spacing_mm), rng

    def exact(self) -> Image:
        """The case itself."""
        return self._case

    def flipped(self) -> Image:
        """Left and right exchanged."""
        return self._case[:, ::-1]

    def dimmed(self) -> Image:
        """All values times `DIM`."""
        return np.rint(self._case * DIM).astype(np.uint8)

    def inverted(self) -> Image:
        """Bright where it was dark, inside of the brain."""
        return np.where(self._case > 0, 256 - self._case.astype(np.int16), 0).clip(0, 255).astype(np.uint8)

    def noisy(self) -> Image:
        """Gaussian noise inside of the brain."""
        noise = self._rng.normal(0, NOISE, self._case.shape)
        return np.where(self._case > 0, (self._case + noise).clip(1, 255), 0).astype(np.uint8)

    def blurred(self) -> Image:
        """Gaussian blur, background kept."""
        sigma = (0.0, *(BLUR_PIXELS * self._spacing[0] / self._spacing))
        soft = ndimage.gaussian_filter(self._case.astype(np.float32), sigma)
        return np.where(self._case > 0, soft.clip(1, 255), 0).astype(np.uint8)

    def shifted(self) -> Image:
        """Moved by `SHIFT` voxels along a random axis; what leaves the field is lost."""
        shift = [0, 0, 0, 0]
        shift[1 + int(self._rng.integers(3))] = int(self._rng.choice((-SHIFT, SHIFT)))
        return np.asarray(ndimage.shift(self._case, shift, order=0), np.uint8)

    def rotated(self) -> Image:
        """Turned by `ANGLE_DEG` about a random axis through the field's centre."""
        axis = self._rng.normal(size=3)
        turn = Rotation.from_rotvec(np.radians(ANGLE_DEG) * axis / np.linalg.norm(axis)).as_matrix()
        matrix = turn * self._spacing / self._spacing[:, None]
        middle = (np.array(self._case.shape[1:]) - 1) / 2
        moved = [ndimage.affine_transform(one, matrix, middle - matrix @ middle, order=1) for one in self._case]
        return np.stack(moved).astype(np.uint8)

    def one_modality(self) -> Image:
        """One modality of the case, the others of the host."""
        modality = int(self._rng.integers(len(self._case)))
        made = self._host.copy()
        made[modality] = self._case[modality]
        return made

    def half_a_brain(self) -> Image:
        """The left or the right half of the case, the other one of the host."""
        middle = self._case.shape[1] // 2
        half = slice(None, middle) if self._rng.random() < 0.5 else slice(middle, None)
        made = self._host.copy()
        made[:, half] = self._case[:, half]
        return made


KINDS: dict[str, Callable[[Planter], Image]] = {
    "exact": Planter.exact,
    "flipped": Planter.flipped,
    f"dimmed to {DIM}": Planter.dimmed,
    "inverted": Planter.inverted,
    "noisy": Planter.noisy,
    "blurred": Planter.blurred,
    f"shifted {SHIFT} voxels": Planter.shifted,
    f"rotated {ANGLE_DEG:g} degrees": Planter.rotated,
    "one modality": Planter.one_modality,
    "half a brain": Planter.half_a_brain,
}
