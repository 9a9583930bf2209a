"""The packed anatomies and how they are made."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

pytest.importorskip("torch")

from sbldm.engine.anatomy.anatomies import (
    COUNT,
    HELD_OUT,
    TRAINING,
    Tissue,
    load_anatomy,
)
from sbldm.engine.errors import InvalidInputError
from sbldm.train.phantom.pack_anatomies import anatomy_from_labels, pack

LABEL_MAP = Path("/work/shared/data/anatomies/anatomy_09.nii.gz")


def test_twenty_different_brains_of_human_size_in_less_than_three_megabytes() -> None:
    brains = [load_anatomy(number) for number in range(1, COUNT + 1)]
    assert len({brain.tobytes() for brain in brains}) == COUNT
    for brain in brains:
        assert brain.max() == max(Tissue)
        assert 1.1e6 < (brain > 0).sum() * 1.2**3 < 1.8e6
    packed = files("sbldm.engine.anatomy").joinpath("anatomies.npz")
    assert len(packed.read_bytes()) < 3_000_000
    with pytest.raises(KeyError):
        load_anatomy(COUNT + 1)


def test_brains_have_no_enclosed_gaps() -> None:
    for number in (1, 9):
        brain = load_anatomy(number) > 0
        assert (binary_fill_holes(brain) & ~brain).sum() == 0


def test_held_out_brains_are_not_trained_on() -> None:
    assert not set(HELD_OUT) & set(TRAINING)
    assert sorted((*HELD_OUT, *TRAINING)) == list(range(1, COUNT + 1))


def test_a_label_map_is_resampled_and_its_gaps_are_filled() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[5:35, 5:35, 5:35] = 2
    labels[15:25, 15:25, 15:25] = 4
    labels[19:21, 19:21, 19:21] = 0
    anatomy = anatomy_from_labels(labels, (1.0, 1.0, 1.0))
    assert anatomy.shape == (27, 27, 27)
    assert set(np.unique(anatomy)) == {Tissue.OUTSIDE, Tissue.WHITE, Tissue.VENTRICLE}
    assert anatomy[13, 13, 13] == Tissue.VENTRICLE
    assert abs((anatomy == Tissue.VENTRICLE).sum() * 1.2**3 - 1000) < 250


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="label 99"):
        anatomy_from_labels(np.full((4, 4, 4), 99, np.uint8), (1.0, 1.0, 1.0))


def test_a_folder_with_too_few_label_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="0 label maps"):
        pack(tmp_path, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.skipif(not LABEL_MAP.exists(), reason="no label maps here")
def test_a_packed_brain_is_what_its_label_map_gives() -> None:
    labels = np.asarray(nib.nifti1.load(LABEL_MAP).dataobj)
    assert np.array_equal(anatomy_from_labels(labels, (1.0, 1.0, 1.0)), load_anatomy(9))
