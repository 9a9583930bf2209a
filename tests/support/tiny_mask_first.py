"""A mask-first system small enough for tests: 32 x 32 x 16 voxels, narrow networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sbldm.benchmarks.full_width import random_checkpoint
from sbldm.engine.bundle.manifest import Grid
from sbldm.train.config import (
    AugmentationConfig,
    CropConfig,
    MaskFirstConfig,
    PlanarConfig,
    RefinerConfig,
    SlabAutoencoderConfig,
    load_preset,
)


def tiny_mask_first(steps: int = 2) -> MaskFirstConfig:
    """The preset `glioma` with reduced widths on a coarse grid of the same field of view."""
    config = load_preset("glioma")
    assert isinstance(config, MaskFirstConfig)
    stages = {
        name: dataclasses.replace(stage, steps=steps, batch_size=2, warmup_steps=1)
        for name, stage in config.stages.items()
    }
    return dataclasses.replace(
        config,
        grid=Grid((32, 32, 16), (6.0, 6.0, 9.6)),
        augmentation=AugmentationConfig(0, 0.0, 0.0),
        autoencoder=SlabAutoencoderConfig(4, 8, (8, 8, 8), (1, 1, 1), (1, 1, 1), 8),
        crops=CropConfig((16, 16, 8), 0.5, 0.2, 0.1),
        mask_grid=(16, 16, 16),
        mask_denoiser=PlanarConfig((8, 16), 1, 16, 2),
        denoiser=PlanarConfig((8, 16), 1, 16, 2),
        refiner=RefinerConfig(8, 1, 4),
        stages=stages,
    )


def write_tiny_mask_first(directory: Path, seed: int = 0) -> Path:
    """A training directory of random networks of `tiny_mask_first`."""
    random_checkpoint(directory, tiny_mask_first(), seed)
    return directory
