"""The individual brains that drafts and phantoms are made of: label maps of fourteen tissues, in one file."""

from __future__ import annotations

import hashlib
import io
from enum import IntEnum
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

SPACING_MM = 1.2  # isotropic
COUNT = 20
HELD_OUT = (18, 19, 20)  # never trained on
TRAINING = tuple(number for number in range(1, COUNT + 1) if number not in HELD_OUT)
FILE = "anatomies.npz"


class Tissue(IntEnum):
    """What a voxel of an anatomy holds."""

    OUTSIDE = 0
    WHITE = 1
    CORTEX = 2
    CSF = 3  # of sulci and cisterns
    VENTRICLE = 4
    CEREBELLAR_WHITE = 5
    CEREBELLAR_CORTEX = 6
    THALAMUS = 7
    CAUDATE = 8
    PUTAMEN = 9  # and accumbens
    PALLIDUM = 10
    STEM = 11  # brain stem, ventral diencephalon, optic chiasm
    HIPPOCAMPUS = 12  # and amygdala
    LESION = 13  # of white matter
    CHOROID = 14  # plexus, in the ventricles


@lru_cache(maxsize=COUNT)
def load_anatomy(number: int) -> NDArray[np.uint8]:
    """Tissues (x, y, z) of brain `number`, 1 to 20, in RAS+, voxels of `SPACING_MM`, cropped; read-only.

    Raises KeyError for another number.
    """
    with np.load(io.BytesIO(_content()), allow_pickle=False) as packed:
        anatomy = packed[f"anatomy_{number:02d}"]
    anatomy.flags.writeable = False
    return anatomy


@lru_cache(maxsize=1)
def anatomies_sha256() -> str:
    """Digest of the file that holds them."""
    return hashlib.sha256(_content()).hexdigest()


def _content() -> bytes:
    return files("sbldm.engine.anatomy").joinpath(FILE).read_bytes()
