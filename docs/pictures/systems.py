"""Systems of docs/training.md: `python docs/pictures/systems.py WORK` (extra `train`; WORK of `published_forms`)."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from sbldm.engine.output.nifti import read_nifti

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SYSTEMS = ("isbi2024", "cmig2025", "phantom", "glioma")
MODALITIES = ("flair", "t1")
SHOWN = slice(1, 3)  # of the samples that have a mask
VOXEL = 1.6  # slices are so much thicker than pixels are wide


def main(work: str) -> None:
    """`systems.jpg`: two samples a system, FLAIR with the mask outlined and T1, in three views through the mask."""
    rows = [
        (system, mask)
        for system in SYSTEMS
        for mask in sorted(Path(work, system, "samples").glob("*/*_seg.nii.gz"))[SHOWN]
    ]
    figure, axes = plt.subplots(len(rows), 6, figsize=(15, 2.2 * len(rows)))
    for row, (system, mask) in zip(axes, rows, strict=True):
        label = read_nifti(mask)[0] > 0
        centre = np.argwhere(label).mean(0) if label.any() else np.array(label.shape) / 2
        row[0].set_title(system)
        for place in row:
            place.axis("off")
        for number, modality in enumerate(MODALITIES):
            file = mask.with_name(mask.name.replace("_seg", f"_{modality}"))
            if file.is_file():
                _views(row[3 * number : 3 * number + 3], read_nifti(file)[0], label if number == 0 else None, centre)
    figure.subplots_adjust(0, 0, 1, 0.97, 0.01, 0.08)
    figure.savefig(HERE / "systems.jpg", dpi=60, pil_kwargs={"quality": 85})


def _views(
    places: NDArray[np.object_],
    image: NDArray[np.float32],
    label: NDArray[np.bool_] | None,
    centre: NDArray[np.float64],
) -> None:
    brightest = np.percentile(image[image > 0], 99.5) if (image > 0).any() else 1
    for axis, place in enumerate(places):
        plane = int(centre[axis])
        aspect = 1 if axis == 2 else VOXEL
        place.imshow(image.take(plane, axis).T, cmap="gray", origin="lower", vmin=0, vmax=brightest, aspect=aspect)
        if label is not None and label.take(plane, axis).any():
            place.contour(label.take(plane, axis).T, [0.5], colors="r", linewidths=0.6)


if __name__ == "__main__":
    main(sys.argv[1])
