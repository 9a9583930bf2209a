"""What the autoencoder of a mask-first training keeps of scans and of phantoms that it has not seen.

python -m sbldm.benchmarks.autoencoder_quality TRAINING [--data DIR] [--phantoms N] [--seed 2031] [--cases N]

TRAINING is a directory of `train` whose autoencoder is there, finished or not; DIR a cohort as `train --data` takes it.
Phantoms are made on the anatomies that no training sees. A line a case and a set, and a JSON line with the means:

brain_psnr, whole_psnr   dB, of all modalities, range 1
ssim                     three-dimensional, window of 7, mean over modalities
brain_error              share of the brain's voxels that the reconstruction has too much or too little
kept                     a modality: fine structure (the image less its Gaussian of 1.5 pixels) of the reconstruction
                         regressed on the scan's, in the brain without its outermost two voxels; noise counts as lost
slope                    phantoms alone: the same regressed on the phantom without noise, where grey matter meets white
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..engine.errors import InvalidInputError, SbldmError
from ..engine.scans.prepare import LEVELS
from ..engine.scans.resample import GridSampler
from ..train.checkpoint import load_system, load_weights
from ..train.config import MaskFirstConfig
from ..train.data.cohort import Cohort, prepare_cohort
from ..train.evaluation.reconstruction import psnr, ssim
from ..train.mask_first import make_slab_autoencoder
from ..train.phantom import HELD_OUT, PHANTOM_MODALITIES, make_reference, write_cohort
from ..train.slab_volumes import reconstructed

FINE_PIXELS = 1.5  # in plane; the same length along z
OUTER = 2  # voxels of the brain that `kept` leaves out
BORDER_WHITE, MOST_FLUID = (0.1, 0.9), 0.1  # shares in a voxel where grey matter meets white

Image = NDArray[np.float32]  # (modality, x, y, z) in 0..1, background 0
Figures = dict[str, float | list[float]]


@dataclass(frozen=True)
class Truth:
    """A phantom without noise on the grid, in the units of the prepared one, and where grey matter meets white."""

    image: Image
    border: NDArray[np.bool_]


def fine(image: Image, spacing_mm: Sequence[float]) -> Image:
    """What is finer than `FINE_PIXELS`."""
    sigma = (0.0, *(FINE_PIXELS * spacing_mm[0] / mm for mm in spacing_mm))
    return image - np.asarray(ndimage.gaussian_filter(image, sigma), np.float32)


def slopes(made: Image, original: Image, where: NDArray[np.bool_], spacing_mm: Sequence[float]) -> list[float]:
    """Regression (through 0) of the fine structure of `made` on that of `original` over `where`, a modality each."""
    found = []
    for one, other in zip(fine(made, spacing_mm)[:, where], fine(original, spacing_mm)[:, where], strict=True):
        found.append(float(one @ other / (other @ other)))
    return found


def case_figures(scan: Image, made: Image, spacing_mm: Sequence[float], truth: Truth | None = None) -> Figures:
    """The figures of one case."""
    brain, rebuilt = scan.any(axis=0), made.any(axis=0)
    core = np.asarray(ndimage.binary_erosion(brain, iterations=OUTER), bool)
    stacked = [np.moveaxis(2 * image - 1, 3, 0) for image in (scan, made)]  # (z, modality, x, y) in [-1, 1]
    figures: Figures = {
        "brain_psnr": psnr(2 * scan[:, brain], 2 * made[:, brain]),
        "whole_psnr": psnr(2 * scan, 2 * made),
        "ssim": ssim(stacked[0], stacked[1]),
        "brain_error": float(np.count_nonzero(brain != rebuilt) / np.count_nonzero(brain)),
        "kept": slopes(made, scan, core, spacing_mm),
    }
    return figures if truth is None else figures | {"slope": slopes(made, truth.image, truth.border, spacing_mm)}


def truth_of(cohort: Cohort, case: int, seed: int) -> Truth:
    """What phantom `case` of the held-out phantoms of `seed`, prepared as `cohort`, is without noise."""
    reference, grid, entry = make_reference(seed, case, HELD_OUT), cohort.grid, cohort.entries[case]
    sampler = GridSampler(reference.white.shape, reference.affine, grid.shape, grid.spacing_mm)
    parts = [reference.image[PHANTOM_MODALITIES.index(name)] for name in cohort.modalities]
    image = [sampler.image(part) / np.float32(scale) for part, scale in zip(parts, entry.scales, strict=True)]
    white, fluid = sampler.image(reference.white), sampler.image(reference.fluid)
    healthy = cohort.label(case).transpose(1, 2, 0) == 0
    mixed = (white > BORDER_WHITE[0]) & (white < BORDER_WHITE[1]) & (fluid < MOST_FLUID)
    return Truth(np.stack(image), mixed & healthy)


def means(found: Sequence[Figures]) -> Figures:
    """The mean of each figure over the cases."""
    return {name: np.mean([figures[name] for figures in found], axis=0).tolist() for name in found[0]}


def told(figures: Figures) -> str:
    """Figures as one line."""
    parts = []
    for name, value in figures.items():
        values = value if isinstance(value, list) else [value]
        parts.append(f"{name} {' '.join(f'{v:.3f}' for v in values)}")
    return "  ".join(parts)


class Quality:
    """Reconstructs prepared cases by the autoencoder of a training directory, in float32 on the processor."""

    def __init__(self, directory: Path) -> None:
        config = load_system(directory)
        if not isinstance(config, MaskFirstConfig):
            raise InvalidInputError(
                f"{directory}: preset {config.preset} is of slices; `evaluate --reconstruct` judges it"
            )
        self.config, self.autoencoder = config, make_slab_autoencoder(config)
        load_weights(self.autoencoder, directory, "autoencoder")
        self.autoencoder.eval()

    def of_cases(self, name: str, cohort: Cohort, count: int | None, seed: int | None = None) -> Figures:
        """Mean figures of the first `count` cases; of phantoms of a seed, against what they are without noise."""
        slices, found = self.config.autoencoder.slices, []
        for case, called in enumerate(cohort.cases[:count]):
            stored, label = cohort.slices(case), cohort.label(case).transpose(1, 2, 0)
            scan = stored.transpose(1, 2, 3, 0).astype(np.float32) / np.float32(LEVELS)
            made = reconstructed(self.autoencoder, stored, label, slices)
            truth = None if seed is None else truth_of(cohort, case, seed)
            found.append(case_figures(scan, made, cohort.grid.spacing_mm, truth))
            print(f"{name} {called}: {told(found[-1])}", flush=True)
        print(f"{name}, mean of {len(found)}: {told(means(found))}", flush=True)
        return means(found) | {"cases": float(len(found))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path)
    parser.add_argument("--data", type=Path, help="cohort of scans")
    parser.add_argument("--phantoms", type=int, default=0, help="held-out phantoms")
    parser.add_argument("--seed", type=int, default=2031, help="of the phantoms")
    parser.add_argument("--cases", type=int, help="the first so many cases of --data (default: all)")
    given = parser.parse_args(arguments)
    if given.data is None and given.phantoms < 1:
        parser.error("give --data, or --phantoms of at least 1")
    try:
        print(json.dumps(measure(given.training, given.data, given.phantoms, given.seed, given.cases)))
    except SbldmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def measure(training: Path, data: Path | None, phantoms: int, seed: int, cases: int | None) -> dict[str, Figures]:
    """Mean figures of the sets that were asked for: `scans`, `phantoms`."""
    quality, found = Quality(training), {}
    grid, modalities = quality.config.grid, quality.config.modalities
    with tempfile.TemporaryDirectory(prefix="sbldm-quality-") as folder:
        here = Path(folder)
        if data is not None:
            scans = prepare_cohort(data, here / "cache", grid, modalities=modalities)
            found["scans"] = quality.of_cases("scans", scans, cases)
        if phantoms:
            write_cohort(here / "phantoms", phantoms, seed, 1, anatomies=HELD_OUT)
            made = prepare_cohort(here / "phantoms", here / "cache", grid, modalities=modalities)
            found["phantoms"] = quality.of_cases("phantoms", made, None, seed)
    return found


if __name__ == "__main__":
    sys.exit(main())
