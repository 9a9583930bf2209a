"""Whether a seam shows where `augment --insert` or `--remove` stops changing a scan.

python -m sbldm.benchmarks.seam SCAN RUN [--samples 0,1]

SCAN is the folder of the scan in BraTS names, RUN a run of `augment --insert` or `--remove` that was made from it, in
the layout brats. The gradient of the image across a surface at each whole mm around the lesion, from half the margin to
3 mm beyond it, is compared with that of the untouched scan at the same voxels. A line a modality, and a JSON line with

ratio        mean absolute gradient across the surface at the margin (within half a mm of it), made over scan
most         the largest of these ratios over all surfaces, and at how many mm
ks           Kolmogorov-Smirnov distance of the two distributions of gradients at the margin
changed      voxels that differ; `beyond` of them at the margin or beyond: must be 0
noise        median size of the finest structure (a voxel less the mean of its four neighbours across z) inside what was
             made anew, over that of the untouched tissue at up to 12 mm beyond the margin; `noise_own` the same of the
             scan's own lesion, where it stays: what real lesions have

A hard edge of a fifth of the brain's brightness has ratios of 2 and more.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..engine.errors import InvalidInputError, SbldmError
from ..engine.output.nifti import read_nifti
from ..engine.run.description import InsertDigest, read_description

BEYOND_MM = 3  # the last surface that is looked at
AROUND_MM = 12  # of untouched tissue that noise is compared with

Image = NDArray[np.float32]
Distance = NDArray[np.float64]


@dataclass(frozen=True)
class Seam:
    """The figures of one modality."""

    ratio: float
    most: float
    most_at_mm: float
    ks: float
    changed: int
    beyond: int
    noise: float
    noise_own: float | None


def across(image: Image, distance: Distance, spacing_mm: tuple[float, ...]) -> Image:
    """Absolute gradient (x, y, z) a mm across the surfaces of equal distance."""
    normal = _gradient(distance, spacing_mm)
    length = np.sqrt(np.square(normal).sum(axis=0))
    slope = _gradient(image, spacing_mm)
    return np.abs((slope * normal).sum(axis=0) / np.maximum(length, 1e-6)).astype(np.float32)


def seam_of(
    scan: Image,
    made: Image,
    distance: Distance,
    inside: NDArray[np.bool_],
    spacing_mm: tuple[float, ...],
    margin_mm: float,
    own: NDArray[np.bool_],
) -> Seam:
    """How the gradients of `made` differ from those of `scan` at the margin.

    Args:
        scan, made: (x, y, z).
        distance: mm from the lesion, 0 in it.
        inside: where brain lies on both sides of a voxel.
        spacing_mm: of a voxel.
        margin_mm: where changes must end.
        own: the scan's lesion that stays.
    """
    before, after = across(scan, distance, spacing_mm), across(made, distance, spacing_mm)

    def at(mm: float) -> NDArray[np.bool_]:
        return inside & (np.abs(distance - mm) <= 0.5)

    surfaces = [mm for mm in range(int(margin_mm / 2), int(margin_mm) + BEYOND_MM + 1) if at(mm).any()]
    if not at(margin_mm).any():
        raise InvalidInputError("no voxel of the brain lies at the margin")
    ratios = {mm: float(after[at(mm)].mean() / max(before[at(mm)].mean(), 1e-9)) for mm in surfaces}
    worst = max(ratios, key=lambda mm: ratios[mm])
    here = at(margin_mm)
    differ = scan != made
    around = inside & ~own & (distance >= margin_mm) & (distance < margin_mm + AROUND_MM)
    fine = _fine(scan, around)
    real = _fine(scan, np.asarray(ndimage.binary_erosion(own), bool)) / fine if own.any() else None
    return Seam(
        float(after[here].mean() / max(before[here].mean(), 1e-9)), ratios[worst], float(worst),
        _ks(before[here], after[here]), int(differ.sum()), int((differ & (distance >= margin_mm)).sum()),
        _fine(made, np.asarray(ndimage.binary_erosion(distance == 0), bool)) / fine, real,
    )  # fmt: skip


def run_seams(scan: Path, run_directory: Path, sample: int) -> dict[str, Seam]:
    """The seams of one sample of a run, by modality.

    Raises:
        InvalidInputError: no run of a scan, or files that cannot be read.
    """
    run = read_description(run_directory)
    if not isinstance(run.source, InsertDigest):
        raise InvalidInputError(f"{run_directory}: is no run of augment --insert or --remove")
    layout = run.layout()
    own = {path.name.rsplit("_", 1)[-1].split(".")[0]: path for path in sorted(scan.glob("*.nii*"))}
    if missing := set(layout.modalities) - own.keys():
        raise InvalidInputError(f"{scan}: holds no file of {', '.join(sorted(missing))}")
    before = {name: read_nifti(own[name])[0] for name in layout.modalities}
    made = {name: read_nifti(run_directory / layout.path(sample, name))[0] for name in layout.modalities}
    label, affine = read_nifti(run_directory / layout.path(sample, "seg"))
    given = read_nifti(own["seg"])[0] if "seg" in own else np.zeros_like(label)
    spacing = tuple(float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    region = label != given if run.source.inserts else given > 0
    region |= (given > 0) if run.source.removes else False
    distance = np.asarray(ndimage.distance_transform_edt(~region, spacing))
    brain = np.asarray(ndimage.binary_erosion(np.logical_or.reduce([image != 0 for image in before.values()])), bool)
    own, margin = (given > 0) & ~region, run.source.margin_mm
    return {
        name: seam_of(before[name], made[name], distance, brain, spacing, margin, own) for name in layout.modalities
    }


def _gradient(volume: NDArray[np.floating], spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    slopes = [np.gradient(volume, mm, axis=axis) for axis, mm in enumerate(spacing_mm)]
    return np.stack(slopes).astype(np.float64)


def _fine(image: Image, where: NDArray[np.bool_]) -> float:
    """Median size of what a voxel differs from the mean of its four neighbours across z by."""
    if not where.any():
        return float("nan")
    around = sum(np.roll(image, step, axis) for step in (-1, 1) for axis in (0, 1))
    return float(np.median(np.abs(image - around / np.float32(4))[where]))


def _ks(one: Image, other: Image) -> float:
    """Largest difference of two empirical distribution functions."""
    values = np.sort(np.concatenate([one, other]))
    both = (np.searchsorted(np.sort(part), values, side="right") / part.size for part in (one, other))
    first, second = both
    return float(np.abs(first - second).max())


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", default="0", help="numbers of samples, comma between them")
    arguments = parser.parse_args()
    try:
        found = {int(k): run_seams(arguments.scan, arguments.run, int(k)) for k in arguments.samples.split(",")}
    except SbldmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for sample, seams in found.items():
        for name, seam in seams.items():
            print(f"sample {sample} {name:5s} ratio {seam.ratio:.3f}  most {seam.most:.3f} at {seam.most_at_mm:g} mm  "
                  f"ks {seam.ks:.3f}  changed {seam.changed}, beyond {seam.beyond}  "
                  f"noise {seam.noise:.2f}, own {_shown(seam.noise_own)}")  # fmt: skip
    print(json.dumps({k: {name: asdict(seam) for name, seam in seams.items()} for k, seams in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
