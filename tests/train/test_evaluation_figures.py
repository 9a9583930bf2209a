"""What evaluation computes, beside independent implementations and by hand: intervals, distributions, structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sbldm.train.evaluation import bootstrap
from sbldm.train.evaluation.distribution import PRDC, compare, distances, polynomial_kernel, prdc, unbiased_mmd
from sbldm.train.evaluation.memorisation import area_under_curve
from sbldm.train.evaluation.report import Table, interval, section
from sbldm.train.evaluation.structure import background, corners, describe, grey_white, mask_change, split
from scipy import stats
from sklearn.metrics import roc_auc_score

SPACING = (1.5, 1.5, 2.4)


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (40, 6)), rng.normal(0.3, 1.2, (30, 6))


def test_kernel_mmd_is_that_of_torchmetrics(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = clouds
    grams = [polynomial_kernel(a, b) for a, b in ((x, x), (y[:40], y[:40]), (x, y))]
    same = min(len(x), len(y))  # theirs takes equal numbers
    expected = kid.poly_mmd(torch.tensor(x[:same]), torch.tensor(y[:same]))
    ours = unbiased_mmd(grams[0][:same, :same], grams[1], grams[2][:same])
    assert ours == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("neighbours", [3, 5])
def test_prdc_is_that_of_its_authors(clouds: tuple[np.ndarray, np.ndarray], neighbours: int) -> None:
    theirs = pytest.importorskip("prdc")
    x, y = clouds
    expected = theirs.compute_prdc(real_features=x, fake_features=y, nearest_k=neighbours)
    within = [distances(side, side) for side in clouds]
    for one in within:
        np.fill_diagonal(one, 0)
    found = prdc(*within, distances(x, y), neighbours)
    assert {name: found[name] for name in PRDC} == pytest.approx({name: float(expected[name]) for name in PRDC})


def test_loss_of_variety_stands_out_from_the_floor() -> None:
    rng = np.random.default_rng(1)
    real, same = rng.normal(0, 1, (60, 4)), rng.normal(0, 1, (50, 4))
    narrow = rng.normal(1, 0.05, (50, 4))
    honest, collapsed = compare(real, same), compare(real, narrow)
    assert honest is not None
    assert collapsed is not None
    assert honest["n"] == 30
    assert honest["mmd"]["synthetic"]["low"] < honest["mmd"]["floor"]["high"]
    assert collapsed["mmd"]["synthetic"]["low"] > collapsed["mmd"]["floor"]["high"]
    assert collapsed["recall"]["synthetic"]["high"] < collapsed["recall"]["floor"]["low"]
    assert compare(real[:7], same) is None


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        found = bootstrap.mean(rng.normal(3, 1, 40))
        held += found["low"] < 3 < found["high"]
    assert 0.88 < held / 200 < 0.99


def test_intervals_agree_with_scipy() -> None:
    values = np.random.default_rng(3).gamma(2, size=50)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=4).confidence_interval
    found = bootstrap.mean(values)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=0.05)
    ratio = bootstrap.ratio(2 * values, values)
    assert ratio["value"] == pytest.approx(2)
    assert ratio["low"] < 1.8 < 2.2 < ratio["high"]  # the sides are resampled apart


def test_cases_without_a_value_are_left_out_and_one_case_has_no_interval() -> None:
    assert bootstrap.mean(np.array([1.0, np.nan, 3.0]))["n"] == 2
    assert bootstrap.mean(np.array([2.0])) == {"value": 2.0, "low": None, "high": None, "n": 1}
    assert bootstrap.mean(np.array([np.nan]))["value"] is None


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (19, 20), (20, 20), (7, 31)])
def test_intervals_of_shares_are_those_of_scipy(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    found = bootstrap.share(hits, n)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_the_attack_curve_has_the_area_that_scikit_learn_says() -> None:
    rng = np.random.default_rng(5)
    members, others = np.round(rng.normal(1, 1, 30), 1), np.round(rng.normal(0, 1, 20), 1)
    expected = roc_auc_score([1] * 30 + [0] * 20, np.concatenate([members, others]))
    assert area_under_curve(members, others) == pytest.approx(expected)


def _head(blur: float = 0.0, modalities: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Stripes of grey and white matter in a ball of fluid; slices (z, modality, x, y) and a small tumour."""
    from scipy import ndimage

    z, x, y = np.meshgrid(np.arange(12) - 5.5, np.arange(48) - 23.5, np.arange(48) - 23.5, indexing="ij")
    far = np.sqrt((2.5 * z) ** 2 + x**2 + y**2)
    ribbon = np.where(np.sin(x) + np.sin(0.9 * y) > 0, 200, 120)
    image = np.where(far < 20, np.where(far < 17, ribbon, 40), 0).astype(np.float32)
    if blur:
        image = np.where(far < 20, ndimage.gaussian_filter(image, (0, blur, blur)), 0)
    label = np.where((np.abs(x - 8) < 3) & (np.abs(y) < 3) & (np.abs(z) < 2), 2, 0).astype(np.uint8)
    return np.repeat(image.astype(np.uint8)[:, None], modalities, axis=1), label


def test_bands_add_up_to_the_image() -> None:
    slices, _ = _head()
    np.testing.assert_allclose(split(slices, SPACING).sum(0), np.moveaxis(slices, 1, 0), atol=1e-3)


def test_blur_takes_fine_structure_and_fine_contrast() -> None:
    sharp, soft = (describe(*_head(blur), SPACING) for blur in (0.0, 1.5))
    assert (soft["fine_structure"] < 0.8 * sharp["fine_structure"]).all()
    assert (soft["grey_white"][:, 0] < 0.8 * sharp["grey_white"][:, 0]).all()
    assert sharp["grey_white"].sum(1) == pytest.approx(80 / 140, rel=0.25)
    assert sharp["corners"] == 0 == sharp["background"]


def test_one_tissue_has_no_contrast() -> None:
    slices = np.where(_head()[0] > 0, 100, 0).astype(np.uint8)
    label = np.zeros(slices[:, 0].shape, np.uint8)
    brain = slices[:, 0] > 0
    assert np.isnan(grey_white(split(slices, SPACING), slices, label, brain, 0)).all()
    found = describe(slices, label, SPACING)
    assert np.isnan(found["mask_change"])
    assert np.isnan(found["tumour_slice_difference"])


def test_the_mask_changes_along_z_as_often_as_counted() -> None:
    label = np.zeros((6, 8, 8), np.uint8)
    label[2:4, 2:6, 2:6] = 2
    assert mask_change(label) == pytest.approx(2 * 16 / (2 * 2 * 4))
    label[2, 2:6, 2:6] = 1
    assert mask_change(label) == pytest.approx(3 * 16 / 16)


def test_light_in_the_corners_and_beside_the_brain_is_counted() -> None:
    slices, _ = _head()
    slices[0, 1, 0, 47] = 51
    slices[11, 0, 24, 0] = 1
    assert corners(slices) == pytest.approx(0.2)
    assert background(slices) == 2
    assert background(np.zeros_like(slices)) == 0


def test_a_section_has_its_tables_and_none_without_rows() -> None:
    text = section("Coverage", [Table(("a", "b"), [("x", "1")], "First"), Table(("c",), [])], "What it is.")
    assert text == "## Coverage\n\nWhat it is.\n\n**First**\n\n| a | b |\n|---|---|\n| x | 1 |"
    assert section("Empty", [Table(("a",), [])], "Text.") == ""
    assert interval({"value": 1.23456, "low": 1.0, "high": 12.34}) == "1.23 (1 to 12.3)"
    assert interval({"value": None, "low": None, "high": None}) == "-"
