"""Procedural brains with gliomas in BraTS layout: `make_phantom` makes one, `write_cohort` a directory of them."""

from __future__ import annotations

from .case import Phantom, make_phantom
from .cohort import write_cohort

__all__ = ["Phantom", "make_phantom", "write_cohort"]
