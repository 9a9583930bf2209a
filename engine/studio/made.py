"""A made volume as the page gets it: the files of `generate`, and what is told beside them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from isal import igzip
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..bundle.manifest import SEGMENTATION, Grid
from ..output.layouts import make_layout
from ..output.nifti import nifti_bytes
from ..output.preview import Scan, draw_sheet, widest_cuts
from ..report.words import quantities
from ..sample import Sample

_WINDOW_PERCENTILE = 99.7


@dataclass(frozen=True)
class Made:
    """A volume that is kept in memory."""

    key: str
    files: dict[str, bytes]  # by modality, and `seg`: .nii.gz
    facts: dict[str, object]  # what the page shows beside it
    origin: str  # what it was made from, "" for noise alone

    @property
    def bytes(self) -> int:
        """What it takes, about."""
        return sum(map(len, self.files.values()))

    def picture(self, bundle: Bundle) -> bytes:
        """Sections as a PNG, for browsers without WebGL2."""
        arrays = {role: _voxels(data) for role, data in self.files.items()}
        manifest = bundle.manifest
        image = np.stack([arrays[name] for name in manifest.modalities]).astype(np.float32)
        layout = make_layout("brats", manifest.modalities, manifest.labels)
        label = layout.array_labels(arrays[SEGMENTATION])
        scan = Scan(image, label, manifest.grid.spacing_mm)
        sheet = draw_sheet([(str(self.facts["text"]), scan)], layout, self.origin)
        data = io.BytesIO()
        sheet.save(data, "PNG")
        return data.getvalue()


def made_of(key: str, sample: Sample, drawn: tuple[str, ...], seconds: float) -> Made:
    """The files of a sound sample and the figures beside them; FaultySampleError for another one."""
    files = sample.files()
    got, asked = sample.measured.volume_ml, sample.requested.get("volume_ml")
    facts: dict[str, object] = {
        "key": key,
        "number": sample.index,
        "seed": sample.seed,
        "text": f"tumour of {got:.1f} ml" + ("" if asked is None else f", {asked:.1f} requested"),
        "seconds": round(seconds, 2),
        "rows": rows(sample, drawn),
        "measured_ml": float(got),
        **view(sample.image, sample.label, sample.grid, sample.modalities),
    }
    return Made(key, files, facts, sample.origin)


def rows(sample: Sample, drawn: tuple[str, ...]) -> list[dict[str, object]]:
    """Requested and measured of every condition, in the units of the report."""
    found = []
    for kind in quantities(tuple(sample.requested), sample.grid):
        asked = sample.requested[kind.column]
        got = float(sample.measured.vector([kind.column])[0])
        texts = {"wanted": kind.text(asked), "made": kind.text(got), "difference": kind.difference(asked, got)}
        found.append(
            {"column": kind.column, "name": kind.name, "unit": kind.unit, "drawn": kind.column in drawn} | texts
        )
    return found


def view(
    image: NDArray[np.int16], label: NDArray[np.uint8], grid: Grid, modalities: tuple[str, ...]
) -> dict[str, object]:
    """What a viewer begins with: the value shown white of each modality, the middle of the tumour in mm (RAS)."""
    windows = {}
    for name, volume in zip(modalities, image, strict=True):
        foreground = volume[volume > 0]
        windows[name] = float(np.percentile(foreground, _WINDOW_PERCENTILE)) if foreground.size else 1.0
    place = grid.affine @ [*widest_cuts(label), 1]
    return {"windows": windows, "tumour_mm": [round(float(mm), 2) for mm in place[:3]]}


def viewed(image: NDArray[np.int16], label: NDArray[np.uint8], bundle: Bundle) -> dict[str, bytes]:
    """Images (modality, x, y, z), perhaps none, and labels on the model's grid as files for the viewer."""
    manifest = bundle.manifest
    affine, layout = manifest.grid.affine, make_layout("brats", manifest.modalities, manifest.labels)
    files = {name: nifti_bytes(one, affine, "") for name, one in zip(manifest.modalities, image, strict=False)}
    return files | {SEGMENTATION: nifti_bytes(layout.file_labels(label), affine, "")}


def _voxels(data: bytes) -> NDArray[np.int16]:
    return np.asarray(Nifti1Image.from_bytes(igzip.decompress(data)).dataobj)
