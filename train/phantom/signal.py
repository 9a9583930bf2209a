"""What the scanner makes of tissue and tumour: contrast, vessels, bias field, noise, resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from .anatomy import Tissue
from .fields import Box, FloatArray, smooth_noise
from .regions import blurred
from .tumour import ED, ET, NCR, Growth, Kind

# Rows: t1, t1ce, t2, flair; white matter of t1 is 1. Columns as the names say.
_WHITE = np.array([1.0, 1.0, 0.62, 0.86])
_GREY = np.array([0.875, 0.88, 0.88, 1.02])
_CSF = np.array([0.42, 0.40, 2.3, 0.36])
_SPREAD = np.array([0.035, 0.04, 0.07, 0.05])  # deviation between cases of grey over white
_CSF_SPREAD = np.array([0.05, 0.05, 0.3, 0.06])
_NECROSIS = np.array([0.62, 0.62, 1.55, 0.75])
_PLAIN_CORE = np.array([0.72, 0.72, 1.65, 1.45])
_ENHANCING = np.array([0.82, 2.0, 1.15, 1.25])
_TUMOUR_SPREAD = np.array([0.08, 0.10, 0.28, 0.22])
_OEDEMA = np.array([-0.14, -0.13, 0.72, 0.75])  # added to the tissue


@dataclass(frozen=True)
class Vessels:
    """Maps of the brain box's shape, 0..1."""

    small: FloatArray  # in sulci and on the surface
    sinus: FloatArray  # dural sinuses and falx
    choroid: FloatArray


def draw_image(rng: np.random.Generator, tissue: Tissue, growth: Growth, kind: Kind) -> NDArray[np.int16]:
    """The four modalities in the voxels of the brain's box, (4, ...), 0 outside the brain and at least 1 inside."""
    vessels = _draw_vessels(rng, tissue)
    paint = _Paint(rng, tissue, growth, kind)
    bias = smooth_noise(rng, tissue.box, 70.0)
    grain = np.float32(0.7) * smooth_noise(rng, tissue.box, 9.0) + np.float32(0.7) * smooth_noise(rng, tissue.box, 3.5)
    unit = float(np.exp(rng.normal(np.log(800), 0.3)))
    thick = rng.random() < 0.5
    images = []
    for modality in range(4):
        values = _healthy(rng, modality, tissue, vessels)
        values *= 1 + np.float32(rng.choice((-1, 1)) * rng.uniform(0.008, 0.02)) * grain
        paint.apply(values, modality)
        values *= np.exp(np.float32(rng.uniform(0.02, 0.07)) * bias)
        scale = unit * float(np.exp(rng.normal(0, 0.2)))
        images.append(_acquire(rng, values, tissue.brain, scale, thick))
    return np.stack(images)


def _healthy(rng: np.random.Generator, modality: int, tissue: Tissue, vessels: Vessels) -> FloatArray:
    white = _WHITE[modality]
    grey = _GREY[modality] + rng.normal(0, _SPREAD[modality])
    csf = _CSF[modality] + rng.normal(0, _CSF_SPREAD[modality])
    values = (white * tissue.white + grey * tissue.grey + csf * tissue.csf).astype(np.float32)
    values[~tissue.brain] = white
    if modality == 1:
        values += np.float32(1.5) * vessels.small + np.float32(0.8) * vessels.choroid
        values += np.float32(rng.uniform(1.2, 1.9)) * vessels.sinus
    elif modality == 2:
        values *= 1 - np.float32(0.55) * np.maximum(vessels.small, vessels.sinus) - np.float32(0.3) * vessels.choroid
    elif modality == 3:
        rim = tissue.periventricular * (1 - tissue.csf) * tissue.brain
        values += np.float32(rng.uniform(0.15, 0.7)) * rim
    return values


def _draw_vessels(rng: np.random.Generator, tissue: Tissue) -> Vessels:
    brain = tissue.brain
    first, second = (smooth_noise(rng, tissue.box, 5.0)[brain] for _ in range(2))
    patches = smooth_noise(rng, tissue.box, 16.0)[brain]
    csf, depth, ventricle = tissue.csf[brain], tissue.depth[brain], tissue.ventricle[brain]
    fluid = np.clip(1.6 * csf, 0, 1)
    tube = np.exp(-(first**2 + second**2) / np.float32(0.08))
    small = tube * np.clip(fluid * (1 - ventricle) + 0.6 * np.clip((5 - depth) / 2, 0, 1), 0, 1)
    x, y, z = tissue.place
    surface = np.clip((5.5 - depth) / 2, 0, 1)
    upper = np.clip((z + 10 - 0.4 * y) / 20, 0, 1) * np.clip((40 - y) / 20, 0, 1)
    sagittal = np.exp(-((x / 3.5) ** 2)) * surface * upper
    falx = 0.5 * np.exp(-((x / 0.9) ** 2)) * np.clip((16 - depth) / 6, 0, 1) * np.clip((z - 10) / 8, 0, 1)
    straight = np.exp(-((x / 2.2) ** 2) - ((z - 8 - 0.55 * (y + 60)) / 2.2) ** 2) * np.clip((-44 - y) / 6, 0, 1)
    transverse = np.exp(-(((z + 17) / 4.5) ** 2)) * np.clip((-35 - y) / 10, 0, 1) * surface * np.clip(patches, 0, 1)
    sinus = np.clip(np.maximum.reduce([sagittal, falx, 0.7 * straight * fluid, transverse]), 0, 1)
    choroid = np.clip(first - 0.3, 0, 1) * np.clip((-12 - y) / 8, 0, 1) * ventricle
    return Vessels(*(_filled(brain, values) for values in (small, sinus, choroid)))


def _filled(brain: NDArray[np.bool_], values: NDArray[np.floating]) -> FloatArray:
    volume = np.zeros(brain.shape, np.float32)
    volume[brain] = values
    return volume


class _Paint:
    """The tumour's signal; what the four modalities share is drawn once."""

    def __init__(self, rng: np.random.Generator, tissue: Tissue, growth: Growth, kind: Kind) -> None:
        self.box = growth.box
        world = _outer(tissue.box, growth.box)
        soft = {name: blurred((growth.labels == name).astype(np.float32), 0.65) for name in (NCR, ED, ET)}
        texture = 0.6 * smooth_noise(rng, world, 6.0) + 0.5 * smooth_noise(rng, world, 3.0)
        patches = smooth_noise(rng, world, 9.0)
        strength = rng.uniform(0.75, 1.2)
        self.oedema = soft[ED] * (1 - 0.45 * growth.reach**2) * strength * np.clip(1 + 0.18 * texture, 0.4, None)
        self.necrosis, self.enhancing = soft[NCR], soft[ET]
        core = _PLAIN_CORE if kind == "plain" else _NECROSIS
        jitter = rng.normal(0, 1, 4)
        self.necrosis_level = core * np.exp(_TUMOUR_SPREAD * jitter)
        self.enhancing_level = _ENHANCING * np.exp(0.6 * _TUMOUR_SPREAD * rng.normal(0, 1, 4))
        self.enhancing_level[1] *= rng.uniform(0.75, 1.15)
        self.necrosis_texture = 1 + (0.10 * patches + 0.05 * texture)
        self.enhancing_texture = 1 + 0.13 * texture
        self.blood = np.clip(patches - 0.8, 0, 1) * (0.5 if rng.random() < 0.15 else 0.0)

    def apply(self, values: FloatArray, modality: int) -> None:
        """Paint over `values` of the brain's box."""
        local = values[self.box]
        grown = local + self.oedema * _OEDEMA[modality]
        necrosis = self.necrosis_level[modality] * self.necrosis_texture
        if modality < 2:
            necrosis = necrosis + self.blood
        enhancing = self.enhancing_level[modality] * self.enhancing_texture
        rest = np.clip(1 - self.necrosis - self.enhancing, 0, 1)
        values[self.box] = rest * grown + self.necrosis * necrosis + self.enhancing * enhancing


def _outer(brain_box: Box, local: Box) -> Box:
    parts = [slice(o.start + i.start, o.start + i.stop) for o, i in zip(brain_box, local, strict=True)]
    return parts[0], parts[1], parts[2]


def _acquire(
    rng: np.random.Generator, values: FloatArray, brain: NDArray[np.bool_], scale: float, thick: bool
) -> NDArray[np.int16]:
    """Rician noise, a small blur (wider along z in thick-slice scans), scale, background 0."""
    level = np.float32(rng.uniform(0.012, 0.03))
    count = int(brain.sum())
    real = values[brain] + level * rng.standard_normal(count, dtype=np.float32)
    imaginary = level * rng.standard_normal(count, dtype=np.float32)
    values[brain] = np.sqrt(real**2 + imaginary**2)
    for axis, width in enumerate((0.1, 0.1, 0.25 if thick else 0.1)):
        correlate1d(values, [width, 1 - 2 * width, width], axis=axis, output=values, mode="nearest")
    return np.where(brain, np.clip(np.rint(scale * values), 1, 32767), 0).astype(np.int16)
