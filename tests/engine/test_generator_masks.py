"""Images around masks that are given as arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.generator import Generator


@pytest.fixture(scope="module")
def generator(tiny_mask_first_bundle: Bundle) -> Iterator[Generator]:
    with Generator.load(tiny_mask_first_bundle.path, threads=1, batch_size=2) as generator:
        yield generator


def tumour(first: int) -> NDArray[np.int64]:
    label = np.zeros((32, 32, 16), np.int64)
    label[first : first + 5, 14:20, 5:9] = 2
    label[first + 1 : first + 4, 15:18, 6:8] = 3
    label[first + 2, 15, 6] = 1
    return label


def test_masks_come_back_in_order_with_their_measurements(generator: Generator) -> None:
    masks = [tumour(8), tumour(16)]
    samples = list(generator.generate(3, masks=masks, seed=4, steps=2))
    for sample, mask in zip(samples, (*masks, masks[0]), strict=True):
        assert np.array_equal(sample.label, mask)
        assert sample.requested["volume_ml"] == sample.measured.volume_ml
        assert sample.fault is None
    assert [s.index for s in generator.generate(masks=masks, steps=1)] == [0, 1]
    assert not np.array_equal(samples[0].image, samples[2].image)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (tumour(8).astype(float), "whole numbers"),
        (tumour(8)[:, :, :8], "shape"),
        (tumour(8) * 2, "holds 0 to 6"),
        (tumour(8) - 1, "holds -1 to 2"),
        (tumour(0), "border"),
        (tumour(8) * 0, "empty"),
    ],
)
def test_arrays_that_are_no_masks_are_refused_at_the_call(generator: Generator, mask: NDArray, told: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"masks\[1\]: .*{told}"):
        generator.generate(masks=[tumour(8), mask])


def test_no_mask_at_all_is_refused(generator: Generator) -> None:
    with pytest.raises(InvalidInputError, match="at least one"):
        generator.generate(masks=[])


def test_conditions_beside_masks_move_and_scale_them_in_turn(generator: Generator) -> None:
    rows = [{"volume_ml": 60.0}, {"x": 0.5}, {"z": 0.5}]
    asked = generator.generate(masks=[tumour(8), tumour(16)], conditions=rows, steps=1)
    bigger, moved, raised = [sample.measured for sample in asked]
    assert bigger.volume_ml == pytest.approx(60, abs=0.2)
    assert (moved.x, raised.z) == pytest.approx((0.5, 0.5), abs=0.02)
    with pytest.raises(InvalidInputError, match=r"conditions:2: x, y, z: .* border"):
        generator.generate(masks=[tumour(8)], conditions=[{"x": 0.5}, {"x": 0.01}])


def test_a_bundle_that_draws_its_masks_takes_none(tiny_bundle: Bundle) -> None:
    with Generator.load(tiny_bundle.path, threads=1) as generator, pytest.raises(UsageError, match="mask-first"):
        generator.generate(masks=[tumour(8)])
