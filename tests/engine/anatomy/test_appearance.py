"""The tissues of drawn brains as scans show them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.anatomy.appearance import (
    FLUID,
    RIM,
    UNEVEN_MM,
    UNEVENNESS,
    WHITE,
    appearance_numbers,
    as_scans_show,
)
from sbldm.engine.anatomy.splines import SPLINE_DEVIATION, basis, expanded, node_count
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr

SPACING = (1.5, 1.5, 2.4)


def blocks() -> NDArray[np.float32]:
    """White matter within grey matter within fluid, in a box."""
    shares = np.zeros((3, 32, 32, 20), np.float32)
    shares[2, 4:28, 4:28, 3:17] = 1
    shares[:, 6:26, 6:26, 5:15] = np.array([0, 1, 0], np.float32)[:, None, None, None]
    shares[:, 9:23, 9:23, 7:13] = np.array([1, 0, 0], np.float32)[:, None, None, None]
    return shares


def normals(**single: float) -> NDArray[np.float32]:
    """Zeros but for the numbers that are named."""
    values = np.zeros(appearance_numbers((32, 32, 20), SPACING), np.float32)
    for name, value in single.items():
        values[("blur", "sharpening", "white", "fluid").index(name)] = value
    return values


def test_shares_stay_shares_of_the_same_brain() -> None:
    shares, numbers = blocks(), np.random.default_rng(0).standard_normal(appearance_numbers((32, 32, 20), SPACING))
    seen = as_scans_show(shares, SPACING, numbers.astype(np.float32))
    brain = shares.any(axis=0)
    assert not seen[:, ~brain].any()
    np.testing.assert_allclose(seen.sum(axis=0)[brain], 1, atol=1e-5)
    assert seen[0, 16, 16, 10] > 0.9
    assert seen[2, 4, 16, 10] > 0.5


@pytest.mark.parametrize(("name", "tissue"), [("white", 0), ("fluid", 2)])
def test_a_tissue_that_weighs_more_takes_from_grey_matter(name: str, tissue: int) -> None:
    little, much = (as_scans_show(blocks(), SPACING, normals(**{name: value})) for value in (-1.0, 1.0))
    assert much[tissue].sum() > 1.02 * little[tissue].sum()
    assert much[1].sum() < little[1].sum()


def test_more_blur_wears_borders_away_and_sharpening_keeps_them() -> None:
    def borders(**single: float) -> float:
        seen = as_scans_show(blocks(), SPACING, normals(**single))
        return float((seen.max(axis=0) < 0.8)[blocks().any(axis=0)].mean())

    assert borders(blur=2.0) > borders(blur=-2.0)
    assert borders(sharpening=2.0) < borders(sharpening=-2.0)


def test_cortex_is_uneven_from_place_to_place() -> None:
    numbers = normals()
    even = as_scans_show(blocks(), SPACING, numbers)
    numbers[4:] = np.random.default_rng(1).standard_normal(len(numbers) - 4)
    uneven = as_scans_show(blocks(), SPACING, numbers)
    mirrored = np.abs(even - even[:, ::-1]).mean()
    assert mirrored < 1e-5
    assert np.abs(uneven - uneven[:, ::-1]).mean() > 10 * max(mirrored, 1e-4)


def test_what_is_filtered_in_the_brains_box_is_what_a_filter_of_the_whole_field_gives() -> None:
    random, spacing = np.random.default_rng(2), (1.5, 1.5, 2.4)
    shares = random.random((3, 40, 44, 30)).astype(np.float32)
    shares[:, :3], shares[:, :, :9], shares[:, :, :, 25:] = 0, 0, 0  # on one side within reach of the edge
    shares /= np.maximum(shares.sum(axis=0), 1e-6)
    normals = random.standard_normal(appearance_numbers(shares.shape[1:], spacing)).astype(np.float32)
    assert as_scans_show(shares, spacing, normals).tobytes() == in_the_whole_field(shares, spacing, normals).tobytes()


def in_the_whole_field(
    shares: NDArray[np.float32], spacing_mm: tuple[float, float, float], normals: NDArray[np.float32]
) -> NDArray[np.float32]:
    shape = shares.shape[1:]
    (blur, sharpening, white, fluid), rest = np.split(normals, [4])
    brain = shares.any(axis=0)
    sigma = [(1.0 + 1.2 * float(ndtr(blur))) / mm for mm in spacing_mm]
    seen = np.stack([gaussian_filter(share, sigma) for share in (*shares, (~brain).astype(np.float32))])
    seen[2] += np.float32(RIM) * seen[3]
    steps = [UNEVEN_MM / mm for mm in spacing_mm]
    nodes = [node_count(n, step) for n, step in zip(shape, steps, strict=True)]
    uneven = expanded(rest.reshape(2, *nodes), [basis(n, step) for n, step in zip(shape, steps, strict=True)])
    uneven *= np.float32(UNEVENNESS / SPLINE_DEVIATION)
    seen[0] *= np.exp(uneven[0] + np.float32(WHITE[0] + WHITE[1] * white))
    seen[2] *= np.exp(uneven[1] + np.float32(FLUID[0] + FLUID[1] * fluid))
    sharp = np.maximum(seen[:3], 0) ** np.float32(2.0 + 2.0 * float(ndtr(sharpening)))
    return np.where(brain, sharp / np.maximum(sharp.sum(axis=0), np.float32(1e-9)), 0).astype(np.float32)
