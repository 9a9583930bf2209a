"""Lesions put into scans, or taken out, by Python: from a folder or from arrays."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.changed_scan import ChangedScan
from sbldm.engine.errors import InvalidInputError, SbldmError, UsageError
from sbldm.engine.generator import Generator
from sbldm.engine.sample import FaultySampleError
from sbldm.engine.scans.scan import Scan
from scipy import ndimage

from tests.support.scans import SPACING, affine, arrays, write_case

LPS = affine() @ np.array([[-1, 0, 0, 47], [0, -1, 0, 47], [0, 0, 1, 0], [0, 0, 0, 1.0]])
ROLES = ("t1", "t1ce", "t2", "flair", "seg")


@pytest.fixture
def generator(tiny_mask_first_bundle: Bundle) -> Iterator[Generator]:
    with Generator.load(tiny_mask_first_bundle.path, threads=1) as generator:
        yield generator


def healthy(kind: str = "f4") -> Scan:
    """Axes to the left and the back, without a mask."""
    images = {name: array[::-1, ::-1].astype(kind) for name, array in arrays().items() if name != "seg"}
    return Scan(images, LPS)


def lesion() -> np.ndarray:
    return arrays(tumour=(-30.0, 5.0, 5.0), numbers=(1, 2, 3))["seg"][::-1, ::-1]


def test_the_command_writes_what_python_gives(
    generator: Generator, tiny_mask_first_bundle: Bundle, tmp_path: Path
) -> None:
    scan, out, table = write_case(tmp_path, "P1"), tmp_path / "out", tmp_path / "cond.csv"
    table.write_text("id,x,y,z\na,0.45,0.5,0.5\n")
    asked = ["--insert", "--remove", "--conditions", table, "--volumes", "5,15", "--seed", 4, "--mass-effect"]
    fixed = ["augment", scan, "--bundle", tiny_mask_first_bundle.path, "--steps", 2, "--threads", 1, "--out", out]
    assert main([str(word) for word in (*fixed, *asked)]) == 0
    wishes = {"volumes": (5, 15), "remove": True, "mass_effect": True, "seed": 4, "steps": 2}
    made = list(generator.insert(generator.open_scan(scan), conditions=table, **wishes))
    assert [one.id for one in made] == ["a-5ml", "a-15ml"]
    for number, one in enumerate(made):
        saved = one.save(tmp_path / "saved")
        for role, data in one.files().items():
            written = (out / f"sbldm-{number:06d}" / f"sbldm-{number:06d}_{role}.nii.gz").read_bytes()
            assert written == data == saved[role].read_bytes()
            assert saved[role].stat().st_mode & 0o077 == 0
        assert saved["t1"].parent.stat().st_mode & 0o077 == 0
        assert one.sample.origin == "from a real case"
    (emptied,) = generator.remove(scan, steps=2)
    assert emptied.fault is None
    assert not emptied.label.any()
    assert emptied.sample.requested["volume_ml"] > 5


def test_arrays_keep_every_voxel_beyond_the_margin(generator: Generator) -> None:
    scan, mask = healthy(), lesion()
    (made,) = generator.insert(scan, masks=[mask], margin=8.0, steps=2)
    assert isinstance(made, ChangedScan)
    assert np.array_equal(made.label, mask)
    near = np.asarray(ndimage.distance_transform_edt(mask == 0, SPACING)) < 8
    assert not (made.changed & ~near).any()
    assert np.allclose(made.affine, LPS)
    for name, image in made.images.items():
        assert image.dtype == np.float32
        assert np.array_equal(image[~made.changed], scan.images[name][~made.changed])
        assert (image[mask > 0] != scan.images[name][mask > 0]).mean() > 0.5
    written = nib.Nifti1Image.from_bytes(gzip.decompress(made.files()["t2"]))
    assert np.array_equal(np.asarray(written.dataobj), made.images["t2"])
    assert made.picture().width > 100
    assert repr(made) == "<ChangedScan 0 '0': 48 x 48 x 32, lesion in>"


CALLS: dict[str, tuple[Callable[[], dict], type[SbldmError], str]] = {
    "shape": (lambda: {"masks": [lesion()[:-1]]}, InvalidInputError, r"masks\[0\]: must be an array of whole numbers"),
    "label": (lambda: {"masks": [lesion() * 2]}, InvalidInputError, r"masks\[0\]: holds 0 to 6; allowed: 0, 1"),
    "empty": (lambda: {"masks": [lesion() * 0]}, InvalidInputError, r"masks\[0\]: empty mask"),
    "none": (lambda: {"masks": []}, InvalidInputError, "masks: there is none"),
    "text": (lambda: {"masks": 3}, UsageError, "^masks: must be a folder"),
    "volumes": (lambda: {"volumes": ["5"], "count": 1}, UsageError, "^volumes '5': must be a number"),
    "falls": (lambda: {"volumes": [5, 4], "count": 1}, UsageError, "^volumes 5,4: must rise"),
    "margin": (lambda: {"margin": "x", "count": 1}, UsageError, "^margin 'x': must be a number"),
    "wide": (lambda: {"margin": 90, "count": 1}, UsageError, "^margin 90: must be from 4 to 40"),
    "effect": (lambda: {"mass_effect": 1, "count": 1}, UsageError, "^mass_effect 1: must be True or False"),
    "both": (lambda: {"masks": [lesion()], "conditions": [{}]}, UsageError, "^masks: go without conditions"),
    "nothing": (dict, UsageError, "give count N"),
    "unknown": (lambda: {"strength": 1}, UsageError, "no argument strength"),
    "remove": (lambda: {"remove": True, "count": 1}, InvalidInputError, "the scan has no lesion"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_make_no_sense_are_refused(generator: Generator, name: str) -> None:
    arguments, kind, told = CALLS[name]
    with pytest.raises(kind, match=told):
        generator.insert(healthy(), **arguments())


def test_arrays_that_are_no_scan_are_refused(generator: Generator) -> None:
    whole = healthy()
    for broken, told in (
        (Scan({**whole.images, "t2": np.full(whole.images["t1"].shape, np.nan, np.float32)}, LPS), "not finite"),
        (Scan({"t1": whole.images["t1"]}, LPS), "missing modality t1ce, t2, flair"),
        (Scan({**whole.images, "t2": whole.images["t2"] > 0}, LPS), r"images\['t2'\]: must be an array"),
        (Scan({**whole.images, "t2": whole.images["t2"][:-1]}, LPS), r"images\['t2'\] has \(47, 48, 32\) voxels"),
        (Scan(whole.images, LPS[:3]), "its affine must be"),
        (Scan(whole.images, LPS, lesion()[..., None]), "label: must be an array"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            generator.open_scan(broken)
    with pytest.raises(UsageError, match="must be the folder of one scan"):
        generator.open_scan(3)  # type: ignore[arg-type]


def test_a_scan_without_room_is_faulty(generator: Generator) -> None:
    asked = {"conditions": [{"volume_ml": 900.0}], "steps": 2}
    with pytest.raises(FaultySampleError, match="no room"):
        next(generator.insert(healthy(), **asked))
    (kept,) = generator.insert(healthy(), faulty="keep", **asked)
    assert kept.fault is not None
    assert not kept.changed.any()
    assert list(generator.insert(healthy(), faulty="skip", **asked)) == []
