"""Distributions of real gliomas and of real scans, fitted once; numbers of populations, nothing of a single patient.

Shape and place: 484 expert masks of the Medical Segmentation Decathlon's brain task (CC BY-SA 4.0), measured by
`engine.output.measure` on the default grid. Signal: 18 scans of BraTS 2021 and 2023, each tissue relative to white
matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

_PROBABILITIES = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)
_VOLUME_ML = (7.2, 14.2, 20.7, 30.3, 57.3, 93.7, 146.8, 182.4, 230.6, 310.0)
_CORE_SHARE = (0.007, 0.046, 0.084, 0.129, 0.216, 0.342, 0.496, 0.630, 0.772, 0.851)
_ENHANCING_OF_CORE = (0.0, 0.0, 0.008, 0.066, 0.387, 0.573, 0.746, 0.854, 0.956, 0.984)
# of the normal scores of volume, core share, enhancing share of the core, sphericity
_CORRELATION = (
    (1.0, 0.11, -0.02, -0.02),
    (0.11, 1.0, -0.01, 0.46),
    (-0.02, -0.01, 1.0, -0.01),
    (-0.02, 0.46, -0.01, 1.0),
)
_SMALL_SHARE, _SMALL_ML = 0.06, (1.0, 14.0)  # treated or early tumours, which the masks lack

# Centre of mass: mixture of normals over |x - 1/2|, y, z in shares of the field of view
_PLACE_WEIGHTS = (0.389, 0.290, 0.321)
_PLACE_MEANS = ((0.186, 0.453, 0.417), (0.116, 0.578, 0.595), (0.141, 0.309, 0.554))
_PLACE_COVARIANCES = (
    ((0.00112, 0.00013, -0.00048), (0.00013, 0.00381, -0.00078), (-0.00048, -0.00078, 0.00274)),
    ((0.00162, -0.00157, -0.00009), (-0.00157, 0.00542, -0.00159), (-0.00009, -0.00159, 0.00558)),
    ((0.00225, -0.00015, -0.00101), (-0.00015, 0.00408, 0.00197), (-0.00101, 0.00197, 0.00735)),
)

# Columns: t1, t1ce, t2, flair; white matter is 1
GREY, GREY_DEVIATION = np.array([0.83, 0.81, 1.27, 1.16]), np.array([0.06, 0.06, 0.13, 0.09])
FLUID_SHARP, FLUID_THICK = np.array([0.54, 0.37, 4.1, 0.31]), np.array([0.54, 0.55, 2.85, 0.36])
FLUID_DEVIATION = np.array([0.05, 0.10, 0.30, 0.07])
OEDEMA = np.array([0.91, 0.86, 2.00, 1.68])
_OEDEMA_LOG = np.array([0.10, 0.11, 0.157, 0.169])  # deviations of the logarithm
_NECROSIS_OVER_OEDEMA, _NECROSIS_LOG = np.array([0.87, 0.79, 1.36, 1.11]), np.array([0.13, 0.18, 0.15, 0.13])
_ENHANCING_OVER_OEDEMA, _ENHANCING_LOG = np.array([1.05, 1.85, 1.02, 1.06]), np.array([0.12, 0.21, 0.11, 0.08])
_T2_WITH_FLAIR = 0.72  # correlation of oedema's logarithms


@dataclass(frozen=True)
class Shares:
    """What is decided first about a tumour."""

    volume_ml: float
    core_share: float  # necrosis and enhancing tumour together, of the volume
    enhancing_of_core: float
    roughness: float  # 0 as round as the roundest of the masks, 1 as rugged as the most rugged


def draw_shares(rng: np.random.Generator) -> Shares:
    """Volume, composition and ruggedness, correlated as in the masks (a Gaussian copula)."""
    scores = np.linalg.cholesky(np.array(_CORRELATION)) @ rng.standard_normal(4)
    ranks = ndtr(scores)
    volume = float(np.exp(np.interp(ranks[0], _PROBABILITIES, np.log(_VOLUME_ML))))
    small = float(np.exp(rng.uniform(*np.log(_SMALL_ML))))
    if rng.random() < _SMALL_SHARE:
        volume = small
    core = float(np.interp(ranks[1], _PROBABILITIES, _CORE_SHARE))
    enhancing = float(np.interp(ranks[2], _PROBABILITIES, _ENHANCING_OF_CORE))
    return Shares(volume, core, enhancing, float(1 - ranks[3]))


def draw_place(rng: np.random.Generator) -> Array:
    """Centre of mass (3,), share of the field of view along x, y, z."""
    part = int(rng.choice(len(_PLACE_WEIGHTS), p=_PLACE_WEIGHTS))
    lateral, y, z = rng.multivariate_normal(_PLACE_MEANS[part], np.array(_PLACE_COVARIANCES[part]))
    return np.array([0.5 + rng.choice((-1, 1)) * lateral, y, z])


def draw_tumour_signal(rng: np.random.Generator) -> Array:
    """Mean signal (necrosis, oedema, enhancing tumour) x (t1, t1ce, t2, flair) over white matter's."""
    score = rng.standard_normal(4)
    score[3] = _T2_WITH_FLAIR * score[2] + np.sqrt(1 - _T2_WITH_FLAIR**2) * score[3]
    oedema = OEDEMA * np.exp(_OEDEMA_LOG * score)
    necrosis = oedema * _NECROSIS_OVER_OEDEMA * np.exp(_NECROSIS_LOG * rng.standard_normal(4))
    enhancing = oedema * _ENHANCING_OVER_OEDEMA * np.exp(_ENHANCING_LOG * rng.standard_normal(4))
    return np.stack([necrosis, oedema, enhancing])
