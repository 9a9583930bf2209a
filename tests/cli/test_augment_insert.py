"""`augment --insert` and `--remove`: only a margin around the lesion changes."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import stat
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.report.command import recipe
from sbldm.engine.run.description import read_description
from scipy import ndimage

from tests.support.commands import hashes
from tests.support.scans import SPACING, affine, arrays, save

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "brats2021"
MODALITIES = ("t1", "t1ce", "t2", "flair")
LPS = affine() @ np.array([[-1, 0, 0, 47], [0, -1, 0, 47], [0, 0, 1, 0], [0, 0, 0, 1.0]])
DESCRIPTION = slice(148, 228)


def write_scan(folder: Path, *, healthy: bool = False, matrix: NDArray[np.float64] = LPS, kind: str = "<i2") -> Path:
    """A case `P1` whose files turn right and front round; of a healthy one without a mask."""
    for part, array in arrays().items():
        if part == "seg" and healthy:
            continue
        turned = array[::-1, ::-1].astype(np.uint8 if part == "seg" else kind)
        save(folder / "P1" / f"P1_{part}.nii.gz", turned, matrix)
    return folder / "P1"


def lesion() -> NDArray[np.uint8]:
    """A mask in the other half of the brain, in BraTS values, in the voxel order of `write_scan`."""
    return arrays(tumour=(-30.0, 5.0, 5.0))["seg"][::-1, ::-1]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    save(tmp_path / "masks" / "other" / "other_seg.nii.gz", lesion(), LPS)
    return tmp_path / "masks"


def augment(bundle: Bundle, scan: Path, out: Path, *arguments: object) -> int:
    fixed = ["augment", scan, "--bundle", bundle.path, "--steps", 2, "--threads", 1, "--quiet", "--out", out]
    return main([str(a) for a in (*fixed, *arguments)])


def plain(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def read(path: Path) -> NDArray:
    return np.asarray(nib.load(path).dataobj)


def changes(scan: Path, made: Path) -> dict[str, NDArray[np.bool_]]:
    """Voxels of each modality that differ; every other byte but the description must be that of the scan."""
    found = {}
    for modality in MODALITIES:
        own = next(scan.glob(f"*_{modality}.nii.gz"))
        new = next(made.glob(f"*_{modality}.nii.gz"))
        before, after = plain(own), plain(new)
        assert before[:148] == after[:148]
        assert before[228:352] == after[228:352]
        assert len(before) == len(after)
        found[modality] = read(own) != read(new)
    return found


def distance(region: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    return np.asarray(ndimage.distance_transform_edt(~region, spacing))


def test_a_mask_comes_back_in_the_scan_and_nothing_beyond_the_margin_changes(
    tiny_mask_first_bundle: Bundle, scan: Path, mask: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert augment(tiny_mask_first_bundle, scan, out, "--insert", "--masks", mask, "--margin", 10, "--preview") == 0
    made = out / "sbldm-000000"
    own, seg = read(scan / "P1_seg.nii.gz"), read(made / "sbldm-000000_seg.nii.gz")
    assert np.array_equal(seg, np.where(lesion() > 0, lesion(), own))
    far = distance(lesion() > 0, SPACING) >= 10
    for modality, differ in changes(scan, made).items():
        assert not (differ & far).any()
        assert (differ & (lesion() > 0)).sum() > 0.5 * np.count_nonzero(lesion())
        image = read(made / f"sbldm-000000_{modality}.nii.gz")
        assert np.array_equal(image != 0, read(scan / f"P1_{modality}.nii.gz") != 0)
    recorded = json.loads((out / "run.json").read_text())
    assert recorded["source"]["margin_mm"] == 10
    assert "to be protected as that scan is" in recorded["notice"]
    assert "no patient" not in json.dumps(recorded)
    (row,) = csv.DictReader((out / "manifest.csv").open())
    assert (row["id"], row["origin"]) == ("other", "from a real case")
    header = nib.load(made / "sbldm-000000_t1.nii.gz").header
    assert b"from a real case" in bytes(header["descrip"])
    assert stat.S_IMODE((made / "sbldm-000000_t1.nii.gz").stat().st_mode) == 0o600
    assert main(["verify", str(out)]) == 0
    words = recipe(read_description(out), tiny_mask_first_bundle).words
    assert words[:6] == ("sbldm-engine", "augment", "CASE", "--insert", "--masks", "MASKS")


def test_masks_of_other_programs_in_another_order_of_axes_are_the_same_masks(
    tiny_mask_first_bundle: Bundle, scan: Path, mask: Path, tmp_path: Path
) -> None:
    plainly, turned = tmp_path / "plainly", tmp_path / "turned"
    assert augment(tiny_mask_first_bundle, scan, plainly, "--insert", "--masks", mask) == 0
    ras, psr = nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("PSR")
    for path, order in ((scan / "P1_seg.nii.gz", ras), (mask / "other" / "other_seg.nii.gz", psr)):
        image = nib.load(path)
        own = nib.orientations.io_orientation(image.affine)
        other = image.as_reoriented(nib.orientations.ornt_transform(own, order))
        halves = nib.Nifti1Image(np.asarray(other.dataobj) * 2.0, other.affine, dtype=np.float32)
        halves.header.set_slope_inter(0.5, 0.0)
        nib.save(halves, path)
        assert nib.aff2axcodes(nib.load(path).affine) != nib.aff2axcodes(LPS)
        assert set(np.unique(read(path))) <= {0, 1, 2, 4}
    assert augment(tiny_mask_first_bundle, scan, turned, "--insert", "--masks", mask) == 0
    for part in (*MODALITIES, "seg"):
        one, other = (folder / f"sbldm-000000/sbldm-000000_{part}.nii.gz" for folder in (plainly, turned))
        assert np.array_equal(read(one), read(other))
        assert np.array_equal(nib.load(one).affine, nib.load(other).affine)


def test_a_removed_lesion_leaves_an_empty_mask(tiny_mask_first_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert augment(tiny_mask_first_bundle, scan, out, "--remove", "--layout", "bids", "--report", "--preview") == 0
    (subject,) = out.glob("sub-*/anat")
    assert not read(next(subject.glob("*dseg.nii.gz"))).any()
    own = read(scan / "P1_seg.nii.gz") > 0
    changed = read(next(subject.glob("*_T2w.nii.gz"))) != read(scan / "P1_t2.nii.gz")
    assert not (changed & (distance(own, SPACING) >= 12)).any()
    assert (changed & own).sum() > 0.5 * own.sum()
    assert main(["verify", str(out)]) == 0
    told = [path.read_text() for path in (out / "README", out / "T2w.json", out / "report.html")]
    assert not any("shows no patient" in text or "show no patient" in text for text in told)
    assert "from a real case, protect it as that" in told[0]
    assert "scale of the scan" in told[0]


def test_a_healthy_scan_needs_no_mask_and_values_keep_their_type(
    tiny_mask_first_bundle: Bundle, mask: Path, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "healthy", healthy=True, kind="<f4")
    out = tmp_path / "out"
    assert augment(tiny_mask_first_bundle, scan, out, "--insert", "--masks", mask, "--mass-effect") == 0
    made = out / "sbldm-000000"
    assert np.array_equal(read(made / "sbldm-000000_seg.nii.gz"), lesion())
    assert nib.load(made / "sbldm-000000_t2.nii.gz").get_data_dtype() == np.dtype("<f4")
    far = distance(lesion() > 0, SPACING) >= 12
    assert not any((differ & far).any() for differ in changes(scan, made).values())
    assert main(["verify", str(out)]) == 0
    assert augment(tiny_mask_first_bundle, scan, tmp_path / "none", "--remove") == 3


def test_a_series_grows_from_one_noise(tiny_mask_first_bundle: Bundle, scan: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "cond.csv", tmp_path / "out"
    table.write_text("id,x,y,z\na,0.45,0.5,0.5\nb,,,\n")
    asked = ("--insert", "--remove", "--conditions", table, "--volumes", "5,15,30")
    assert augment(tiny_mask_first_bundle, scan, out, *asked) == 0
    rows = list(csv.DictReader((out / "manifest.csv").open()))
    assert [row["id"] for row in rows] == [f"{name}-{ml}ml" for name in "ab" for ml in (5, 15, 30)]
    assert [float(row["measured_volume_ml"]) for row in rows[:3]] == pytest.approx([5, 15, 30], abs=0.3)
    assert len({row["requested_x"] for row in rows[3:]}) == 1
    masks = [read(out / f"sbldm-{k:06d}/sbldm-{k:06d}_seg.nii.gz") for k in range(6)]
    for small, large in ((0, 1), (1, 2), (3, 4), (4, 5)):
        for tissues in ((1, 2, 4), (1, 4), (1,)):
            assert not (np.isin(masks[small], tissues) & ~np.isin(masks[large], tissues)).any()
        assert np.count_nonzero(masks[small]) < np.count_nonzero(masks[large])
    alone = tmp_path / "alone"
    assert augment(tiny_mask_first_bundle, scan, alone, *asked, "--samples", 4) == 0
    assert {name: value for name, value in hashes(alone).items() if name.endswith(".nii.gz")}.items() <= hashes(
        out
    ).items()
    shutil.rmtree(out / "sbldm-000002")
    assert augment(tiny_mask_first_bundle, scan, out, *asked, "--resume", "--verify-files") == 0
    assert main(["verify", str(out)]) == 0


def missing(scan: Path, mask: Path) -> None:
    (scan / "P1_t2.nii.gz").unlink()


def moved(scan: Path, mask: Path) -> None:
    save(mask / "other" / "other_seg.nii.gz", lesion(), LPS + np.array([[0, 0, 0, 9], *[[0] * 4] * 3]))


def smaller(scan: Path, mask: Path) -> None:
    save(mask / "other" / "other_seg.nii.gz", lesion()[:-4], LPS)


def foreign(scan: Path, mask: Path) -> None:
    save(mask / "other" / "other_seg.nii.gz", np.where(lesion() > 0, 7, 0).astype(np.uint8), LPS)


def empty(scan: Path, mask: Path) -> None:
    save(mask / "other" / "other_seg.nii.gz", lesion() * 0, LPS)


def one_label(scan: Path, mask: Path) -> None:
    save(mask / "other" / "other_seg.nii.gz", (lesion() > 0).astype(np.uint8), LPS)


def one_voxel(scan: Path, mask: Path) -> None:
    only = lesion() * 0
    only[tuple(np.argwhere(lesion() > 0)[0])] = 2
    save(mask / "other" / "other_seg.nii.gz", only, LPS)


def outside(scan: Path, mask: Path) -> None:
    save(mask / "other" / "other_seg.nii.gz", np.roll(lesion(), 12, axis=0), LPS)


def at_the_border(scan: Path, mask: Path) -> None:
    touching = lesion()
    touching[0, 20, 15] = 2
    save(mask / "other" / "other_seg.nii.gz", touching, LPS)


def four_dimensional(scan: Path, mask: Path) -> None:
    save(scan / "P1_t2.nii.gz", np.stack([read(scan / "P1_t2.nii.gz")] * 2, axis=-1), LPS)


def dicom(scan: Path, mask: Path) -> None:
    for path in scan.glob("*.nii.gz"):
        path.unlink()
    (scan / "1.dcm").write_bytes(bytes(128) + b"DICM" + bytes(200))


def turned(scan: Path, mask: Path) -> None:
    save(scan / "P1_t2.nii.gz", read(scan / "P1_t2.nii.gz")[::-1], affine())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (missing, "P1: missing modality t2"),
        (moved, "other: other_seg.nii.gz lies 9 mm away"),
        (smaller, "other: other_seg.nii.gz has (44, 48, 32) voxels"),
        (foreign, "other: other_seg.nii.gz: unknown label 7"),
        (empty, "other: other_seg.nii.gz: empty mask"),
        (one_label, "every mask holds label 1 alone"),
        (one_voxel, "other: other_seg.nii.gz: the mask has 0.0"),
        (outside, "of the mask lies outside the scan's brain"),
        (at_the_border, "other: other_seg.nii.gz: the mask touches the border of the scan"),
        (four_dimensional, "P1_t2.nii.gz: 4-dimensional (48 x 48 x 32 x 2), must be one 3-dimensional volume"),
        (dicom, "holds DICOM, which augment (without --insert and --remove)"),
        (turned, "P1_t2.nii.gz has its axes in another order than P1_t1.nii.gz"),
    ],
)
def test_scans_and_masks_that_do_not_fit_are_refused(
    tiny_mask_first_bundle: Bundle, scan: Path, mask: Path, tmp_path: Path, capsys, spoil, told: str
) -> None:
    spoil(scan, mask)
    assert augment(tiny_mask_first_bundle, scan, tmp_path / "out", "--insert", "--masks", mask) == 3
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "rows", "code", "told"),
    [
        (("--insert", "--conditions"), "volume_ml,x,y,z\n20,0.02,0.5,0.5\n", 3, ":2: x, y, z: 0.02, 0.5, 0.5"),
        (("--insert", "--volumes", "5,10", "--conditions"), "volume_ml\n20\n", 3, ":2: volume_ml: 20: empty"),
        (("--remove", "--conditions"), "volume_ml\n20\n", 2, "--conditions: belongs to --insert"),
        (("--insert", "--volumes", "5,5"), None, 2, "--volumes 5,5: must rise"),
        (("--insert", "--volumes", "5,x"), None, 2, "--volumes 5,x: must be numbers"),
        (("--insert", "--count", 1, "--margin", 90), None, 2, "--margin 90: must be from 4 to 40 mm"),
        (("--margin", 9, "--count", 1), None, 2, "belong to --insert or --remove"),
        (("--remove", "--mass-effect"), None, 2, "--mass-effect: belongs to --insert"),
        (("--remove", "--strength", 0.4), None, 2, "--strength"),
        (("--remove", "--grid", "brats"), None, 2, "keep the scan's voxels"),
        (("--insert", "--volumes", "5,9", "--count", 1, "--reject", 0.1), None, 2, "--reject: goes without --volumes"),
        (("--insert",), None, 2, "give --count N, --conditions FILE or both"),
    ],
    ids=["place", "volume", "rows", "equal", "text", "margin", "alone", "effect", "strength", "grid", "reject", "none"],
)
def test_wishes_that_do_not_go_together_are_refused(
    tiny_mask_first_bundle: Bundle, scan: Path, tmp_path: Path, capsys, arguments, rows, code: int, told: str
) -> None:
    if rows is not None:
        (tmp_path / "cond.csv").write_text(rows)
        arguments = (*arguments, tmp_path / "cond.csv")
    assert augment(tiny_mask_first_bundle, scan, tmp_path / "out", *arguments) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_draws_mask_and_image_together_is_refused(
    tiny_bundle: Bundle, scan: Path, tmp_path: Path, capsys
) -> None:
    assert augment(tiny_bundle, scan, tmp_path / "out", "--remove") == 2
    assert "mask-first" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="the real cases are not here")
@pytest.mark.parametrize("name", ["BraTS2021_00006", "BraTS2021_01481"])
def test_real_cases_change_in_no_voxel_beyond_the_margin(
    tiny_mask_first_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    scan, masks = REAL / name, tmp_path / "masks" / name
    given = nib.load(scan / f"{name}_seg.nii.gz")
    own = np.asarray(given.dataobj)
    filled = np.flatnonzero((read(scan / f"{name}_t1.nii.gz") > 0).any(axis=(1, 2)))
    mirrored = np.roll(own[::-1], filled[0] + filled[-1] - 239, axis=0)
    mirrored[read(scan / f"{name}_t1.nii.gz") == 0] = 0
    save(masks / f"{name}_seg.nii.gz", mirrored, given.affine)
    asked = ("--remove", "--insert", "--masks", masks.parent, "--margin", 8)
    assert augment(tiny_mask_first_bundle, scan, tmp_path / "out", *asked) == 0
    found = changes(scan, tmp_path / "out" / "sbldm-000000")
    far = distance((mirrored > 0) | (own > 0), (1.0, 1.0, 1.0)) >= 8
    assert sum(int((differ & far).sum()) for differ in found.values()) == 0
    for region in (mirrored > 0, own > 0):
        assert min(int((differ & region).sum()) for differ in found.values()) > 0.5 * region.sum()
    assert np.array_equal(read(tmp_path / "out/sbldm-000000/sbldm-000000_seg.nii.gz"), mirrored)
