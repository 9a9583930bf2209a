"""How much of a real case survives encode -> decode (-> refine)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

from ...engine.scans.prepare import to_unit
from ..data.cohort import Cohort
from . import bootstrap
from .autoencoder import Autoencoder
from .volumes import brain_of

RANGE = 2.0  # of images in [-1, 1]
HIGH_PASS_SIGMA = 1.0  # voxels in plane
BORDER = 2  # voxels of the brain's outline that the high-frequency energy leaves out
REGIONS = {"wt": (1, 2, 3), "tc": (1, 3), "et": (3,)}

Volume = NDArray[np.float32]


def psnr(real: Volume, made: Volume) -> float:
    """Peak signal-to-noise ratio in dB of values in [-1, 1], any equal shapes."""
    return float(10 * np.log10(RANGE**2 / np.mean(np.square(real - made, dtype=np.float64))))


def ssim(real: Volume, made: Volume) -> float:
    """Structural similarity (scikit-image, 3D, uniform window of 7), mean over modalities; (z, modality, x, y)."""
    window = min(7, *(n - (n + 1) % 2 for n in (real.shape[0], *real.shape[2:])))
    value = structural_similarity(real, made, data_range=RANGE, channel_axis=1, win_size=window)
    return float(np.asarray(value))


def high_frequency_energy(image: Volume, where: NDArray[np.bool_]) -> float:
    """Sum of squares of image - Gaussian(1 voxel in plane) over `where` (z, x, y); image (z, modality, x, y)."""
    detail = image - ndimage.gaussian_filter(image, (0, 0, HIGH_PASS_SIGMA, HIGH_PASS_SIGMA))
    return float(np.square(np.moveaxis(detail, 1, 0)[:, where], dtype=np.float64).sum())


def dice(real: NDArray[np.uint8], made: NDArray[np.uint8], values: tuple[int, ...]) -> float:
    """Dice coefficient of one region; NaN where neither has it."""
    first, second = np.isin(real, values), np.isin(made, values)
    together = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / together if together else float("nan")


def image_figures(real: Volume, made: Volume, brain: NDArray[np.bool_]) -> dict[str, float]:
    """PSNR of volume and brain, SSIM and high-frequency energy ratio of one reconstructed volume."""
    inside = np.asarray(ndimage.binary_erosion(brain, np.ones((1, 3, 3), bool), iterations=BORDER), bool)
    inside = inside if inside.any() else brain
    energy = high_frequency_energy(real, inside)
    return {
        "psnr": psnr(real, made),
        "psnr_brain": psnr(np.moveaxis(real, 1, 0)[:, brain], np.moveaxis(made, 1, 0)[:, brain]),
        "ssim": ssim(real, made),
        "high_frequency_ratio": high_frequency_energy(made, inside) / energy if energy > 0 else float("nan"),
    }


def reconstruction(cohort: Cohort, autoencoder: Autoencoder) -> dict[str, Any]:
    """Mean figures over the cases: `coarse`, `refined` (None without refiner), `dice`, and every case under `cases`."""
    cases: dict[str, Any] = {}
    for case in cohort.cases:
        slices, label = np.asarray(cohort.slices(case)), np.asarray(cohort.label(case))
        made = autoencoder.reconstruct(slices, label)
        real, brain = to_unit(slices), brain_of(slices)
        truth = np.minimum(label, autoencoder.classes - 1)
        regions = REGIONS if autoencoder.classes > 2 else {"wt": (1,)}
        cases[case] = {
            "coarse": image_figures(real, made.coarse, brain),
            "refined": None if made.refined is None else image_figures(real, made.refined, brain),
            "dice": {name: dice(truth, made.label, values) for name, values in regions.items()},
        }
    parts = {part: [figures[part] for figures in cases.values()] for part in ("coarse", "refined", "dice")}
    means = {part: None if found[0] is None else _mean(found) for part, found in parts.items()}
    return {**means, "cases": cases}


def _mean(found: list[dict[str, float]]) -> dict[str, bootstrap.Figure]:
    """Mean of each figure over the cases where it is defined, with its interval."""
    return {name: bootstrap.mean(np.array([figures[name] for figures in found])) for name in found[0]}
