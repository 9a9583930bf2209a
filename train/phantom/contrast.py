"""What tissues and tumours look like before the scanner: mean signals, vessels, dura, texture, the tumour's signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...engine.anatomy.anatomies import Tissue
from .fields import FloatArray, smooth_noise
from .head import Voxels
from .regions import blurred
from .statistics import (
    FLUID_DEVIATION,
    FLUID_SHARP,
    FLUID_THICK,
    GREY,
    GREY_DEVIATION,
    draw_tumour_signal,
)
from .tumour import ED, ET, NCR, Growth

T1, T1CE, T2, FLAIR = range(4)
_CYST_SHARE, _BLOOD_SHARE = 0.10, 0.10  # of the tumours


@dataclass(frozen=True)
class Contrast:
    """Signals of a case relative to white matter."""

    means: FloatArray  # (tissues, 4)
    fluid: FloatArray  # (4,) of the ventricles
    vessels: float  # added to t1ce in the middle of a vessel
    caps: float  # added to flair beside the ventricles


def draw_contrast(rng: np.random.Generator, thick: bool) -> Contrast:
    """Tissue means; `thick` scans (of several millimetres a slice) are of the less contrasted kind."""
    grey = GREY + GREY_DEVIATION * rng.standard_normal(4)
    grey[:2], grey[2] = np.minimum(grey[:2], 0.95), max(grey[2], 1.08)
    fluid = np.clip((FLUID_THICK if thick else FLUID_SHARP) + FLUID_DEVIATION * rng.standard_normal(4), 0.15, None)
    open_sulci = rng.uniform(0.6, 1.0)

    def mixed(white: float, *factors: float) -> np.ndarray:
        return (white + (1 - white) * grey) * np.array(factors or (1.0,) * 4) * rng.normal(1, 0.015, 4)

    means = np.zeros((len(Tissue), 4))
    means[Tissue.WHITE] = 1
    means[Tissue.CORTEX] = grey
    means[Tissue.CSF] = open_sulci * fluid + (1 - open_sulci) * grey
    means[Tissue.VENTRICLE] = fluid
    means[Tissue.CEREBELLAR_WHITE] = mixed(0.9, 0.98, 0.98, 1.0, 1.0)
    means[Tissue.CEREBELLAR_CORTEX] = mixed(0.1, 0.98, 1.02, 0.95, 0.96)
    means[Tissue.THALAMUS] = mixed(0.55)
    means[Tissue.CAUDATE] = mixed(0.1)
    means[Tissue.PUTAMEN] = mixed(0.25, 1.0, 1.0, 0.95, 0.95)
    means[Tissue.PALLIDUM] = mixed(0.75, 1.0, 1.0, 0.82, 0.86)
    means[Tissue.STEM] = mixed(0.8)
    means[Tissue.HIPPOCAMPUS] = mixed(0.0, 1.0, 1.0, 1.0, 1.06)
    means[Tissue.LESION] = np.array([0.85, 0.86, 1.5, 1.5]) * rng.normal(1, 0.1, 4)
    means[Tissue.CHOROID] = 0.5 * fluid + 0.5 * grey
    means[Tissue.CHOROID, T1CE] += rng.uniform(0.1, 1.0)
    vessels = rng.uniform(0.2, 1.2) if thick else rng.uniform(0.8, 3.2)
    return Contrast(means.astype(np.float32), fluid.astype(np.float32), float(vessels), float(rng.uniform(0.0, 0.4)))


def paint_healthy(rng: np.random.Generator, contrast: Contrast, voxels: Voxels) -> FloatArray:
    """(4, x, y, z) over the brain's box: tissue with vessels and texture; fluid's signal outside the brain."""
    values = voxels.means.copy()
    small, large, choroid = _vessels(rng, voxels)
    values[T1CE] += np.float32(contrast.vessels) * (small + np.float32(rng.uniform(0.6, 1.2)) * large + 0.4 * choroid)
    values[T1] += np.float32(rng.uniform(0, 0.12)) * small
    values[T2] *= 1 - np.float32(0.5) * np.maximum(small, large)
    values[FLAIR] += (
        np.float32(contrast.caps) * voxels.caps * (1 - np.clip(1.5 * (voxels.csf + voxels.ventricle), 0, 1))
    )
    grain = [smooth_noise(rng, voxels.box, spacing)[voxels.brain] for spacing in (11.0, 5.0, 2.6)]
    sulci = np.float32(0.15) * voxels.csf * grain[2]
    painted = np.empty((4, *voxels.brain.shape), np.float32)
    for modality in range(4):
        sign, depth = rng.choice((-1, 1), 3).tolist(), rng.uniform(0.006, 0.02)
        texture = sign[0] * grain[0] + 0.8 * sign[1] * grain[1] + 0.7 * sign[2] * grain[2]
        values[modality] *= 1 + depth * texture
        values[modality] += sulci * contrast.fluid[modality]
        painted[modality] = np.float32(0.6) * contrast.fluid[modality] + np.float32(0.1)
        painted[modality][voxels.brain] = np.maximum(values[modality], 0.02)
    return painted


def _vessels(rng: np.random.Generator, voxels: Voxels) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Small vessels in sulci and on the surface, sinuses with falx, choroid plexus: 0..1 in the brain's voxels."""
    first, second, patches = (smooth_noise(rng, voxels.box, spacing)[voxels.brain] for spacing in (5.0, 5.0, 16.0))
    surface = np.clip((0.86 - voxels.cover) / 0.25, 0, 1)
    tube = np.exp(-(first**2 + second**2) / np.float32(0.09))
    small = tube * np.clip(1.3 * voxels.csf + 0.35 * surface + 0.08, 0, 1) * np.clip(0.8 + 0.5 * patches, 0, 1.2)
    x, y, z = voxels.place
    falx = np.exp(-((x / 1.4) ** 2)) * voxels.csf * np.clip((z - 8) / 10, 0, 1)
    sagittal = np.exp(-((x / 4.0) ** 2)) * surface * np.clip((z + 10 - 0.4 * y) / 20, 0, 1)
    transverse = np.exp(-(((z + 17) / 5.0) ** 2)) * np.clip((-35 - y) / 10, 0, 1) * surface * np.clip(patches, 0, 1)
    tentorium = voxels.csf * np.exp(-(((z + 10 + 0.35 * (y + 60)) / 4.0) ** 2)) * np.clip((-30 - y) / 10, 0, 1)
    large = np.maximum.reduce([sagittal, transverse, 0.5 * falx, 0.5 * tentorium])
    return small.astype(np.float32), large.astype(np.float32), voxels.choroid


def paint_tumour(
    rng: np.random.Generator, painted: FloatArray, growth: Growth, contrast: Contrast, voxels: Voxels
) -> None:
    """Paint `growth` over `painted` (4, x, y, z): oedema that fades, necrosis, cysts, old blood, enhancing tumour."""
    world = _outer(voxels.box, growth.box)
    brain = voxels.brain[growth.box]
    fluid = voxels.volume(voxels.csf + voxels.ventricle)[growth.box]
    signal = draw_tumour_signal(rng)
    coarse, fine, grit = (smooth_noise(rng, world, spacing) for spacing in (12.0, 6.0, 3.0))
    necrosis, enhancing = (blurred((growth.labels == label).astype(np.float32), 0.7) for label in (NCR, ET))
    oedema = blurred((growth.labels == ED).astype(np.float32), rng.uniform(0.7, 1.8)) * brain * np.clip(1 - fluid, 0, 1)
    fade = 1 + rng.uniform(0.1, 1.0) * (0.42 - growth.reach**2)
    oedema *= fade * np.clip(1 + rng.uniform(0.06, 0.22) * (coarse + 0.6 * fine), 0.3, 1.9)
    cyst = rng.random() < _CYST_SHARE
    if cyst:
        share = rng.uniform(0.6, 0.95)
        signal[0] = (1 - share) * signal[0] + share * contrast.fluid
        signal[0, FLAIR] = rng.uniform(0.4, 1.3)
    blood = np.clip(fine - 0.8, 0, 1) * (rng.uniform(0.2, 0.6) if rng.random() < _BLOOD_SHARE else 0.0)
    uneven, speckle = rng.uniform(0.02, 0.06) if cyst else rng.uniform(0.05, 0.16), rng.uniform(0.06, 0.2)
    rest = np.clip(1 - necrosis - enhancing, 0, 1)
    for modality, (dead_mean, oedema_mean, alive_mean) in enumerate(signal.T.tolist()):
        local = painted[modality][growth.box]
        grown = local + oedema * (oedema_mean - 1)
        dead = dead_mean * (1 + uneven * (-1, 1)[rng.integers(2)] * (coarse + 0.5 * fine) + 0.25 * uneven * grit)
        if modality < T2:
            dead = dead + blood
        alive = alive_mean * (1 + speckle * (1.0 if modality == T1CE else 0.5) * (0.7 * fine + 0.5 * grit))
        local[...] = np.maximum(rest * grown + necrosis * dead + enhancing * alive, 0.02)


def _outer(brain_box: tuple[slice, slice, slice], local: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
    parts = [slice(o.start + i.start, o.start + i.stop) for o, i in zip(brain_box, local, strict=True)]
    return parts[0], parts[1], parts[2]
