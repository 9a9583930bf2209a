"""Fixtures that several folders share: a tiny system, its checkpoint and its bundle, exported for real."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.bundle import Bundle, Grid
from sbldm.engine.conditions import sphere_surface_cm2


def plausible_conditions(cases: int, fov_mm: tuple[float, float, float], seed: int = 0) -> NDArray[np.float64]:
    """Rows (cases, 12) of ellipsoidal tumours in the order of `engine.conditions.COLUMNS`."""
    rng = np.random.default_rng(seed)
    semi_axes_mm = rng.uniform(10, 25, (cases, 1)) * rng.uniform(0.8, 1.2, (cases, 3))
    volume_ml = 4 / 3 * np.pi * semi_axes_mm.prod(axis=1) / 1000
    sphericity = rng.uniform(0.75, 0.95, cases)
    surface_cm2 = sphere_surface_cm2(volume_ml) / sphericity
    centre, box = rng.uniform(0.35, 0.65, (cases, 3)), 2 * semi_axes_mm / np.array(fov_mm)
    shares = rng.dirichlet([3, 5, 4], cases)
    return np.column_stack([volume_ml, surface_cm2, sphericity, centre, box, shares])


def tiny_system_config(preset: str = "phantom"):
    """A preset with reduced widths on the tiny grid; the mosaic gets 16 slices, a square number."""
    from sbldm.train.config import check_config, load_preset

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
    from sbldm.engine.cohort import fit
    from sbldm.engine.conditions import fit_columns
    from sbldm.train.latents import condition_names
    from sbldm.train.system import save_random_system

    config = tiny_system_config(preset)
    names = condition_names(config)
    rows = plausible_conditions(64, config.grid.fov_mm)[:, : len(names)]
    cohort = fit(rows, names, config.grid.fov_mm)
    save_random_system(directory, config, fit_columns(rows, names), cohort, seed)
    return directory


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training directory of a tiny phantom system with random weights."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path) -> Bundle:
    """Its bundle, through the real gate: 16x16x8 voxels, four modalities, three tissues. Do not write to it."""
    from sbldm.export.bundle import export_bundle

    return export_bundle(tiny_checkpoint, tiny_checkpoint.parent / "bundle")
