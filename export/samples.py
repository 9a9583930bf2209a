"""Whether a system's samples are brains with a tumour: drawn by the gate, as a user's first ones would be."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.manifest import BundleManifest
from ..engine.output.measure import measure_tumour
from ..engine.sampling.types import RunComponent, Volume
from .parity import sample_volume

SAMPLES = 4
LEAST_SHARE = 0.5  # of the samples that have to be brains with a tumour
SEED = 20260102  # of the first; the next ones follow
LEAST_BRAIN = 0.02  # of the grid
LEAST_LIKENESS = 0.3  # correlation of neighbouring voxels within the brain; 0 of noise, above 0.6 of scans
LARGEST_TUMOUR = 0.5  # of the brain
LEAST_INSIDE = 0.5  # of the tumour, within the brain


def sample_faults(run: RunComponent, manifest: BundleManifest) -> list[str]:
    """What is wrong with `SAMPLES` samples of a bundle to be; empty where at least `LEAST_SHARE` are good."""
    found = [sample_fault(sample_volume(run, manifest, SEED + k), manifest.grid.spacing_mm) for k in range(SAMPLES)]
    reasons = Counter(fault for fault in found if fault is not None)
    good = SAMPLES - reasons.total()
    if good >= LEAST_SHARE * SAMPLES:
        return []
    told = ", ".join(f"{fault} ({count})" for fault, count in reasons.most_common())
    return [
        f"{good} of {SAMPLES} samples are brains with a tumour, at least {LEAST_SHARE:.0%} must be: {told}; "
        "it is not trained enough, or its data or settings are wrong"
    ]


def sample_fault(volume: Volume, spacing_mm: tuple[float, float, float]) -> str | None:
    """Why a sample is no brain with a tumour; None for one that is."""
    if volume.fault is not None:
        return volume.fault
    brain = np.any(volume.image > 0, axis=0)
    if brain.mean() < LEAST_BRAIN:
        return f"less than {LEAST_BRAIN:.0%} of the grid is brain"
    if min(neighbour_likeness(image, brain) for image in volume.image) < LEAST_LIKENESS:
        return "the image is noise"
    tumour = measure_tumour(volume.label, spacing_mm, brain)
    if tumour.volume_ml == 0:
        return "no tumour"
    if np.count_nonzero(volume.label) > LARGEST_TUMOUR * np.count_nonzero(brain):
        return f"more than {LARGEST_TUMOUR:.0%} of the brain is tumour"
    return None if tumour.inside_brain >= LEAST_INSIDE else "the tumour lies outside of the brain"


def neighbour_likeness(image: NDArray[np.integer], brain: NDArray[np.bool_]) -> float:
    """Correlation of each voxel of a modality (x, y, z) with its neighbour along x, both within the brain."""
    both = brain[1:] & brain[:-1]
    left, right = image[:-1][both].astype(np.float64), image[1:][both].astype(np.float64)
    if len(left) < 2 or left.std() == 0 or right.std() == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])
