"""One phantom, looked at from every side that training relies on."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, label

pytest.importorskip("torch")

from sbldm.engine.anatomy.deformation import flow
from sbldm.engine.errors import IncompleteRunError, UsageError
from sbldm.train.phantom import Phantom, make_phantom, write_cohort
from sbldm.train.phantom.cohort import BRATS_AFFINE, write_case
from sbldm.train.phantom.fields import displace, expand, node_count, node_noise, sample, spline_noise

SEED, CASE = 7, 1  # the second of `phantom_cohort`
REAL = Path("/work/shared/data/brats2021/BraTS2021_00006/BraTS2021_00006_t1.nii.gz")
T1, T1CE, T2, FLAIR = range(4)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(SEED, CASE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, phantom: Phantom) -> Path:
    out = tmp_path_factory.mktemp("cohort")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sbldm.train.phantom.cohort.make_phantom", lambda seed, case, anatomies: phantom)
        write_case(out, SEED, CASE)
    return out / "phantom-00001"


def test_same_arguments_give_the_same_bytes_whatever_count_and_workers_and_others_do_not(
    folder: Path, phantom_cohort: Path
) -> None:
    """Once in this process, once as one of two cases by two processes."""
    other, again = sorted(phantom_cohort.iterdir())
    assert sorted(file.name for file in again.iterdir()) == sorted(file.name for file in folder.iterdir())
    for file in folder.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name
        assert file.read_bytes() != (other / file.name.replace("00001", "00000")).read_bytes(), file.name


def test_arrays(phantom: Phantom) -> None:
    assert phantom.image.shape == (4, 240, 240, 155)
    assert phantom.image.dtype == np.int16
    assert phantom.label.dtype == np.uint8
    assert set(np.unique(phantom.label)) <= {0, 1, 2, 3}
    assert phantom.image.min() == 0


def test_brain_is_the_same_in_every_modality_and_of_human_size(phantom: Phantom) -> None:
    brain = phantom.image > 0
    assert all(np.array_equal(brain[0], other) for other in brain[1:])
    assert 1.1e6 < brain[0].sum() < 2.0e6
    pieces, _ = label(brain[0])
    assert np.bincount(pieces.ravel())[1:].max() > 0.97 * brain[0].sum()


def test_tumour_lies_inside_the_brain_in_pieces_that_are_no_specks(phantom: Phantom) -> None:
    tumour = phantom.label > 0
    assert 500 <= tumour.sum() <= 330_000
    assert (phantom.image[:, tumour] > 0).all()
    pieces, count = label(tumour)
    assert 1 <= count <= 6
    assert np.bincount(pieces.ravel())[1:].min() >= 0.02 * min(tumour.sum(), 3000)


def test_contrast_of_tumour_and_tissue(phantom: Phantom) -> None:
    image, tumour = phantom.image.astype(np.float32), phantom.label > 0
    healthy = (image[0] > 0) & ~binary_dilation(tumour, iterations=4)
    medians = [np.median(modality[healthy]) for modality in image]
    deep = binary_erosion(image[0] > 0, iterations=8) & healthy
    dark_on_t1 = deep & (image[T1] < 0.75 * medians[T1])
    assert np.median(image[T2][dark_on_t1]) > 1.4 * medians[T2]
    assert np.median(image[FLAIR][dark_on_t1]) < 0.8 * medians[FLAIR]
    oedema, enhancing = phantom.label == 2, phantom.label == 3
    assert np.median(image[FLAIR][oedema]) > 1.15 * medians[FLAIR]
    assert np.median(image[T2][oedema]) > 1.15 * medians[T2]
    assert dark_on_t1.sum() > 0.005 * deep.sum()
    assert np.median(image[T2][oedema]) / medians[T2] > 1.3 * np.median(image[T1][oedema]) / medians[T1]
    assert np.median(image[T1CE][enhancing]) > 1.3 * medians[T1CE]


def test_oedema_prefers_white_matter_to_fluid(phantom: Phantom) -> None:
    image = phantom.image.astype(np.float32)
    medians = [np.median(modality[modality > 0]) for modality in image]
    bright = (image[T2] > 1.5 * medians[T2]) & (image[FLAIR] < 0.8 * medians[FLAIR])
    around = binary_dilation(phantom.label > 0, iterations=3) & (phantom.label == 0)
    assert bright[phantom.label == 2].mean() < max(bright[around].mean(), 0.05)


def test_files_follow_brats(folder: Path, phantom: Phantom) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(f"phantom-00001_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "flair", "seg"))
    segmentation = nib.nifti1.load(folder / "phantom-00001_seg.nii.gz")
    image = nib.nifti1.load(folder / "phantom-00001_t1ce.nii.gz")
    for file in (segmentation, image):
        assert file.shape == (240, 240, 155)
        assert np.array_equal(file.affine, BRATS_AFFINE)
        assert nib.orientations.aff2axcodes(file.affine) == ("L", "P", "S")
        assert file.header["descrip"].item().startswith(b"SYNTHETIC sbldm-engine")
    assert image.get_data_dtype() == np.int16
    assert set(np.unique(np.asarray(segmentation.dataobj))) <= {0, 1, 2, 4}
    upright = nib.funcs.as_closest_canonical(image)
    assert np.array_equal(np.asarray(upright.dataobj), phantom.image[T1CE])
    assert np.array_equal(upright.affine, phantom.affine)


@pytest.mark.skipif(not REAL.exists(), reason="no BraTS case here")
def test_affine_is_that_of_a_brats_file(folder: Path) -> None:
    real, ours = nib.nifti1.load(REAL), nib.nifti1.load(folder / "phantom-00001_t1.nii.gz")
    assert np.array_equal(real.affine, ours.affine)
    assert real.shape == ours.shape


def test_gzip_carries_no_clock_and_no_name(folder: Path) -> None:
    header = (folder / "phantom-00001_t1.nii.gz").read_bytes()[:10]
    assert header[3] == 0
    assert header[4:8] == b"\0\0\0\0"


def test_progress_counts_and_directory_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr("sbldm.train.phantom.cohort.write_case", lambda out, seed, case, anatomies: made.append(case))
    seen: list[int] = []
    write_cohort(tmp_path / "new" / "cohort", 3, 0, 1, seen.append)
    assert made == [0, 1, 2]
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("count", "seed", "workers"), [(0, 0, 1), (-3, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_impossible_numbers_are_refused_before_anything_is_made(
    tmp_path: Path, count: int, seed: int, workers: int
) -> None:
    with pytest.raises(UsageError, match="has to be"):
        write_cohort(tmp_path / "out", count, seed, workers)
    assert not (tmp_path / "out").exists()


def test_a_directory_with_files_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match=r"mine\.txt"):
        write_cohort(tmp_path, 1, 0, 1)
    with pytest.raises(UsageError, match="cannot be used as a directory"):
        write_cohort(tmp_path / "mine.txt", 1, 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantom: Phantom) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sbldm.train.phantom.cohort.make_phantom", lambda seed, case, anatomies: phantom)
    monkeypatch.setattr("sbldm.engine.new_files.os.write", full)
    with pytest.raises(IncompleteRunError, match="No space left"):
        write_case(tmp_path, SEED, CASE)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_expand_of_a_constant_is_that_constant_and_of_a_ramp_a_ramp() -> None:
    box = (slice(30, 50), slice(0, 240), slice(100, 155))
    shape = tuple(node_count(size, 5.0) for size in (240, 240, 155))
    assert np.allclose(expand(np.full(shape, 2.5, np.float32), box), 2.5, atol=1e-5)
    ramp = np.broadcast_to(((np.arange(shape[0]) - 1) * 5.0)[:, None, None], shape).astype(np.float32)
    assert np.allclose(expand(ramp, box), np.arange(30, 50)[:, None, None], atol=1e-3)


def test_sample_is_trilinear() -> None:
    x, y, z = np.meshgrid(np.arange(6), np.arange(7), np.arange(8), indexing="ij")
    maps = np.stack([x + 2 * y - z, 3 * z]).astype(np.float32)
    at = np.array([[1.25, 4.5], [2.75, 5.5], [6.5, 0.25]], np.float32)
    assert np.allclose(sample(maps, at), [at[0] + 2 * at[1] - at[2], 3 * at[2]], atol=1e-4)
    outside = np.array([[-3.0], [3.0], [9.0]], np.float32)
    assert np.allclose(sample(maps, outside)[:, 0], maps[:, 0, 3, 7], atol=1e-4)


def test_flow_of_a_smooth_velocity_folds_nothing_and_is_undone_by_its_negative() -> None:
    rng = np.random.default_rng(0)
    velocity = np.stack([4 * node_noise(rng, 40.0) for _ in range(3)])
    there, back = flow(velocity, displace), flow(-velocity, displace)
    gradient = np.stack([np.stack(np.gradient(component, 5.0)) for component in there])
    jacobian = np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3)
    assert np.linalg.det(jacobian).min() > 0
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in there.shape[1:]), indexing="ij"))
    round_trip = back + sample(there, index + back / 5)
    inner = (slice(None), *(slice(5, -5),) * 3)
    assert np.abs(round_trip[inner]).max() < 0.15 * np.abs(there).max()


def test_spline_noise_has_unit_deviation_and_the_width_asked_for() -> None:
    noise = spline_noise(np.random.default_rng(0), (64, 60, 30), (6.0, 6.0, 3.0))
    assert noise.shape == (64, 60, 30)
    assert 0.8 < noise.std() < 1.2
    assert np.abs(np.diff(noise, axis=2)).mean() > 1.5 * np.abs(np.diff(noise, axis=0)).mean()
