"""Cases that are one patient under two names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.errors import InvalidInputError
from sbldm.train.data.cohort import CachedCase, Cohort
from sbldm.train.data.twins import refuse_twins


def one_case(folder: Path, name: str, image: int, tumour: int) -> Cohort:
    """A cohort of one case, whose image and whose tumour are told apart by a number each; tumour 0 is none."""
    stored = np.zeros((4, 2, 4, 4), np.uint8)
    stored[:, 0] = image
    stored[0, 1, 0, :tumour] = 1
    np.save(folder / f"{name}.npy", stored)
    entry = CachedCase(name, folder / f"{name}.npy", (1.0,), (float(tumour),))
    return Cohort(Grid((4, 4, 4), (1.0, 1.0, 1.0)), ("t1",), (entry,))


@pytest.mark.parametrize(("image", "tumour"), [(1, 2), (2, 1)], ids=["image", "mask"])
def test_one_image_or_one_mask_makes_twins(tmp_path: Path, image: int, tumour: int) -> None:
    with pytest.raises(InvalidInputError, match="a is b, or has its images or mask"):
        refuse_twins(one_case(tmp_path, "a", 1, 1), one_case(tmp_path, "b", image, tumour), "x", "y")


def test_scans_without_a_tumour_are_twins_by_their_images_alone(tmp_path: Path) -> None:
    healthy = one_case(tmp_path, "a", 1, 0)
    refuse_twins(healthy, one_case(tmp_path, "b", 2, 0), "x", "y")
    with pytest.raises(InvalidInputError, match="a is c"):
        refuse_twins(healthy, one_case(tmp_path, "c", 1, 0), "x", "y")
