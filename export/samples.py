"""Whether a system's samples, drawn as a user's first ones, are brains with the tumours that were asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.manifest import INT16_SCALE, BundleManifest
from ..engine.output.measure import TumourMeasurement, measure_tumour
from ..engine.sampling.types import RunComponent, Volume
from ..engine.scans.prepare import LEVELS
from ..train.evaluation import structure
from ..train.evaluation.phantom_segmenter import PhantomSegmenter, misfit
from ..train.evaluation.segmenter import dice
from .parity import sample_request, sample_volume
from .reconstruction import cached_cases

SAMPLES = 4
LEAST_SHARE = 0.5  # of the samples that have to be brains with the tumour that was asked for
SEED = 20260102  # of the first; the next ones follow
LEAST_BRAIN, LARGEST_BRAIN = 0.02, 0.75  # of the grid; scans have 0.24 to 0.32 of the default one
LEAST_LIKENESS = 0.3  # correlation of neighbouring voxels within the brain; 0 of noise, above 0.6 of scans
LEAST_CONTRAST = 0.05  # white less grey matter on T1 where they meet, over the brain's mean; 0.11 to 0.25 of scans
LARGEST_TUMOUR = 0.5  # of the brain
LEAST_INSIDE = 0.5  # of the tumour, within the brain
VOLUME_FACTOR = 2.0  # most, either way, between the tumour's volume and what was asked for
FURTHEST = 0.15  # of the field of view, between the tumour's centre and where it was asked for
KNOWN_DICE = 0.5  # of the whole tumour in training cases, from which on the segmenter that ships may judge samples
LEAST_AGREEMENT = 0.5  # of that Dice, in samples


class Segmenter(Protocol):
    """Finds tumours."""

    def segment(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Image (modality, x, y, z), 0 background, 1..255 -> labels (x, y, z)."""
        ...


@dataclass(frozen=True)
class Judge:
    """A segmenter and how well it does on the system's own training cases."""

    segmenter: Segmenter
    dice: float  # of the whole tumour


class Fault(NamedTuple):
    """Why a sample is no brain with the tumour that was asked for, and what was measured, where a figure tells it."""

    reason: str
    figure: str = ""


def shipped_judge(checkpoint: Path, manifest: BundleManifest) -> Judge | None:
    """The segmenter that ships, held to prepared training cases; None where it does not know their kind.

    Nor may it judge where the directory has no prepared cases any more, or grid or modalities are not those it takes.
    """
    cases = cached_cases(checkpoint, SAMPLES)
    if not cases or misfit(manifest.grid, manifest.modalities) is not None:
        return None
    segmenter, last = PhantomSegmenter(), len(manifest.modalities)
    found = float(
        np.mean(
            [
                whole_tumour_dice(segmenter, case[:, :last].transpose(1, 2, 3, 0), case[:, last].transpose(1, 2, 0))
                for _, case in cases.values()
            ]
        )
    )
    return Judge(segmenter, found) if found >= KNOWN_DICE else None


def sample_faults(run: RunComponent, manifest: BundleManifest, judge: Judge | None = None) -> list[str]:
    """What is wrong with `SAMPLES` samples of a bundle to be, a line each; empty where they are as they should be.

    At least `LEAST_SHARE` of them have to be brains with the tumour that was asked for, and in those `judge` has to
    find the tumours at least `LEAST_AGREEMENT` times as well as in the training cases.
    """
    drawn = [(sample_volume(run, manifest, SEED + k), wanted_tumour(manifest, SEED + k)) for k in range(SAMPLES)]
    found = [sample_fault(volume, manifest, wanted) for volume, wanted in drawn]
    good = [volume for (volume, _), fault in zip(drawn, found, strict=True) if fault is None]
    if len(good) < LEAST_SHARE * SAMPLES:
        return [
            f"{len(good)} of {SAMPLES} samples are brains with the tumour that was asked for, at least "
            f"{LEAST_SHARE:.0%} must be: {_told([fault for fault in found if fault is not None])}; "
            "it is not trained enough, or its data or settings are wrong"
        ]
    if judge is None:
        return []
    agreed = float(np.mean([whole_tumour_dice(judge.segmenter, levels(v.image), v.label) for v in good]))
    if agreed >= LEAST_AGREEMENT * judge.dice:
        return []
    return [
        "image and mask of the samples do not belong together: a segmenter finds the tumour by a Dice of "
        f"{agreed:.2f}, in training cases by {judge.dice:.2f}; at least {LEAST_AGREEMENT:.0%} of that must be"
    ]


def _told(faults: Sequence[Fault]) -> str:
    """Each reason once, the commonest first, with the figure of each sample, or how many there are without figures."""
    figures = defaultdict[str, list[str]](list)
    for reason, figure in faults:
        figures[reason].append(figure)
    common = sorted(figures.items(), key=lambda entry: -len(entry[1]))
    return ", ".join(f"{reason} ({', '.join(f) if all(f) else len(f)})" for reason, f in common)


def wanted_tumour(manifest: BundleManifest, seed: int) -> dict[str, float]:
    """Condition column -> what the gate's sample of this seed is asked for, in its own unit."""
    names = [column.name for column in manifest.condition_columns]
    return dict(zip(names, sample_request(manifest, seed).wanted.tolist(), strict=True))


def sample_fault(volume: Volume, manifest: BundleManifest, wanted: Mapping[str, float]) -> Fault | None:
    """Why a sample is no brain with the wanted tumour; None for one that is."""
    if volume.fault is not None:
        return Fault(volume.fault)
    brain = np.any(volume.image > 0, axis=0)
    if brain.mean() < LEAST_BRAIN:
        return Fault(f"less than {LEAST_BRAIN:.0%} of the grid is brain", f"{brain.mean():.1%}")
    if brain.mean() > LARGEST_BRAIN:
        return Fault(f"more than {LARGEST_BRAIN:.0%} of the grid is brain", f"{brain.mean():.0%}")
    likeness = min(neighbour_likeness(image, brain) for image in volume.image)
    if likeness < LEAST_LIKENESS:
        return Fault(
            f"the image is noise: neighbouring voxels correlate by less than {LEAST_LIKENESS:g}", f"{likeness:.2f}"
        )
    tumour = measure_tumour(volume.label, manifest.grid.spacing_mm, brain)
    if tumour.volume_ml == 0:
        return Fault("no tumour")
    share = np.count_nonzero(volume.label) / np.count_nonzero(brain)
    if share > LARGEST_TUMOUR:
        return Fault(f"more than {LARGEST_TUMOUR:.0%} of the brain is tumour", f"{share:.0%}")
    if tumour.inside_brain < LEAST_INSIDE:
        return Fault(f"less than {LEAST_INSIDE:.0%} of the tumour lies in the brain", f"{tumour.inside_brain:.0%}")
    if "t1" in manifest.modalities and (contrast := tissue_contrast(volume, manifest)) < LEAST_CONTRAST:
        return Fault(
            f"grey and white matter cannot be told apart: they differ by less than {LEAST_CONTRAST:g} of the brain's "
            "mean on T1",
            f"{contrast:.3f}",
        )
    return missed(tumour, wanted)


def missed(tumour: TumourMeasurement, wanted: Mapping[str, float]) -> Fault | None:
    """How far a tumour is from what was asked for, where that is too far."""
    if "volume_ml" in wanted and not 1 / VOLUME_FACTOR <= tumour.volume_ml / wanted["volume_ml"] <= VOLUME_FACTOR:
        return Fault(
            f"the tumour's volume is more than {VOLUME_FACTOR:g} times off what was asked for",
            f"{tumour.volume_ml:.1f} ml for {wanted['volume_ml']:.1f}",
        )
    off = float(np.linalg.norm([getattr(tumour, axis) - wanted[axis] for axis in ("x", "y", "z") if axis in wanted]))
    if off > FURTHEST:
        return Fault(f"the tumour lies more than {FURTHEST:g} of the field from where it was asked for", f"{off:.2f}")
    return None


def tissue_contrast(volume: Volume, manifest: BundleManifest) -> float:
    """White less grey matter beside it on T1, over the brain's mean."""
    slices = np.moveaxis(levels(volume.image), 3, 0)
    label = np.moveaxis(volume.label, 2, 0)
    reference = manifest.modalities.index("t1")
    return float(structure.tissue_contrast(slices, label, manifest.grid.spacing_mm, reference)[reference].sum())


def levels(image: NDArray[np.integer]) -> NDArray[np.uint8]:
    """A sample's image, 0..1000, as prepared cases are stored: 0 background, 1..255."""
    scaled = np.clip(np.rint(image * (LEVELS / INT16_SCALE)), 1, LEVELS)
    return np.where(image > 0, scaled, 0).astype(np.uint8)


def whole_tumour_dice(segmenter: Segmenter, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> float:
    """Dice of the whole tumour that a segmenter finds in an image (modality, x, y, z) with a label (x, y, z)."""
    return dice(segmenter.segment(np.ascontiguousarray(image)), label)["wt"]


def neighbour_likeness(image: NDArray[np.integer], brain: NDArray[np.bool_]) -> float:
    """Correlation of each voxel of a modality (x, y, z) with its neighbour along x, both within the brain."""
    both = brain[1:] & brain[:-1]
    left, right = image[:-1][both].astype(np.float64), image[1:][both].astype(np.float64)
    if len(left) < 2 or left.std() == 0 or right.std() == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])
