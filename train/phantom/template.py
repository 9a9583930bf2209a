"""The anatomy that every phantom starts from: the ICBM 2009a template at 1 mm, as nilearn carries it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image

from ...engine.errors import InvalidInputError
from .fields import FloatArray
from .regions import blurred, closed, depth_of, pieces_of_at_least

ORIGIN = np.array([98.0, 134.0, 72.0], np.float32)  # voxel of the anterior commissure, (0, 0, 0) mm of MNI space
_FLOOR = 0.02  # least probability of a tissue, which bounds the logarithms
_DEPTH_LIMIT = 30.0  # mm
_CRISPNESS = 1.6  # share of the unsharp mask


@dataclass(frozen=True)
class Template:
    """Maps (197, 233, 189) in RAS+, voxels of 1 mm; `ORIGIN` is the voxel at 0 mm."""

    # (5, ...): mm to the brain's surface, negative outside; log(grey / CSF); log(white / CSF); deep: 1 in deep grey
    # matter and brainstem, half in the cerebellum, where folds stay; ventricle: 1 in the lateral and third ventricles
    maps: FloatArray

    @property
    def ventricle(self) -> FloatArray:
        """(1, ...) the last map alone."""
        return self.maps[4:]


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the template and derive its maps; cached, so once a process (about 3 s).

    Raises InvalidInputError if nilearn, which carries the template, is not installed.
    """
    t1, grey, white = (_read(name) for name in ("t1", "gm", "wm"))
    brain = closed(t1 > 0, 3)
    depth = np.where(brain, depth_of(brain) - 0.5, 0.5 - depth_of(~brain))
    csf = np.clip(1 - grey - white, _FLOOR, None)
    millimetres = np.meshgrid(*(np.arange(n) - o for n, o in zip(t1.shape, ORIGIN, strict=True)), indexing="ij")
    smooth_depth = blurred(np.clip(depth, -_DEPTH_LIMIT, _DEPTH_LIMIT).astype(np.float32), 0.7)
    ventricle = _ventricles(csf, depth, *millimetres)
    deep = _deep_structures(*millimetres)
    ratios = (_logarithm(grey, csf, deep), _logarithm(white, csf, deep))
    return Template(np.stack([smooth_depth, *ratios, deep, ventricle]))


def _read(name: str) -> FloatArray:
    package = find_spec("nilearn")  # found, not imported: only its files are wanted, and importing it takes seconds
    if package is None or package.origin is None:
        raise InvalidInputError('Phantoms need the template that nilearn carries: pip install "sbldm-engine[train]"')
    path = Path(package.origin).parent / "datasets" / "data" / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    image = Nifti1Image.from_filename(path)
    return np.asarray(image.dataobj, dtype=np.float32) / np.float32(255)


def _logarithm(tissue: FloatArray, csf: FloatArray, deep: FloatArray) -> FloatArray:
    """Log ratio with an unsharp mask, which brings back the folds that averaging heads has blurred."""
    ratio = np.log(np.clip(tissue, _FLOOR, None) / csf).astype(np.float32)
    unsharp = np.float32(_CRISPNESS) * (ratio - blurred(ratio, 2.5))
    return (ratio + unsharp * (1 - deep)).astype(np.float32, copy=False)


def _deep_structures(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
    nuclei = (x / 34) ** 2 + ((y + 6) / 34) ** 2 + ((z - 4) / 18) ** 2 < 1
    brainstem = (np.abs(x) < 20) & (y > -48) & (y < -4) & (z < 0)
    cerebellum = (y < -38) & (z < -14 - 0.35 * (y + 60)) & (z < -8)
    fixed = np.where(nuclei | brainstem, 1.0, np.where(cerebellum, 0.5, 0.0))
    return blurred(fixed.astype(np.float32), 3)


def _ventricles(csf: FloatArray, depth: FloatArray, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
    inner = (csf > 0.4) & (depth > 14) & (np.abs(x) < 42) & (y > -60) & (y < 42) & (z > -22) & (z < 34)
    return blurred(pieces_of_at_least(inner, 401).astype(np.float32), 1.0)
