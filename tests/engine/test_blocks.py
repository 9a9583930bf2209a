from __future__ import annotations

import numpy as np
from sbldm.engine.blocks import block_means, block_sums
from skimage.measure import block_reduce


def test_blocks_are_those_of_scikit_image_filled_up_with_zeros() -> None:
    volume = np.random.default_rng(0).integers(0, 9, (7, 6, 5)).astype(np.float32)
    sides = (2, 3, 4)
    np.testing.assert_array_equal(block_sums(volume, sides), block_reduce(volume, sides, np.sum))
    np.testing.assert_allclose(block_means(volume, sides), block_reduce(volume, sides, np.mean), rtol=1e-6)
