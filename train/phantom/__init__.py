"""Procedural brains with gliomas in BraTS layout: `make_phantom` makes one, `write_cohort` a directory of them."""

from __future__ import annotations

from ...engine.anatomy.anatomies import HELD_OUT, TRAINING
from .case import MODALITIES as PHANTOM_MODALITIES
from .case import VERSION as PHANTOM_VERSION
from .case import Phantom, Reference, make_phantom, make_reference
from .cohort import DESCRIPTION as PHANTOM_DESCRIPTION
from .cohort import case_name, encoded, write_cohort

__all__ = [
    "HELD_OUT", "PHANTOM_DESCRIPTION", "PHANTOM_MODALITIES", "PHANTOM_VERSION", "TRAINING", "Phantom", "Reference",
    "case_name", "encoded", "make_phantom", "make_reference", "write_cohort",
]  # fmt: skip
