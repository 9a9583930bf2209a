"""A made volume as the page gets it: the files of the command line, and what is told beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.nifti1 import Nifti1Image
from numpy.typing import ArrayLike, NDArray

from ..bundle.load import Bundle
from ..bundle.manifest import SEGMENTATION
from ..changed_scan import ChangedScan
from ..output.layouts import make_layout
from ..output.nifti import nifti_bytes
from ..output.preview import Scan, draw_sheet, widest_cuts
from ..report.words import quantities
from ..sample import Sample
from ..sampling.sdedit import SourceCase
from ..scans.scan import OpenedScan
from .wish import Wish

_WINDOW_PERCENTILE = 99.7
_MOST_COUNTED = 200_000  # voxels that a window is taken from

CENTRE_MM = (0.0, 0.0, 0.0)
"""Of a sample's field of view."""
Files = dict[str, bytes]  # by modality, and `seg`: .nii.gz


@dataclass(frozen=True)
class Made:
    """A volume that is kept in memory."""

    key: str
    files: Files
    facts: dict[str, object]  # what the page shows beside it
    origin: str  # what it was made from, "" for noise alone
    given: str | None  # id of what it was made from, where a page dropped that

    @property
    def bytes(self) -> int:
        """What it takes, about."""
        return sum(map(len, self.files.values()))

    def picture(self, bundle: Bundle) -> bytes:
        """Sections as a PNG, for browsers without WebGL2."""
        return picture(self.files, str(self.facts["text"]), self.origin, bundle)


def picture(files: Files, text: str, origin: str, bundle: Bundle) -> bytes:
    """Sections of a volume and its mask as a PNG, as radiologists see them."""
    manifest = bundle.manifest
    layout = make_layout("brats", manifest.modalities, manifest.labels)
    read = {role: _turned(data) for role, data in files.items()}
    image = np.stack([np.asarray(read[name].dataobj, np.float32) for name in manifest.modalities])
    mask = read[SEGMENTATION]
    x, y, z = (float(side) for side in mask.header.get_zooms()[:3])
    scan = Scan(image, layout.array_labels(np.asarray(mask.dataobj)), (x, y, z))
    data = io.BytesIO()
    draw_sheet([(text, scan)], layout, origin).save(data, "PNG")
    return data.getvalue()


def made_of(
    key: str, made: Sample | ChangedScan, wish: Wish, drawn: tuple[str, ...], seconds: float, centre_mm: ArrayLike
) -> Made:
    """The files of a sound sample and the figures beside them; FaultySampleError for another one.

    `drawn` names the conditions that the cohort supplied; `centre_mm` as of `view`.
    """
    files = made.files()
    sample = made if isinstance(made, Sample) else made.sample
    got, asked = float(sample.measured.volume_ml), sample.requested.get("volume_ml")
    text = f"tumour of {got:.1f} ml" + ("" if asked is None else f", {asked:.1f} requested")
    facts: dict[str, object] = {
        "key": key, "number": sample.index, "seed": sample.seed, "seconds": round(seconds, 2), "measured_ml": got,
        "text": "its lesion taken out" if wish.start == "remove" else text,
        "rows": [] if wish.start == "remove" else rows(sample, drawn),
    }  # fmt: skip
    if isinstance(made, Sample):
        images = dict(zip(made.modalities, made.image, strict=True))
        facts |= view(images, made.label, made.affine, centre_mm)
    else:
        voxel_ml = abs(float(np.linalg.det(made.affine[:3, :3]))) / 1000
        facts["changed_ml"] = float(np.count_nonzero(made.changed)) * voxel_ml
        facts |= view(made.images, made.changed, made.affine, centre_mm)
    return Made(key, files, facts, sample.origin, wish.given)


def rows(sample: Sample, drawn: tuple[str, ...]) -> list[dict[str, object]]:
    """Requested and measured of every condition, in the units of the report."""
    found = []
    for kind in quantities(tuple(sample.requested), sample.grid):
        asked = sample.requested[kind.column]
        got = float(sample.measured.vector([kind.column])[0])
        found.append({
            "column": kind.column, "name": kind.short or kind.name, "unit": kind.unit, "drawn": kind.column in drawn,
            "wanted": kind.text(asked), "made": kind.text(got), "difference": kind.difference(asked, got),
        })  # fmt: skip
    return found


def view(
    images: Mapping[str, NDArray],
    place: NDArray[np.uint8] | NDArray[np.bool_],
    affine: NDArray[np.float64],
    centre_mm: ArrayLike = CENTRE_MM,
) -> dict[str, object]:
    """What a viewer begins with.

    Args:
        images: (x, y, z) by modality, background 0.
        place: (x, y, z), not 0 where there is something to look at: the tumour, or what was changed.
        affine: voxel index -> RAS mm.
        centre_mm: the middle of the model's field of view, from which places count.

    Returns:
        the value shown white of each modality, the place to look at and the middle of the field of view in mm.
    """
    windows = {}
    for name, volume in images.items():
        foreground = volume[volume > 0]
        foreground = foreground[:: max(1, foreground.size // _MOST_COUNTED)]
        windows[name] = float(np.percentile(foreground, _WINDOW_PERCENTILE)) if foreground.size else 1.0
    seen = affine @ [*widest_cuts(place), 1]
    return {"windows": windows, "place_mm": _millimetres(seen[:3]), "centre_mm": _millimetres(centre_mm)}


def view_of_case(case: SourceCase, bundle: Bundle) -> dict[str, object]:
    """`view` of a case on the model's grid."""
    images = dict(zip(bundle.manifest.modalities, case.image, strict=True))
    return view(images, case.label, bundle.manifest.grid.affine)


def view_of_scan(scan: OpenedScan, bundle: Bundle) -> dict[str, object]:
    """`view` of a scan on its own voxels."""
    images = {name: file.array() for name, file in zip(bundle.manifest.modalities, scan.files, strict=True)}
    return view(images, scan.own.scan.label(), np.array(scan.voxels.affine), scan.voxels.centre_mm)


def file_on_grid(volume: NDArray[np.int16] | None, label: NDArray[np.uint8], bundle: Bundle) -> bytes:
    """A `.nii.gz` of an image (x, y, z) on the model's grid, without one of the label, for the viewer."""
    manifest = bundle.manifest
    layout = make_layout("brats", manifest.modalities, manifest.labels)
    return nifti_bytes(layout.file_labels(label) if volume is None else volume, manifest.grid.affine, "")


def file_of_scan(scan: OpenedScan, role: str, bundle: Bundle) -> bytes:
    """A `.nii.gz` of a scan on its own voxels, for the viewer."""
    manifest = bundle.manifest
    if role == SEGMENTATION:
        layout = make_layout("brats", manifest.modalities, manifest.labels)
        return scan.mask_file.of_labels(layout.file_labels(scan.own.scan.label()), "")
    return scan.files[manifest.modalities.index(role)].compressed("")


def _turned(data: bytes) -> Nifti1Image:
    """A `.nii.gz` with its axes as near to RAS as they come without interpolation."""
    return nib.as_closest_canonical(Nifti1Image.from_bytes(igzip.decompress(data)))


def _millimetres(place: ArrayLike) -> list[float]:
    return [round(float(mm), 2) for mm in np.asarray(place)]
