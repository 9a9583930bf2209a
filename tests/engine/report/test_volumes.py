"""What a page embeds of a case is the case: places, values, labels; and within its budget."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.folder import Folder
from sbldm.engine.output.nifti import nifti_bytes
from sbldm.engine.output.regrid import BRATS_AFFINE, BRATS_GRID
from sbldm.engine.report import volumes
from sbldm.engine.report.volumes import CaseVolumes, embed_case
from sbldm.engine.run.description import RunDescription, read_description

BRATS = BRATS_GRID.shape, BRATS_AFFINE


def run_of(bundle: Bundle, out: Path, grid: str) -> RunDescription:
    arguments = ["generate", "--bundle", str(bundle.path), "--steps", "2", "--threads", "1", "--quiet", "--count", "1"]
    assert main([*arguments, "--grid", grid, "--out", str(out)]) == 0
    return read_description(out)


def embedded(out: Path, run: RunDescription) -> CaseVolumes:
    with Folder(out) as folder:
        return embed_case(folder, run, 0, "a case")


def image_of(made: CaseVolumes, role: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(made.files[role])))


def file_of(out: Path, role: str) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.load(out / f"sbldm-000000/sbldm-000000_{role}.nii.gz"))  # type: ignore


def spoil(out: Path, run: RunDescription, grid: str) -> None:
    """Files of known content in the place of the sample's: a block of brain off the middle, and junk in a corner."""
    shape, affine = (run.bundle.grid.shape, run.bundle.grid.affine) if grid == "native" else BRATS
    image, label = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
    brain = tuple(slice(n // 4, n // 4 * 3) for n in shape)
    image[brain] = np.random.default_rng(0).integers(1, 1000, [s.stop - s.start for s in brain])
    image[0, 0, 0] = 900
    label[tuple(slice(n // 4, n // 2) for n in shape)] = 2
    label[tuple(slice(n // 4, n // 4 + 1) for n in shape)] = 4
    for role, path in run.layout().paths(0).items():
        (out / path).write_bytes(nifti_bytes(label if role == "seg" else image, affine, ""))


@pytest.mark.parametrize("grid", ["native", "brats"])
def test_values_and_labels_lie_at_the_millimetres_of_the_files(tiny_bundle: Bundle, tmp_path: Path, grid: str) -> None:
    run = run_of(tiny_bundle, tmp_path / "run", grid)
    spoil(tmp_path / "run", run, grid)
    made = embedded(tmp_path / "run", run)
    assert made.bytes <= volumes.MAX_CASE_BYTES
    assert (made.coarser == 1) == (grid == "native")  # noise does not shrink
    for role in (*run.bundle.modalities, "seg"):
        small, whole = image_of(made, role), file_of(tmp_path / "run", role)
        offset = np.linalg.inv(whole.affine) @ small.affine
        assert np.allclose(offset[:3, :3], np.eye(3) * made.coarser, atol=1e-6)
        if made.coarser > 1:
            continue
        start = np.rint(offset[:3, 3]).astype(int)
        assert np.allclose(offset[:3, 3], start, atol=1e-4)
        assert min(start) > 0  # the corner is cut off
        box = tuple(slice(s, s + n) for s, n in zip(start, small.shape, strict=True))
        shown, true = np.asarray(small.dataobj, float), np.asarray(whole.dataobj, float)[box]
        if role == "seg":
            assert (shown == np.where(true == 4, 3, true)).all()
            assert np.count_nonzero(shown) == np.count_nonzero(np.asarray(whole.dataobj))
        else:
            top = float(small.dataobj.slope) * 255
            assert np.abs(shown - np.minimum(true, top)).max() <= top / 510 + 1e-3
            assert 900 < top < 1000


def test_the_crosshair_starts_in_the_tumour(tiny_bundle: Bundle, tmp_path: Path) -> None:
    run = run_of(tiny_bundle, tmp_path / "run", "native")
    spoil(tmp_path / "run", run, "native")
    seg = file_of(tmp_path / "run", "seg")
    index = np.rint(np.linalg.inv(seg.affine) @ [*embedded(tmp_path / "run", run).tumour_mm, 1])[:3].astype(int)
    assert np.asarray(seg.dataobj)[tuple(index)] > 0


def test_a_case_over_its_budget_is_coarser(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tiny_bundle, tmp_path / "run", "native")
    spoil(tmp_path / "run", run, "native")
    fine = embedded(tmp_path / "run", run)
    budget = fine.bytes - 800
    monkeypatch.setattr(volumes, "MAX_CASE_BYTES", budget)
    made = embedded(tmp_path / "run", run)
    assert made.coarser > fine.coarser
    assert made.bytes <= budget
    for role in ("t1", "seg"):
        one, other = image_of(fine, role), image_of(made, role)
        assert np.allclose(np.diag(other.affine)[:3], np.diag(one.affine)[:3] * made.coarser / fine.coarser)
        corner = one.affine[:3, 3] - np.diag(one.affine)[:3] / 2
        assert np.allclose(corner, other.affine[:3, 3] - np.diag(other.affine)[:3] / 2, atol=1e-3)
    one, other = image_of(fine, "t1"), image_of(made, "t1")
    sums = [np.asarray(image.dataobj, float).sum() * np.prod(np.diag(image.affine)[:3]) for image in (one, other)]
    assert sums[0] == pytest.approx(sums[1], rel=0.05)
