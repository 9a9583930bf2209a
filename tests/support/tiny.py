"""Tiny systems: every preset with reduced widths on a 16 x 16 grid, of random weights, exported for real."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sbldm.benchmarks.full_width import random_checkpoint
from sbldm.engine.bundle.manifest import Grid
from sbldm.train.config import SystemConfig, check_config, load_preset


def tiny_system_config(preset: str = "phantom") -> SystemConfig:
    """A preset with reduced widths on the tiny grid; the mosaic gets 16 slices, a square number."""
    config = load_preset(preset)
    depth = 16 if config.aggregator.kind == "mosaic" else 8
    shape = (16, 16, depth)
    spacing = tuple(length / n for length, n in zip((192.0, 192.0, 153.6), shape, strict=True))
    unshuffled = config.vae.unshuffle > 1
    small = dataclasses.replace(
        config,
        grid=Grid(shape, spacing),
        vae=dataclasses.replace(
            config.vae,
            widths=(8, 16) if unshuffled else (8, 16, 16),
            strides=(1, 2) if unshuffled else (1, 2, 2),
            groups=4,
            encoder_blocks=1,
            decoder_blocks=1,
            position_width=16,
            fine_width=8,
        ),
        aggregator=dataclasses.replace(config.aggregator, widths=(8, 16)),
        denoiser=dataclasses.replace(
            config.denoiser, widths=(8, 16), blocks=1, groups=4, time_width=32, condition_width=32
        ),
        refiner=config.refiner and dataclasses.replace(config.refiner, width=16, blocks=1, fine_width=8),
    )
    return check_config(small, f"tiny {preset}")


def write_tiny_checkpoint(directory: Path, preset: str = "phantom", seed: int = 0) -> Path:
    """A training directory of random networks of `tiny_system_config`."""
    random_checkpoint(directory, tiny_system_config(preset), seed)
    return directory
