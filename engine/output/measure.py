"""Measure a tumour mask: the numbers of the condition table, plus what the quality gate looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

from ..blocks import bounding_box
from ..errors import InvalidInputError

_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # pieces are 26-connected
_TISSUES = 3


@dataclass(frozen=True)
class TumourMeasurement:
    """One tumour, measured. An empty mask has zero amounts (volume, surface, box, pieces) and NaN for all the rest."""

    volume_ml: float  # voxels x voxel volume
    surface_cm2: float  # mesh by marching cubes on the physical grid
    sphericity: float  # pi^(1/3) (6 V)^(2/3) / A of the mesh
    x: float  # centre of mass, share of the field of view, to the patient's right
    y: float  # to the front
    z: float  # to the top
    w: float  # bounding box along x, share of the field of view
    h: float
    d: float
    ncr_share: float  # share of the tumour's voxels with label 1
    ed_share: float  # label 2
    et_share: float  # label 3
    pieces: int  # 26-connected components
    largest_piece_share: float  # voxels of the largest piece / voxels
    inside_brain: float  # share of the tumour's voxels inside the brain mask; NaN without one

    def vector(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """The condition columns asked for, in that order: (len(columns),)."""
        return np.array([getattr(self, name) for name in columns], dtype=np.float64)

    def as_row(self, columns: Sequence[str]) -> dict[str, float]:
        """The condition columns asked for, by name."""
        return {name: float(getattr(self, name)) for name in columns}


def measure_tumour(
    label: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    brain: NDArray[np.bool_] | None = None,
    *,
    field_of_view_mm: tuple[float, float, float] | None = None,
) -> TumourMeasurement:
    """Measure the whole tumour (labels 1 to 3 together) of a label volume.

    All voxels count, small components included, as they do in PyRadiomics (shape features of `label > 0`): `pieces` and
    `largest_piece_share` tell how scattered the mask is. Surface and sphericity follow PyRadiomics: mesh of the padded
    mask (marching cubes of Lorensen and Cline 1987) on the physical grid, V by the divergence theorem.

    Args:
        label: (x, y, z) in RAS+ orientation, values 0 to 3.
        spacing_mm: voxel size along x, y, z.
        brain: (x, y, z), True inside the brain.
        field_of_view_mm: what x, y, z, w, h, d are shares of; centred on the array's own field of view, which is the
            default. A tumour that reaches out of it has values below 0 or above 1.

    Raises:
        InvalidInputError: the label is not a volume, holds a value above 3, or the brain has another shape.
    """
    if label.ndim != 3:
        raise InvalidInputError(f"the label has {label.ndim} axes; a volume (x, y, z) is needed")
    if brain is not None and brain.shape != label.shape:
        raise InvalidInputError(f"the brain mask has the shape {brain.shape}, the label {label.shape}; they must match")
    box = bounding_box(label > 0)
    if box[0].start == box[0].stop:
        return _empty()
    cropped = label[box]
    mask = cropped > 0
    counts = np.bincount(cropped.ravel().astype(np.intp))
    if counts.size > _TISSUES + 1:
        raise InvalidInputError(f"the label holds the value {counts.size - 1}; allowed: 0, 1 (NCR), 2 (ED), 3 (ET)")
    tissues = np.zeros(_TISSUES)
    tissues[: counts.size - 1] = counts[1:]
    voxels = int(tissues.sum())
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    extent = np.array(label.shape) * spacing
    view = extent if field_of_view_mm is None else np.asarray(field_of_view_mm, dtype=np.float64)
    start = np.array([s.start for s in box])
    centre_mm = (_centre(mask) + start + 0.5) * spacing - (extent - view) / 2
    centre = centre_mm / view
    sides = np.array(mask.shape) * spacing / view
    surface_mm2, mesh_mm3 = _mesh(mask, spacing_mm)
    components, pieces = ndimage.label(mask, structure=_TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    largest = int(np.bincount(components.ravel())[1:].max())
    return TumourMeasurement(
        volume_ml=float(voxels * spacing.prod() / 1000),
        surface_cm2=surface_mm2 / 100,
        sphericity=float(np.cbrt(np.pi) * np.cbrt(6 * mesh_mm3) ** 2 / surface_mm2),
        **dict(zip("xyz", centre.tolist(), strict=True)),
        **dict(zip("whd", sides.tolist(), strict=True)),
        **dict(zip(("ncr_share", "ed_share", "et_share"), (tissues / voxels).tolist(), strict=True)),
        pieces=int(pieces),
        largest_piece_share=largest / voxels,
        inside_brain=float(brain[box][mask].mean()) if brain is not None else float("nan"),
    )


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean voxel index of the True voxels: (3,)."""
    total = np.count_nonzero(mask)
    centre = np.empty(3)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        centre[axis] = np.arange(mask.shape[axis]) @ np.count_nonzero(mask, axis=others) / total
    return centre


def _mesh(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """Surface in mm2 and enclosed volume in mm3 of the mesh around the True voxels."""
    padded = np.pad(mask, 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(padded, level=0.5, spacing=spacing_mm, method="lorensen")
    corners = vertices.astype(np.float64) - vertices.mean(axis=0)
    a, b, c = (corners[faces[:, k]] for k in range(3))
    volume = abs(np.einsum("ij,ij->", a, np.cross(b, c))) / 6
    return float(mesh_surface_area(vertices, faces)), float(volume)


def _empty() -> TumourMeasurement:
    nan = float("nan")
    return TumourMeasurement(
        volume_ml=0.0, surface_cm2=0.0, sphericity=nan, x=nan, y=nan, z=nan, w=0.0, h=0.0, d=0.0,
        ncr_share=nan, ed_share=nan, et_share=nan, pieces=0, largest_piece_share=nan, inside_brain=nan,
    )  # fmt: skip
